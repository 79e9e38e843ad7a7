//! The path of a pull: the only module that knows all tiers and their order.
//!
//! A request arrives read and checked ([`Pull::serve`]), and one answer goes back. For content: may this caller read
//! this repository, and does the repository hold it; is it here; if not, join the fill or fetch it. What a tag points to
//! is settled first. HTTP words (status codes of errors, challenges) are the registry surface's business.

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

/// A request, as far as a pull is concerned.
#[derive(Clone, Debug)]
pub struct Request {
    pub route: Route,
    /// HEAD: everything but the body.
    pub head: bool,
    pub range: RangeHeader,
    pub caller: Caller,
    /// A client of this node sent it, which may start what it asks for. larder's own requests start nothing.
    pub by_client: bool,
}

/// The caller, as the door has found out.
#[derive(Clone, Debug)]
pub struct Caller {
    pub identity: Identity,
    /// The registry that the identity was shown for: it is shown to no other.
    pub registry: Option<RegistryName>,
    /// Something was shown, be it an anonymous token: there is no use in asking for it again.
    pub presented: bool,
    /// Which request it is.
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
    /// The request's own fault.
    #[error(transparent)]
    Request(#[from] OciError),
    /// The operator does not let this registry be used.
    #[error("pulling from {0} is not allowed here")]
    NotAllowed(RegistryName),
    /// No range of it can be satisfied; the blob's size.
    #[error("the range lies outside the {0} bytes")]
    Range(u64),
    /// A list of referrers was asked for, which the registry does not give.
    #[error("{0} does not list referrers: look for the tag that stands for them")]
    NoReferrers(RegistryName),
    /// The manifest is larger than what is kept. It is passed on, so no client sees this.
    #[error(
        "the manifest has more than {} bytes",
        larder_shared::media::MAX_MANIFEST
    )]
    TooLarge,
    /// The caller has not shown a right to this repository; whether it has shown anything.
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

/// Manifests that are being fetched, by repository, reference and credential.
type Fetches =
    Coalesce<(RegistryName, Repository, Reference, Fingerprint), Result<Arc<Manifest>, PullError>>;

/// The node's own last identity by repository.
pub type Shared = Cache<(RegistryName, Repository), Identity>;

/// The tiers and what decides over them.
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
    /// What registries list of repositories.
    pub lists: Arc<Lists>,
    /// Blobs that are being hashed again.
    pub checks: Coalesce<Digest, bool>,
    pub fetches: Fetches,
    /// Blobs that are asked for in chunks.
    pub chunks: Chunks,
    /// On whose behalf a repository was last shared by the operator's choice, without the secret.
    pub shared: Shared,
    /// What upstream was silent about a moment ago.
    pub outages: Outages,
    /// What the runtime holds of images that were just served.
    pub wishes: Wishes,
    /// Images that clients have asked for lately.
    pub served: Served,
    /// What is known of other members' indexes.
    pub index_hints: IndexHints,
    /// Images that are about to start.
    pub starts: Starts,
    pub runtime: Arc<Runtime>,
    /// Listeners to requests hear of their steps here.
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
        // Less patience with upstream gives other members their turn sooner; without any it could only hurt.
        place.patience = attempt.patience().filter(|_| self.cluster.is_there());
        self.metrics
            .access
            .known(self.access.verdict(&place).into());
        let mut answered = self.answer(&place, &request).await;
        // Other members may know what upstream cannot say now.
        if let Err(error) = &answered
            && self.is_outage(&place, error)
            && self.cluster.is_there()
            && Box::pin(self.hear(&place, tag_of(&request.route))).await
        {
            let place = place.hurried(LITTLE);
            answered = Box::pin(self.answer(&place, &request)).await;
        }
        // A HEAD wants no bytes.
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

    /// Whether the caller's right to something is proven already. A refusal of a moment ago is the answer.
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

/// What a failure means to this caller. A refusal asks for a credential; so does an outage of a registry that is known
/// to want one, and a limit on anonymous requests: the caller's secret may have its own quota (promises P15, P17).
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

/// Sets a header whose value came from a registry or from numbers; one that HTTP does not allow is left out.
fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// `Docker-Content-Digest`
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
