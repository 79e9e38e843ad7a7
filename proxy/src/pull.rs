//! The path of a pull: the only module that knows all tiers and their order.
//!
//! The server passes in a parsed and validated request ([`Pull::serve`]) and gets one answer. A tag is resolved to a
//! digest first. For content, a pull asks in this order: may this caller read this repository, does the repository hold
//! the content, and is the content here. If it is not here, the pull joins a fill or begins one. HTTP words (status
//! codes of errors, challenges) are the registry surface's business.

mod adopted;
mod ahead;
mod blob;
mod by_tag;
mod chunk;
mod content;
pub mod explain;
mod fetch;
mod held;
mod index;
mod large;
mod list;
mod manage;
mod manifest;
mod member;
mod open_to;
mod order;
pub mod outage;
mod pace;
mod peer_records;
mod place;
mod revalidated;
mod selection;
mod served;
mod span;
mod stale;
mod starts;
mod tag;
mod warm;
mod wishes;
mod words;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use larder_shared::{
    Digest, OciError, RangeHeader, Reference, RegistryName, Repository, Route, Tag, admin::StepName,
};
use moka::future::Cache;

use self::outage::{LITTLE, Outages};
pub use self::{
    ahead::{Looked, Parts},
    chunk::Chunks,
    index::IndexHints,
    manifest::Manifest,
    member::MemberRequest,
    open_to::OpenTo,
    pace::Pace,
    served::Served,
    span::{From as SpanFrom, NoSpan},
    starts::{BUDGET, Served as ServedImage, Start, Starts},
    warm::Platforms,
    wishes::Wishes,
};
use crate::{
    access::{Access, Place, Verdict, refused_before},
    body::Body,
    cluster::Cluster,
    coalesce::Coalesce,
    config::Config,
    copies::Copies,
    credentials::Credentials,
    events::{self, Events},
    fill::{FillError, Fills},
    identity::{Fingerprint, Identity, Key},
    lists::Lists,
    metrics::{Metrics, Outcome, Tier},
    runtime::Runtime,
    store::Store,
    tags::Tags,
    trace::Trace,
    upstream::{Failure, Upstreams},
};

/// A request, reduced to the facts that a pull needs.
#[derive(Clone, Debug)]
pub struct Request {
    pub route: Route,
    /// HEAD: everything but the body.
    pub head: bool,
    pub range: RangeHeader,
    pub caller: Caller,
    /// A client of this node sent the request, which may start the image. larder's own requests start nothing.
    pub by_client: bool,
}

/// The caller, as the registry surface has identified it.
#[derive(Clone, Debug)]
pub struct Caller {
    pub identity: Identity,
    /// The registry that the client showed this identity for. larder shows the identity to no other registry.
    pub registry: Option<RegistryName>,
    /// The client showed a credential, even if only an anonymous token. Challenging it again would be useless.
    pub presented: bool,
    /// Identifies the request.
    pub trace: Trace,
}

impl Caller {
    pub const fn anonymous(trace: Trace) -> Self {
        Self {
            identity: Identity::anonymous(),
            registry: None,
            presented: false,
            trace,
        }
    }
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
    /// The request itself is wrong.
    #[error(transparent)]
    Request(#[from] OciError),
    /// The operator does not allow this registry.
    #[error("pulling from {0} is not allowed here")]
    NotAllowed(RegistryName),
    /// No requested range lies within the blob; holds the blob's size.
    #[error("the range lies outside the {0} bytes")]
    Range(u64),
    /// The client asked for a list of referrers, which this registry does not provide.
    #[error("{0} does not list referrers: look for the tag that stands for them")]
    NoReferrers(RegistryName),
    /// The manifest is larger than larder keeps. It is passed on instead, so no client sees this error.
    #[error(
        "the manifest has more than {} bytes",
        larder_shared::media::MAX_MANIFEST
    )]
    TooLarge,
    /// The caller has not shown a right to this repository. `presented`: it showed a credential.
    #[error("{registry} does not let this caller read {repository}")]
    Unauthorized {
        registry: RegistryName,
        repository: Repository,
        presented: bool,
    },
    #[error(transparent)]
    Upstream(#[from] Failure),
    #[error(transparent)]
    Fill(#[from] FillError),
}

/// Manifests that are being fetched, by repository, reference and caller.
type Fetches =
    Coalesce<(RegistryName, Repository, Reference, Fingerprint), Result<Arc<Manifest>, PullError>>;

/// The last of the node's own identities that was used for each repository.
pub type Shared = Cache<(RegistryName, Repository), Identity>;

/// The tiers, and the parts that decide between them.
#[derive(Debug)]
pub struct Pull {
    pub config: Arc<ArcSwap<Config>>,
    pub store: Arc<Store>,
    pub metrics: Arc<Metrics>,
    pub upstreams: Arc<Upstreams>,
    pub access: Arc<Access>,
    /// The node's own credentials, and the key of all fingerprints.
    pub credentials: Arc<Credentials>,
    pub key: Arc<Key>,
    pub tags: Tags,
    pub fills: Arc<Fills>,
    pub cluster: Arc<Cluster>,
    pub copies: Arc<Copies>,
    /// The lists of tags that registries gave.
    pub lists: Arc<Lists>,
    /// Blobs that are being hashed again.
    pub checks: Coalesce<Digest, bool>,
    pub fetches: Fetches,
    /// Blobs that clients ask for in chunks.
    pub chunks: Chunks,
    /// The node's identity that last opened a repository which the operator shares, without its secret.
    pub shared: Shared,
    /// Questions that upstream left unanswered a moment ago.
    pub outages: Outages,
    /// Images that were just served and that the runtime also holds.
    pub wishes: Wishes,
    /// Images that clients have asked for lately.
    pub served: Served,
    /// What is known of other members' indexes.
    pub index_hints: IndexHints,
    /// Images that are about to start.
    pub starts: Starts,
    pub runtime: Arc<Runtime>,
    /// Publishes the steps of requests to listeners.
    pub events: Events,
}

impl Pull {
    /// Answers a request.
    pub async fn serve(&self, request: Request) -> Result<Pulled, PullError> {
        let address = match &request.route {
            Route::Ping => {
                let ok = Pulled::of_bytes(StatusCode::OK, "application/json", "{}", request.head);
                return Ok(ok);
            }
            Route::Manifest(address, _)
            | Route::Blob(address, _)
            | Route::Tags(address, _)
            | Route::Referrers(address, ..) => address,
        };
        let mut place = self.place(address, &request.caller).await?;
        let attempt = self.outages.begin(&place, &request.route);
        // Less patience with upstream gives other members their turn sooner. Without members it would only do harm.
        place.patience = attempt.patience().filter(|_| self.cluster.is_there());
        self.metrics
            .access
            .known(self.access.verdict(&place).into());
        let mut answered = self.answer(&place, &request).await;
        // Other members may know the answer that upstream cannot give now.
        if let Err(error) = &answered
            && self.is_outage(&place, error)
            && self.cluster.is_there()
            && Box::pin(self.hear(&place, tag_of(&request.route))).await
        {
            let place = place.hurried(LITTLE);
            answered = Box::pin(self.answer(&place, &request)).await;
        }
        // A HEAD needs no bytes, so the registry's last answer is enough.
        if let Err(error) = &answered
            && request.head
            && self.is_outage(&place, error)
            && let Some(tag) = tag_of(&request.route)
            && let Some(said) = self.last_said(&place, tag, error)
        {
            answered = Ok(said);
        }
        attempt.ended(match &answered {
            Ok(pulled) => pulled.outcome == Outcome::Stale,
            Err(error) => self.is_outage(&place, error),
        });
        self.tell(&place, &request.route, &answered);
        self.wish(&place, &request.route, &answered);
        self.note_served(&request.route, &answered);
        events::step(StepName::Access, || {
            words::seen(&place, self.access.verdict(&place))
        });
        answered.map_err(|error| judge(error, &place, request.caller.presented))
    }

    async fn answer(&self, place: &Place, request: &Request) -> Result<Pulled, PullError> {
        let head = request.head;
        match &request.route {
            Route::Ping => Err(PullError::Range(0)),
            Route::Manifest(_, reference) => self.manifest_by(place, reference, head).await,
            Route::Blob(_, digest) if head => self.blob_head(place, digest).await,
            Route::Blob(_, digest) => {
                let pulled = self.blob(place, digest, &request.range).await?;
                if request.by_client {
                    self.about_to_start(place, digest).await;
                }
                Ok(pulled)
            }
            Route::Tags(address, query) => self.tag_list(place, address, query, head).await,
            Route::Referrers(address, digest, query) => {
                self.referrers(place, address, digest, query, head).await
            }
        }
    }

    /// Whether the caller's right to `subject` is already proven. A refusal of a moment ago is returned as the error.
    fn proven(&self, place: &Place, subject: &Reference) -> Result<bool, PullError> {
        match self.access.verdict_on(place, Some(subject)) {
            Verdict::Allowed => Ok(true),
            Verdict::Ask { .. } => Ok(false),
            Verdict::Refused => Err(refused_before(place).into()),
        }
    }

    /// Whether an error is an outage, as far as this caller and this repository are concerned.
    fn is_outage(&self, place: &Place, error: &PullError) -> bool {
        match error {
            PullError::Upstream(failure) | PullError::Fill(FillError::Upstream(failure)) => {
                self.access.is_outage(place, failure)
            }
            _ => false,
        }
    }
}

fn tag_of(route: &Route) -> Option<&Tag> {
    match route {
        Route::Manifest(_, Reference::Tag(tag)) => Some(tag),
        _ => None,
    }
}

/// Translates a failure for this caller. A refusal asks for a credential. So do two other failures: an outage of a
/// registry that is known to want one, and a limit on anonymous requests, as the caller's secret may have its own quota
/// (promises P15, P17).
fn judge(error: PullError, place: &Place, presented: bool) -> PullError {
    let (PullError::Upstream(failure) | PullError::Fill(FillError::Upstream(failure))) = &error
    else {
        return error;
    };
    let anonymous = place.identity.is_anonymous();
    let unauthorized = match failure {
        Failure::Refused(_) => true,
        Failure::Limited { .. } => anonymous && !presented,
        Failure::Unreachable { .. } => {
            let known = anonymous && place.record.refused_since().is_some();
            !presented && (known || place.identity.is_lost())
        }
        _ => false,
    };
    if !unauthorized {
        return error;
    }
    PullError::Unauthorized {
        registry: place.registry.clone(),
        repository: place.repository.clone(),
        presented,
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

/// Sets a header whose value came from a registry or is a number. A value that HTTP does not allow is left out.
fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// `Docker-Content-Digest`
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
