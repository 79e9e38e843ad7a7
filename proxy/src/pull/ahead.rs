//! The parts of a pull that a warm set uses, with the node's own right: resolving a tag, listing the content of an
//! image, and bringing all of it.

use std::{collections::HashMap, sync::Arc};

use larder_shared::{Digest, RangeHeader, Route, Tag, TagRecord, name::ImageName, route::Address};

use super::{Caller, Pace, Platforms, Pull, PullError, Pulled, Request, peer_records::heard};
use crate::{metrics::Outcome, store::Counts, trace::Trace, upstream::Failure};

/// All content of an image, for the platforms that are wanted.
#[derive(Clone, Debug)]
pub struct Parts {
    pub digest: Digest,
    pub media_type: String,
    /// Manifests first, then blobs, each with its size in bytes.
    pub all: Arc<[(Digest, u64)]>,
}

/// The digest that a tag stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Looked {
    Now(Digest),
    /// The registry could not be asked. The digest was known before.
    Before(Digest),
    /// The registry has no such tag.
    Missing,
}

impl Pull {
    /// Lists the content of an image, after its manifests were brought here.
    pub async fn parts_of(&self, image: &ImageName, wanted: &Platforms) -> Result<Parts, String> {
        let caller = Caller::anonymous(Trace::none());
        let (_, root, family) = self.family_of(image, wanted, caller).await?;
        let all = family.manifests.iter().chain(&family.blobs).copied();
        Ok(Parts {
            digest: root.digest,
            media_type: root.media_type,
            all: all.collect(),
        })
    }

    /// Whether this node has credentials of its own for an image.
    pub async fn has_own_credentials(&self, image: &ImageName) -> bool {
        let found = self.own_credentials(image).await;
        found.is_ok_and(|found| !found.is_empty())
    }

    /// Brings an image into the node tier.
    pub async fn bring(
        &self,
        image: &ImageName,
        wanted: &Platforms,
        counts: &Counts,
        pace: &Pace,
    ) -> Result<(), String> {
        let caller = Caller::anonymous(Trace::none());
        self.bring_for(image, wanted, caller, counts, pace).await
    }

    /// As [`Self::bring`], on behalf of a caller.
    pub async fn bring_for(
        &self,
        image: &ImageName,
        wanted: &Platforms,
        caller: Caller,
        counts: &Counts,
        pace: &Pace,
    ) -> Result<(), String> {
        if let Some(why) = self.store.trouble() {
            return Err(format!("the node tier cannot be written: {why}"));
        }
        let (caller, _, family) = self.family_of(image, wanted, caller).await?;
        self.bring_family(image, &caller, &family, counts, pace)
            .await
    }

    /// Asks the registry which digest an image's tag stands for.
    pub async fn look_up(&self, image: &ImageName) -> Result<Looked, String> {
        let address = Address::of(&image.registry, &image.repository);
        let route = Route::Manifest(address, image.reference.clone());
        let pulled = match self.serve_self(image, route, true).await {
            Ok(pulled) => pulled,
            Err(PullError::Upstream(Failure::NotFound(_))) => return Ok(Looked::Missing),
            Err(error) => return Err(error.to_string()),
        };
        let digest = pulled.headers.get(super::DIGEST);
        let digest = digest.and_then(|value| value.to_str().ok()?.parse().ok());
        match digest {
            Some(digest) if pulled.outcome == Outcome::Stale => Ok(Looked::Before(digest)),
            Some(digest) => Ok(Looked::Now(digest)),
            None => Err(format!("{} gives no digest for it", image.registry)),
        }
    }

    /// Answers larder's own request: as an anonymous client first, then with the node's own credentials.
    async fn serve_self(
        &self,
        image: &ImageName,
        route: Route,
        head: bool,
    ) -> Result<Pulled, PullError> {
        let request = |caller: Caller| Request {
            route: route.clone(),
            head,
            range: RangeHeader::Whole,
            caller,
            by_client: false,
        };
        let anonymous = Caller::anonymous(Trace::none());
        let refused = match self.serve(request(anonymous)).await {
            Err(error @ PullError::Unauthorized { .. }) => error,
            answered => return answered,
        };
        let own = self.own_callers(image, &Trace::none()).await;
        for caller in own.unwrap_or_default() {
            match self.serve(request(caller)).await {
                Err(PullError::Unauthorized { .. }) => {}
                answered => return answered,
            }
        }
        Err(refused)
    }

    /// Records the tags of an image that is here, so that they resolve in an outage. Such a record counts as much as
    /// another member's word. A list's word on a tag counts from the time at which the registry was asked for the list
    /// (Unix seconds).
    pub async fn hear_listed(
        &self,
        image: &ImageName,
        tags: &[Tag],
        parts: &Parts,
        listed: &HashMap<Tag, u64>,
    ) {
        let record = self.store.record(&image.registry, &image.repository).await;
        let size = parts.all.iter().find(|(digest, _)| *digest == parts.digest);
        for tag in tags {
            let listed_at = listed.get(tag).copied();
            let told = TagRecord {
                digest: parts.digest,
                size: size.map_or(0, |(_, size)| *size),
                media_type: parts.media_type.clone(),
                checked: listed_at.unwrap_or(0),
            };
            // The registry's own word on the tag is never replaced by this.
            if record
                .tag(tag)
                .is_none_or(|known| known.checked == 0 && known.digest != parts.digest)
            {
                record.set_tag(tag.clone(), heard(told.clone()));
            }
            if listed_at.is_some() {
                record.list_tag(tag.clone(), told);
            }
        }
    }
}
