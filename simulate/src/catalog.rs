//! The images: their blobs, cut into runs that are numbered across all images, and which node pulls which image.

use larder_shared::Digest;

use crate::scenario::Scenario;

/// One layer.
#[derive(Debug)]
pub struct Blob {
    pub digest: Digest,
    /// Its first run, counted over all images.
    pub first: usize,
    pub runs: usize,
}

/// All blobs of all images.
#[derive(Debug)]
pub struct Catalog {
    pub blobs: Vec<Blob>,
    /// The size of each run.
    pub sizes: Vec<u32>,
    /// The blob of each run.
    pub blob_of: Vec<u32>,
    layers: usize,
}

impl Catalog {
    pub fn new(scenario: &Scenario) -> Self {
        let mut catalog = Self {
            blobs: Vec::new(),
            sizes: Vec::new(),
            blob_of: Vec::new(),
            layers: scenario.layers.len(),
        };
        for image in 0..scenario.images {
            for (layer, &size) in scenario.layers.iter().enumerate() {
                let name = format!("{}/{image}/{layer}", scenario.seed);
                let first = catalog.sizes.len();
                let runs = size.div_ceil(scenario.run);
                for run in 0..runs {
                    let rest = size - run * scenario.run;
                    catalog.sizes.push(rest.min(scenario.run) as u32);
                    catalog.blob_of.push(catalog.blobs.len() as u32);
                }
                catalog.blobs.push(Blob {
                    digest: Digest::sha256(name.as_bytes()),
                    first,
                    runs: runs as usize,
                });
            }
        }
        catalog
    }

    /// The blobs of an image.
    pub fn blobs_of(&self, image: usize) -> std::ops::Range<usize> {
        image * self.layers..(image + 1) * self.layers
    }

    /// The number of a run within its blob.
    pub fn run_in_blob(&self, run: usize) -> u64 {
        (run - self.blobs[self.blob_of[run] as usize].first) as u64
    }
}

/// An image, drawn by popularity: the probability of rank k is in proportion to 1 / k^zipf.
pub fn pick_image(images: usize, zipf: f64, random: &mut fastrand::Rng) -> usize {
    let weight = |image: usize| ((image + 1) as f64).powf(-zipf);
    let mut at = random.f64() * (0..images).map(weight).sum::<f64>();
    for image in 0..images {
        at -= weight(image);
        if at < 0.0 {
            return image;
        }
    }
    images - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::small;

    #[test]
    fn runs_cover_the_layers() {
        let mut scenario = small(1);
        scenario.layers = vec![10 << 20, 1, 4 << 20];
        scenario.images = 2;
        let catalog = Catalog::new(&scenario);
        assert_eq!(catalog.sizes.len(), 2 * 5);
        let bytes: u64 = catalog.sizes.iter().map(|size| u64::from(*size)).sum();
        assert_eq!(bytes, 2 * scenario.image());
        assert_eq!(catalog.run_in_blob(4), 0);
        assert_eq!(catalog.run_in_blob(7), 2);
        assert_eq!(catalog.blobs_of(1), 3..6);
    }

    #[test]
    fn popular_images_are_asked_for_more_often() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut count = [0; 3];
        for _ in 0..11_000 {
            count[pick_image(3, 1.0, &mut random)] += 1;
        }
        for (count, expected) in count.into_iter().zip([6000, 3000, 2000]) {
            assert!((expected * 9 / 10..expected * 11 / 10).contains(&count));
        }
    }
}
