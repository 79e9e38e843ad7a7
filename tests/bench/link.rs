//! Downloads of an image of four layers by digest: over a link, and warm through larder.
//!
//! One connection follows another, and the upstream limits each to 125 MB/s, so that the client sees a link of 1
//! Gbit/s. The factor says more about the link than about larder. It is printed because people ask what a cache saves
//! them.

use std::time::Instant;

use anyhow::Result;

use crate::bench::{Bench, Pace};
use crate::client::Sink;
use crate::report::{Bound, Section};
use crate::server::Server;
use crate::stats::{paired, spread};

pub fn measure(bench: &Bench) -> Result<Section> {
    let sizes = [8, 4, 2, 1].map(|eighths| bench.plan.blob * eighths / 20);
    let mut layers = Vec::new();
    for (number, size) in sizes.into_iter().enumerate() {
        let seed = 10 + number as u64;
        layers.push((bench.origin.put_synthetic("image", seed, size)?, size));
    }
    let (manifest, config) = bench.origin.put_manifest("image", &layers)?;
    let mut paths = vec![format!("/v2/image/manifests/{manifest}")];
    let blobs = layers.iter().map(|(digest, _)| digest);
    paths.extend(
        std::iter::once(&config)
            .chain(blobs)
            .map(|digest| format!("/v2/image/blobs/{digest}")),
    );

    let direct = bench.direct(Pace::Link);
    let larder = bench.larder(Pace::Link, "info")?;
    let cold = pull(&larder, &paths)?;
    larder.settle(&bench.runtime)?;
    pull(&larder, &paths)?;
    let (mut straight, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..bench.plan.rounds {
        straight.push(pull(&direct, &paths)?);
        warm.push(pull(&larder, &paths)?);
    }
    let factor = paired(&straight, &warm);
    let total = sizes.iter().sum::<u64>() / 1_000_000;
    let mut section = Section::new(
        format!("An image of 4 layers, {total} MB, by digest over 1 Gbit/s"),
        &["download", "seconds", "times faster"],
    );
    section
        .about("One copying client, one download after another: manifest, configuration, layers.");
    section.row(["direct".to_owned(), spread(&straight, 2), "1.00".to_owned()]);
    let once = paired(&straight[..1], &[cold]);
    section.row([
        "cold through larder, once".to_owned(),
        format!("{cold:.2}"),
        format!("{once:.2}"),
    ]);
    section.row([
        "warm through larder".to_owned(),
        spread(&warm, 2),
        format!("{factor:.2}"),
    ]);
    section.verdict(
        "image by digest, warm beside direct over 1 Gbit/s (B21): times faster",
        Bound::AtLeast(4.24),
        factor,
        "x",
    );
    Ok(section)
}

fn pull(server: &Server, paths: &[String]) -> Result<f64> {
    let start = Instant::now();
    for path in paths {
        server.get(path, Sink::Copy).run()?;
    }
    Ok(start.elapsed().as_secs_f64())
}
