//! What an operator does to the node tier: pin, evict, verify.

use std::sync::Arc;

use larder_shared::{
    Digest, Reference,
    admin::{Acted, Verified},
    name::ImageName,
};

use super::Pull;
use crate::metrics::Reason;

impl Pull {
    /// Pins an image or lets it go: its manifests and blobs, as far as they are here.
    pub async fn pin(self: &Arc<Self>, image: &ImageName, pinned: bool) -> Result<Acted, String> {
        let digest = self.known_digest(image)?;
        let store = Arc::clone(&self.store);
        let pin = move || {
            let family = store.family(&digest);
            store.pin(&family, pinned).map(|()| acted(&store, &family))
        };
        let done = tokio::task::spawn_blocking(pin).await;
        done.map_err(|panic| panic.to_string())?
            .map_err(|error| format!("the pins cannot be written: {error}"))
    }

    /// Takes an image out of the tier, pinned or not. What another image of the tier also names goes too, and is fetched again when
    /// it is asked for.
    pub async fn evict(self: &Arc<Self>, image: &ImageName) -> Result<Acted, String> {
        let digest = self.known_digest(image)?;
        let (store, metrics) = (Arc::clone(&self.store), Arc::clone(&self.metrics));
        let evict = move || {
            let family = store.family(&digest);
            let done = acted(&store, &family);
            let _ = store.pin(&family, false);
            for digest in &family {
                store.remove(digest);
            }
            metrics.store.evicted(Reason::Asked, done.blobs, done.bytes);
            done
        };
        tokio::task::spawn_blocking(evict)
            .await
            .map_err(|panic| panic.to_string())
    }

    /// Takes everything of one registry out of the tier, other registries' content untouched (requirement C15).
    pub async fn evict_upstream(self: &Arc<Self>, name: &str) -> Result<Acted, String> {
        let registry = name
            .parse()
            .map_err(|error: larder_shared::name::NameError| format!("{name}: {error}"))?;
        let (store, metrics) = (Arc::clone(&self.store), Arc::clone(&self.metrics));
        let evict = move || {
            let gone = store.repositories().forget(&registry);
            let held: Vec<Digest> = gone
                .into_iter()
                .filter(|digest| !store.repositories().held_anywhere(digest))
                .collect();
            let done = acted(&store, &held);
            let _ = store.pin(&held, false);
            for digest in &held {
                store.remove(digest);
            }
            metrics.store.evicted(Reason::Asked, done.blobs, done.bytes);
            done
        };
        tokio::task::spawn_blocking(evict)
            .await
            .map_err(|panic| panic.to_string())
    }

    /// Hashes every blob again. What has rotted is taken out.
    pub async fn verify(self: &Arc<Self>) -> Result<Verified, String> {
        let store = Arc::clone(&self.store);
        let verify = move || {
            let mut verified = Verified::default();
            for digest in store.digests() {
                let Some(blob) = store.peek(&digest) else {
                    continue;
                };
                verified.blobs += 1;
                verified.bytes += blob.size();
                if !store.check(&blob) {
                    verified.rotten.push(digest);
                }
            }
            verified
        };
        tokio::task::spawn_blocking(verify)
            .await
            .map_err(|panic| panic.to_string())
    }

    /// The digest that is meant, as far as this node knows: nothing is asked.
    fn known_digest(&self, image: &ImageName) -> Result<Digest, String> {
        match &image.reference {
            Reference::Digest(digest) => Ok(*digest),
            Reference::Tag(tag) => self
                .store
                .repositories()
                .get(&image.registry, &image.repository)
                .tag(tag)
                .map(|record| record.digest)
                .ok_or_else(|| {
                    format!("{image} is not known here; pull it first, or name it by digest")
                }),
        }
    }
}

fn acted(store: &crate::store::Store, digests: &[Digest]) -> Acted {
    let sizes = digests
        .iter()
        .filter_map(|digest| Some(store.peek(digest)?.size()));
    let sizes: Vec<u64> = sizes.collect();
    Acted {
        blobs: sizes.len() as u64,
        bytes: sizes.iter().sum(),
    }
}
