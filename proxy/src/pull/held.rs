//! Blobs of the node tier that a caller may have, and its known right to them (promise P16).

use std::{sync::Arc, time::Duration};

use larder_shared::{Digest, Reference};
use tokio::time::timeout;

use super::{Pull, PullError};
use crate::{
    access::Place,
    fill::Right,
    store::{Blob, Link, Store},
    upstream::Subject,
};

/// A suspicious blob of up to this size is hashed before it is served. A larger one is hashed while it is served.
const CHECKED_FIRST: u64 = 1 << 30;

/// The client waits for that hash this long at most, and so gets its headers in time. Hashing on a slow disk goes on.
const CHECKED_WITHIN: Duration = Duration::from_secs(2);

/// The node tier's answer for a caller that asks for a blob.
#[derive(Debug)]
pub(super) enum Held {
    Blob(Arc<Blob>),
    /// The caller gets nothing from here; its right, as far as it is known now.
    Nothing(Right),
}

impl Pull {
    /// Whether the partial that an earlier fill left of the blob came through this repository.
    pub(super) async fn left_here_by(&self, place: &Place, digest: &Digest) -> bool {
        if !self.store.has_partial(digest) {
            return false;
        }
        let digest = *digest;
        let (registry, repository) = (place.registry.clone(), place.repository.clone());
        let came = move |store: &Store| store.partial_came_through(&digest, &registry, &repository);
        let what = format!("the checkpoint of {digest}");
        self.store.ask(what, came).await.unwrap_or(false)
    }

    /// The known right of this caller to this digest.
    pub(super) fn right(&self, place: &Place, digest: &Digest) -> Result<Right, PullError> {
        let proven = self.proven(place, &Reference::Digest(*digest))?;
        Ok(match (proven, place.record.link(digest)) {
            (true, Some(_)) => Right::Digest,
            (true, None) => Right::Repository,
            (false, _) => Right::None,
        })
    }

    /// The blob from the node tier, if this repository holds it and this caller may read it. `right`: the caller's
    /// right, as known before the call.
    pub(super) async fn held_blob(
        &self,
        place: &Place,
        digest: &Digest,
        right: Right,
    ) -> Result<Held, PullError> {
        if let Some(link) = place.record.link(digest) {
            let right = if right == Right::None {
                self.access.prove(place, Subject::Blob(*digest)).await?;
                Right::Digest
            } else {
                right
            };
            return Ok(match self.store.find(digest, Some(link.size)).await {
                Some(blob) => self.if_sound(blob, right).await,
                None => Held::Nothing(right),
            });
        }
        let Some(blob) = self.store.find(digest, None).await else {
            return Ok(Held::Nothing(right));
        };
        if !self.came_from_registry(place, digest).await {
            // The runtime pulled these bytes without larder. Only the origin's own bytes can prove that it holds them.
            let adopted = blob.is_adopted() || self.store.adopts(digest);
            if !(adopted && self.origin_holds(place, &blob).await?) {
                return Ok(Held::Nothing(right));
            }
        } else if right != Right::Digest {
            // The right may have been proven a moment ago, while the blob was still arriving.
            let size = Some(blob.size());
            self.prove_claim(place, digest, size).await?;
        }
        place.record.add_link(Link {
            digest: *digest,
            size: blob.size(),
            media_type: None,
        });
        if self.store.note_proven(digest) {
            self.fills.announce(*digest);
        }
        Ok(self.if_sound(blob, Right::Digest).await)
    }

    async fn if_sound(&self, blob: Arc<Blob>, right: Right) -> Held {
        let sound = self.sound(blob).await;
        sound.map_or(Held::Nothing(right), Held::Blob)
    }

    /// Whether the bytes here, which this repository is not proven to hold, came from its registry. Only then does the
    /// registry's word count, since another registry may claim any digest (promise P16).
    pub(super) async fn came_from_registry(&self, place: &Place, digest: &Digest) -> bool {
        self.store.is_held_in(&place.registry, digest).await
    }

    /// Detects rot. If a blob was served whole a short time ago and is asked for again, its client may have found a
    /// wrong digest: clients report nothing and just ask again. The blob is hashed before it is served; a very large
    /// blob, or one on a slow disk, while it is served.
    async fn sound(&self, blob: Arc<Blob>) -> Option<Arc<Blob>> {
        if !self.store.is_suspicious(&blob) {
            // Another request may be hashing the blob now.
            let small = blob.size() <= CHECKED_FIRST;
            let found = if small {
                let checking = self.checks.join(blob.digest());
                timeout(CHECKED_WITHIN, checking).await.unwrap_or(None)
            } else {
                None
            };
            return found.unwrap_or(true).then_some(blob);
        }
        let (store, suspect) = (Arc::clone(&self.store), Arc::clone(&blob));
        let check = async move {
            tokio::task::spawn_blocking(move || store.check(&suspect))
                .await
                .unwrap_or(true)
        };
        let key = *blob.digest();
        if blob.size() > CHECKED_FIRST {
            let checks = self.checks.clone();
            tokio::spawn(async move { checks.run(key, check).await });
            return Some(blob);
        }
        let checking = self.checks.run(key, check);
        let sound = timeout(CHECKED_WITHIN, checking).await.unwrap_or(None);
        sound.unwrap_or(true).then_some(blob)
    }

    /// The origin must serve this very digest to this caller, now.
    pub(super) async fn prove_claim(
        &self,
        place: &Place,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<(), PullError> {
        let subject = Subject::Blob(*digest);
        Ok(self.access.prove_claim(place, subject, size).await?)
    }
}
