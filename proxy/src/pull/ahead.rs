//! What a warm set needs of a pull: what a tag stands for, what belongs to an image, and all of it brought, with the node's own
//! right.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Limited};
use larder_shared::{
    Digest, RangeHeader, Reference, RegistryName, Repository, Route, Tag, TagRecord, link,
    name::ImageName,
    route::Address,
    warm::{ListedTag, Listing},
};

use super::{Caller, Pace, Platforms, Pull, PullError, Pulled, Request, peer_records::heard};
use crate::{metrics::Outcome, store::Counts, trace::Trace, upstream::Failure};

/// Everything that belongs to an image, for the platforms that are wanted.
#[derive(Clone, Debug)]
pub struct Parts {
    pub digest: Digest,
    pub media_type: String,
    /// Manifests first, then blobs, with their bytes.
    pub all: Arc<[(Digest, u64)]>,
}

/// What a tag stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Looked {
    Now(Digest),
    /// The registry could not be asked: this was known before.
    Before(Digest),
    /// The registry has no such tag.
    Missing,
}

/// A page of a list may have so many bytes, may take so long, and a list so many pages.
const PAGE: usize = 16 << 20;
const PAGE_WITHIN: Duration = Duration::from_secs(30);
const PAGES: usize = 1000;

impl Pull {
    /// What belongs to an image, after its manifests are here.
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

    /// Brings an image into the node tier.
    pub async fn bring(
        &self,
        image: &ImageName,
        wanted: &Platforms,
        counts: &Counts,
        pace: &Pace,
    ) -> Result<(), String> {
        if let Some(why) = self.store.trouble() {
            return Err(format!("the node tier cannot be written: {why}"));
        }
        let caller = Caller::anonymous(Trace::none());
        let (caller, _, family) = self.family_of(image, wanted, caller).await?;
        self.bring_family(image, &caller, &family, counts, pace)
            .await
    }

    /// Asks the registry what an image's tag stands for.
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

    /// The tags of a repository: all pages of `tags/list`.
    pub async fn tags_of(
        &self,
        registry: &RegistryName,
        repository: &Repository,
    ) -> Result<Listing, String> {
        let image = ImageName {
            registry: registry.clone(),
            repository: repository.clone(),
            // Whose credentials open it does not depend on the tag.
            reference: Reference::Tag("latest".parse::<Tag>().map_err(|e| e.to_string())?),
        };
        let mut listing = Listing::default();
        let mut query = "n=1000".to_owned();
        let mut asked = std::collections::HashSet::new();
        while asked.insert(query.clone()) && asked.len() <= PAGES {
            let route = Route::Tags(Address::of(registry, repository), query.clone());
            let pulled = match self.serve_self(&image, route, false).await {
                // Some registries take no number.
                Err(PullError::Upstream(failure))
                    if failure.declined().is_some() && !query.is_empty() && asked.len() == 1 =>
                {
                    query = String::new();
                    continue;
                }
                pulled => pulled.map_err(|error| error.to_string())?,
            };
            let next = next_page(&pulled);
            let body = Limited::new(pulled.body, PAGE).collect();
            let body = tokio::time::timeout(PAGE_WITHIN, body).await;
            let body = body.map_err(|_| "the list did not come to its end".to_owned())?;
            let body = body.map_err(|error| format!("the list broke off: {error}"))?;
            let page: TagPage = serde_json::from_slice(&body.to_bytes())
                .map_err(|error| format!("this is no list of tags: {error}"))?;
            let tags = page.tags.unwrap_or_default();
            // What is no tag cannot be pulled.
            let tags = tags.into_iter().filter_map(|tag| tag.parse().ok());
            listing.tags.extend(tags.map(|tag| ListedTag {
                tag,
                digest: None,
                size: None,
                pushed: None,
            }));
            let Some(next) = next else {
                listing.complete = true;
                return Ok(listing);
            };
            query = next;
        }
        Err("the list has no end: its pages lead back to each other".to_owned())
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
        };
        let anonymous = Caller::anonymous(Trace::none());
        let refused = match self.serve(request(anonymous)).await {
            Err(error @ PullError::Unauthorized { .. }) => error,
            answered => return answered,
        };
        for found in self.own_credentials(image).await.unwrap_or_default() {
            let caller = Caller {
                identity: self.key.found(found),
                registry: Some(image.registry.clone()),
                presented: true,
                trace: Trace::none(),
            };
            match self.serve(request(caller)).await {
                Err(PullError::Unauthorized { .. }) => {}
                answered => return answered,
            }
        }
        Err(refused)
    }

    /// Takes down what a registry's list says of tags: worth what another member's word is, so that they resolve in an outage.
    pub async fn hear_listed(&self, image: &ImageName, tags: &[Tag], parts: &Parts) {
        let record = self.store.record(&image.registry, &image.repository).await;
        let size = parts.all.iter().find(|(digest, _)| *digest == parts.digest);
        for tag in tags {
            if record
                .tag(tag)
                .is_none_or(|known| known.digest != parts.digest)
            {
                let told = TagRecord {
                    digest: parts.digest,
                    size: size.map_or(0, |(_, size)| *size),
                    media_type: parts.media_type.clone(),
                    checked: 0,
                };
                record.set_tag(tag.clone(), heard(told));
            }
        }
    }
}

/// A page of `tags/list`.
#[derive(serde::Deserialize)]
struct TagPage {
    tags: Option<Vec<String>>,
}

/// The query of the page after this one.
fn next_page(pulled: &Pulled) -> Option<String> {
    let links = pulled.headers.get_all(http::header::LINK).iter();
    let next = link::next_page(links.filter_map(|value| value.to_str().ok()))?;
    let (_, query) = next.split_once('?')?;
    // Which registry is meant is said beside it.
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    let pairs = pairs.filter(|(key, _)| key != "ns");
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    Some(query.extend_pairs(pairs).finish())
}
