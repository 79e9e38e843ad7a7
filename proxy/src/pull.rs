//! The path of a pull: the only module that knows all tiers and their order.
//!
//! A request arrives read and checked ([`Pull::serve`]), and one answer goes back. For content: may this caller read
//! this repository, and does the repository hold it; is it here; if not, join the fill or fetch it. What a tag points to
//! is settled first. HTTP words (status codes of errors, challenges) are the registry surface's business.

mod blob;
mod explain;
mod list;
mod manifest;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use larder_shared::{
    Digest, OciError, RangeHeader, Reference, RegistryName, Repository, Route,
    route::{Address, Registries},
};

use crate::{
    access::Access,
    body::Body,
    coalesce::Coalesce,
    config::Config,
    fill::{FillError, Fills},
    metrics::{Outcome, Tier},
    store::Store,
    tags::Tags,
    upstream::{Failure, Upstreams},
};

/// A request, as far as a pull is concerned.
#[derive(Debug)]
pub struct Request {
    pub route: Route,
    /// HEAD: everything but the body.
    pub head: bool,
    pub range: RangeHeader,
}

/// The answer to a request that can be answered.
#[derive(Debug)]
pub struct Pulled {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Body,
    pub tier: Tier,
    pub outcome: Outcome,
}

/// Why a request cannot be answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PullError {
    /// The request's own fault.
    #[error(transparent)]
    Request(#[from] OciError),
    /// The operator does not let this registry be used.
    #[error("pulling from {0} is not allowed here")]
    NotAllowed(RegistryName),
    /// No range of it can be satisfied; the blob's size.
    #[error("the range lies outside the {0} bytes")]
    Range(u64),
    #[error(transparent)]
    Upstream(#[from] Failure),
    #[error(transparent)]
    Fill(#[from] FillError),
}

/// The tiers and what decides over them.
#[derive(Debug)]
pub struct Pull {
    pub config: Arc<ArcSwap<Config>>,
    pub store: Arc<Store>,
    pub upstreams: Arc<Upstreams>,
    pub access: Access,
    pub tags: Tags,
    pub fills: Arc<Fills>,
    /// Blobs that are being hashed again.
    pub checks: Coalesce<Digest, bool>,
    pub fetches: Coalesce<(RegistryName, Repository, Reference), Result<Arc<Manifest>, PullError>>,
}

/// A manifest in memory.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Bytes,
}

/// A repository by its name, with what is known of it.
#[derive(Clone, Debug)]
pub struct Place {
    pub registry: RegistryName,
    pub repository: Repository,
    pub record: Arc<crate::store::RepositoryRecord>,
}

impl Pull {
    /// Answers a request.
    pub async fn serve(&self, request: Request) -> Result<Pulled, PullError> {
        match &request.route {
            Route::Ping => Ok(Pulled::of_bytes(
                StatusCode::OK,
                "application/json",
                "{}",
                request.head,
            )),
            Route::Manifest(address, reference) => {
                let place = self.place(address)?;
                match reference {
                    Reference::Tag(tag) => self.manifest_by_tag(&place, tag, request.head).await,
                    Reference::Digest(digest) => {
                        self.manifest_by_digest(&place, digest, request.head).await
                    }
                }
            }
            Route::Blob(address, digest) => {
                let place = self.place(address)?;
                if request.head {
                    self.blob_head(&place, digest).await
                } else {
                    self.blob(&place, digest, &request.range).await
                }
            }
            Route::Tags(address, query) => {
                self.tag_list(&self.place(address)?, query, request.head)
                    .await
            }
            Route::Referrers(address, digest, query) => {
                self.referrers(&self.place(address)?, digest, query, request.head)
                    .await
            }
        }
    }

    /// The repository that is meant, if its registry may be used.
    pub fn place(&self, address: &Address) -> Result<Place, PullError> {
        let config = self.config.load();
        let (registry, repository) = address.resolve(&Names(&config))?;
        self.known_place(registry, repository)
    }

    /// As [`Self::place`], for names that are known already.
    pub fn known_place(
        &self,
        registry: RegistryName,
        repository: Repository,
    ) -> Result<Place, PullError> {
        let config = self.config.load();
        let named = |patterns: &[crate::config::Pattern]| {
            patterns.iter().any(|p| p.matches(registry.as_str()))
        };
        if named(&config.registry.deny) || !named(&config.registry.allow) {
            return Err(PullError::NotAllowed(registry));
        }
        let record = self.store.repositories().get(&registry, &repository);
        Ok(Place {
            registry,
            repository,
            record,
        })
    }
}

/// The configuration's names for registries.
struct Names<'a>(&'a Config);

impl Registries for Names<'_> {
    fn alias(&self, component: &str) -> Option<RegistryName> {
        self.0.alias(component)?.parse().ok()
    }

    fn default_upstream(&self) -> RegistryName {
        // The configuration has checked the name; Docker Hub is what an empty one means.
        self.0
            .registry
            .default_upstream
            .parse()
            .or_else(|_| larder_shared::name::DOCKER_HUB.parse())
            .expect("docker.io is a registry name")
    }
}

impl Pulled {
    /// A whole answer from memory.
    fn of_bytes(status: StatusCode, media_type: &str, bytes: impl Into<Bytes>, head: bool) -> Self {
        let bytes = bytes.into();
        let mut headers = HeaderMap::new();
        put(&mut headers, header::CONTENT_TYPE, media_type);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        Self {
            status,
            headers,
            body: if head {
                Body::empty()
            } else {
                Body::bytes(bytes)
            },
            tier: Tier::None,
            outcome: Outcome::Hit,
        }
    }

    fn from(mut self, tier: Tier, outcome: Outcome) -> Self {
        self.tier = tier;
        self.outcome = outcome;
        self
    }
}

/// Sets a header whose value came from a registry or from numbers; one that HTTP does not allow is left out.
fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// `Docker-Content-Digest`
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
