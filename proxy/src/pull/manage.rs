//! An operator's actions on the node tier: pin, evict, verify.

use std::{collections::HashSet, sync::Arc};

use larder_shared::{
    Digest, Reference,
    admin::{Acted, Verified},
    name::ImageName,
};

use super::Pull;
use crate::{
    metrics::Reason,
    store::{Counts, Names, Store, Tenure},
};

impl Pull {
    /// Fails unless this larder has the store: no other larder may change it.
    pub(super) fn owns_the_store(&self) -> Result<(), String> {
        match self.store.tenure() {
            Tenure::Held => Ok(()),
            Tenure::Waiting if let Some(why) = self.store.trouble() => Err(format!(
                "the store {} cannot be used: {why}; fix the disk, larder tries it again by itself",
                self.store.root().display()
            )),
            Tenure::Waiting => Err(format!(
                "another larder has the store {}: ask that one, or wait until it has ended",
                self.store.root().display()
            )),
        }
    }

    /// Pins or unpins an image: its manifests and blobs, as far as they are here. An unpin leaves content pinned that
    /// another pinned image also names.
    pub async fn pin(self: &Arc<Self>, image: &ImageName, pinned: bool) -> Result<Acted, String> {
        self.owns_the_store()?;
        let digest = self.known_digest(image).await?;
        let store = Arc::clone(&self.store);
        let pin = move || {
            let mut family = store.family(&digest);
            if !pinned {
                let pins = store.pins();
                let others = named_by_others(&store, &family, |manifest| pins.contains(manifest));
                family.retain(|digest| !others.contains(digest));
            }
            store.pin(&family, pinned).map(|()| acted(&store, &family))
        };
        let done = tokio::task::spawn_blocking(pin).await;
        done.map_err(|panic| panic.to_string())?
            .map_err(|error| format!("the pins cannot be written: {error}"))
    }

    /// Removes an image from the tier, pinned or not. Content that another image of the tier also names stays.
    pub async fn evict(self: &Arc<Self>, image: &ImageName) -> Result<Acted, String> {
        self.owns_the_store()?;
        let digest = self.known_digest(image).await?;
        let (store, metrics) = (Arc::clone(&self.store), Arc::clone(&self.metrics));
        let evict = move || {
            let mut family = store.family(&digest);
            // Content that stays is unpinned first. Once this image's manifest is gone, no operator could unpin it.
            let pins = store.pins();
            let pinned = named_by_others(&store, &family, |manifest| pins.contains(manifest));
            let unpinned = family.iter().filter(|digest| !pinned.contains(digest));
            let _ = store.pin(&unpinned.copied().collect::<Vec<_>>(), false);
            let others = named_by_others(&store, &family, |_| true);
            family.retain(|digest| !others.contains(digest));
            let done = take_out(&store, &family);
            metrics.store.evicted(Reason::Asked, done.blobs, done.bytes);
            done
        };
        tokio::task::spawn_blocking(evict)
            .await
            .map_err(|panic| panic.to_string())
    }

    /// Removes all content of one registry from the tier, and no other content (requirement C15).
    pub async fn evict_upstream(self: &Arc<Self>, name: &str) -> Result<Acted, String> {
        self.owns_the_store()?;
        let registry = name
            .parse()
            .map_err(|error: larder_shared::name::NameError| format!("{name}: {error}"))?;
        let (store, metrics) = (Arc::clone(&self.store), Arc::clone(&self.metrics));
        let evict = move || {
            let gone: HashSet<Digest> =
                store.repositories().forget(&registry).into_iter().collect();
            let mut held = HashSet::new();
            store.repositories().each(|holding| {
                held.extend(holding.links.into_iter().map(|link| link.digest));
            });
            let gone: Vec<Digest> = gone.difference(&held).copied().collect();
            let done = take_out(&store, &gone);
            metrics.store.evicted(Reason::Asked, done.blobs, done.bytes);
            done
        };
        tokio::task::spawn_blocking(evict)
            .await
            .map_err(|panic| panic.to_string())
    }

    /// Hashes every blob again and removes blobs that have rotted.
    pub async fn verify(self: &Arc<Self>, counts: Arc<Counts>) -> Result<Verified, String> {
        self.owns_the_store()?;
        let store = Arc::clone(&self.store);
        let verify = move || {
            let entries = store.entries();
            let bytes = entries.iter().map(|(_, entry)| entry.size).sum();
            counts.expect(entries.len() as u64, bytes);
            let mut verified = Verified::default();
            for (digest, _) in entries {
                if counts.is_stopped() {
                    break;
                }
                let Some(blob) = store.peek(&digest) else {
                    continue;
                };
                verified.blobs += 1;
                verified.bytes += blob.size();
                if !store.check_counted(&blob, &counts) {
                    verified.rotten.push(digest);
                }
                counts.add(1, 0);
            }
            verified
        };
        tokio::task::spawn_blocking(verify)
            .await
            .map_err(|panic| panic.to_string())
    }

    /// The digest that the operator means, as far as this node knows. No registry is asked.
    async fn known_digest(&self, image: &ImageName) -> Result<Digest, String> {
        match &image.reference {
            Reference::Digest(digest) => Ok(*digest),
            Reference::Tag(tag) => self
                .store
                .record(&image.registry, &image.repository)
                .await
                .tag(tag)
                .map(|record| record.digest)
                .ok_or_else(|| {
                    format!("{image} is not known here; pull it first, or name it by digest")
                }),
        }
    }
}

/// The content that other manifests of the tier name, directly or not: manifests outside of this family for which
/// `count` holds (blocking). No time of last use changes.
fn named_by_others(
    store: &Store,
    family: &[Digest],
    count: impl Fn(&Digest) -> bool,
) -> HashSet<Digest> {
    let family: HashSet<&Digest> = family.iter().collect();
    let mut pending = Vec::new();
    store.repositories().each(|holding| {
        let manifests = holding
            .links
            .iter()
            .filter(|link| link.media_type.is_some());
        let others = manifests.map(|link| link.digest);
        pending.extend(
            others.filter(|digest| store.has(digest) && !family.contains(digest) && count(digest)),
        );
    });
    let mut named = HashSet::new();
    while let Some(digest) = pending.pop() {
        if named.insert(digest)
            && let Some(bytes) = store.read_unseen(&digest)
        {
            pending.extend(Names::of(&bytes).all().map(|named| named.digest));
        }
    }
    named
}

fn take_out(store: &Store, digests: &[Digest]) -> Acted {
    let done = acted(store, digests);
    let _ = store.pin(digests, false);
    for digest in digests {
        store.remove(digest);
    }
    done
}

fn acted(store: &Store, digests: &[Digest]) -> Acted {
    let sizes = digests
        .iter()
        .filter_map(|digest| Some(store.peek(digest)?.size()));
    let sizes: Vec<u64> = sizes.collect();
    Acted {
        blobs: sizes.len() as u64,
        bytes: sizes.iter().sum(),
    }
}
