//! Manifests by tag: resolves the tag, then serves its manifest, or a stale one in its place.

use std::sync::Arc;

use larder_shared::{Reference, Tag, admin::StepName};

use super::{
    Manifest, Pull, PullError, Pulled,
    manifest::headers_only,
    peer_records::tell_arrived,
    tag::{Cached, Known, Resolved},
    words,
};
use crate::{
    access::Place,
    events,
    metrics::{Outcome, Revalidated, Tier},
    tags::{After, Descriptor, Word},
    upstream::Failure,
};

impl Pull {
    /// The manifest that a tag points to, or the newest manifest that the tag is known to have pointed to.
    pub(super) async fn manifest_by_tag(
        &self,
        place: &Place,
        tag: &Tag,
        head: bool,
    ) -> Result<Pulled, PullError> {
        let resolved = self.resolve_tag(place, tag, head).await?;
        events::step(StepName::Tag, || words::concluded(&resolved));
        let Resolved {
            answer,
            proves,
            endpoint,
            cached,
        } = resolved;
        let last = self.upstreams.count(&place.registry);
        let by_mirror = endpoint.is_some_and(|endpoint| endpoint + 1 < last);
        let concluded = match answer {
            Known::Fresh(pulled) => {
                self.metrics.access.revalidated(Revalidated::Fresh);
                return Ok(*pulled);
            }
            Known::Concluded(concluded) => concluded,
        };
        let fetched = match concluded {
            After::Serve(descriptor) => {
                if let Some(pulled) = self.tagged_here(place, tag, &descriptor, head).await {
                    return Ok(pulled);
                }
                // A mirror's headers do not prove the manifest's type, nor that the mirror or the origin has the
                // manifest.
                if head && proves && !by_mirror {
                    let said = descriptor.checked_now();
                    place.record.say_tag(tag.clone(), said);
                    return Ok(headers_only(&descriptor).from(Tier::Upstream, Outcome::Miss));
                }
                let fetched =
                    Box::pin(self.fetch(place, Reference::Digest(descriptor.digest))).await;
                match fetched {
                    Err(error) if by_mirror && is_missing(&error) => {
                        return Box::pin(self.tag_of_origin(place, tag, cached, head)).await;
                    }
                    fetched => fetched.map_err(dangling),
                }
            }
            After::Fetch => {
                let fetched = Box::pin(self.fetch(place, Reference::Tag(tag.clone()))).await;
                self.count_fetched(cached.record.as_ref(), &fetched);
                fetched
            }
            // Boxed, since this is rare and every request's future would reserve room for it.
            otherwise => {
                return Box::pin(self.without(place, tag, otherwise, head)).await;
            }
        };
        self.fetched_or_without(place, tag, fetched, &cached, head)
            .await
    }

    /// The manifest that the tag points to at the origin. The mirror named one that cannot be had, so its answer is
    /// dropped.
    async fn tag_of_origin(
        &self,
        place: &Place,
        tag: &Tag,
        cached: Cached,
        head: bool,
    ) -> Result<Pulled, PullError> {
        let reference = match self.resolve_tag_at_origin(place, tag, &cached).await {
            After::Serve(descriptor) => {
                if let Some(pulled) = self.tagged_here(place, tag, &descriptor, head).await {
                    return Ok(pulled);
                }
                Reference::Digest(descriptor.digest)
            }
            After::Fetch => Reference::Tag(tag.clone()),
            otherwise => {
                return self.without(place, tag, otherwise, head).await;
            }
        };
        let fetched = Box::pin(self.fetch(place, reference)).await;
        self.fetched_or_without(place, tag, fetched.map_err(dangling), &cached, head)
            .await
    }

    /// The manifest that a tag points to now, if it is here. If not, the tag record is written when the manifest
    /// arrives, since an outage may come before that.
    async fn tagged_here(
        &self,
        place: &Place,
        tag: &Tag,
        descriptor: &Descriptor,
        head: bool,
    ) -> Option<Pulled> {
        let digest = &descriptor.digest;
        if let Some(pulled) = self.stored_manifest(place, digest, head).await {
            place.record.set_tag(tag.clone(), descriptor.checked_now());
            return Some(pulled.from(Tier::Node, Outcome::Hit));
        }
        let announced = descriptor.checked_now();
        place.record.announce_tag(tag.clone(), announced);
        // Another request may have brought the manifest before the tag was announced.
        let pulled = self.stored_manifest(place, digest, head).await?;
        tell_arrived(&self.cluster, place, place.record.arrived(digest));
        Some(pulled.from(Tier::Node, Outcome::Hit))
    }

    /// Fetches the manifest. If the registry resolved the tag but the manifest cannot be had, this counts as no answer.
    async fn fetched_or_without(
        &self,
        place: &Place,
        tag: &Tag,
        fetched: Result<Arc<Manifest>, PullError>,
        cached: &Cached,
        head: bool,
    ) -> Result<Pulled, PullError> {
        match fetched {
            Ok(manifest) => Ok(manifest.pulled(head, Outcome::Miss)),
            Err(PullError::Upstream(failure)) => {
                let otherwise = cached.conclude(Word::Failed(failure));
                Box::pin(self.without(place, tag, otherwise, head)).await
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether neither the mirror nor the origin has the manifest that the mirror named. Some registries refuse requests
/// for content that they do not have.
fn is_missing(error: &PullError) -> bool {
    matches!(
        error,
        PullError::Upstream(Failure::NotFound(_) | Failure::Refused(_))
    )
}

/// A tag whose manifest is missing is not a deleted tag, so a 404 must not forget the tag.
fn dangling(error: PullError) -> PullError {
    match error {
        PullError::Upstream(Failure::NotFound(origin)) => PullError::Upstream(Failure::Invalid {
            at: origin,
            why: "the digest of a manifest that it does not have".to_owned(),
        }),
        error => error,
    }
}
