//! The peer port's HTTP surface: what other members may ask.
//!
//! ```text
//! GET, HEAD /v2/…            the registry API, digests only; larder-role says in which role this node is asked
//! GET       /larder/v1/alive
//! GET, POST /larder/v1/holders?digest=…[&holder=ADDR]
//! ```
//!
//! Only members get this far: the connection's certificate was checked ([`crate::listen`]). Errors become responses in
//! [`crate::registry`], as everywhere.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use larder_shared::{Digest, ErrorCode, OciError, RangeHeader, Role, Route};

use crate::{
    body::Body,
    cluster::{
        HOLDERS,
        peers::{ALIVE, ROLE},
    },
    credentials::Secret,
    identity::Identity,
    metrics::{Metrics, Outcome, Tier},
    pull::{MemberRequest, Pull, PullError},
    record::Record,
    registry::{error_response, ok_response},
    sys::Regions,
};

/// Answers requests on the peer port.
#[derive(Debug)]
pub struct PeerSurface {
    pull: Arc<Pull>,
    metrics: Arc<Metrics>,
}

impl PeerSurface {
    pub fn new(pull: Arc<Pull>, metrics: Arc<Metrics>) -> Self {
        Self { pull, metrics }
    }

    /// The cluster that this port belongs to.
    pub fn pull(&self) -> &Pull {
        &self.pull
    }

    /// Somebody who is no member was turned away.
    pub fn turned_away(&self) {
        self.metrics.peers.turned_away.inc();
    }

    /// Answers one request of a member, whose connection sends the files of `regions`; without them by copying.
    pub async fn answer<B>(
        &self,
        request: Request<B>,
        regions: Option<&Regions>,
    ) -> Response<Body> {
        let path = request.uri().path();
        let small = match path {
            ALIVE => Some((StatusCode::OK, String::new())),
            HOLDERS => Some(self.holders(&request)),
            _ => None,
        };
        if let Some((status, text)) = small {
            let mut response = Response::new(Body::bytes(text));
            *response.status_mut() = status;
            return response;
        }
        let role = text(request.headers(), ROLE).and_then(Role::parse);
        let head = request.method() == Method::HEAD;
        let mut record = Record::new(
            Arc::clone(&self.metrics),
            request.method().clone(),
            path.to_owned(),
            String::new(),
        )
        .of_member(role.unwrap_or(Role::Holder));
        let answered = match role {
            Some(role) => self.pulled(&request, role, head).await,
            None => Err(OciError::new(
                ErrorCode::Denied,
                "this port is for members of the cluster",
            )
            .into()),
        };
        let response = match answered {
            Ok(pulled) => ok_response(pulled, &mut record),
            Err(error) => {
                record.answered(StatusCode::NOT_FOUND, Tier::None, Outcome::Refused);
                error_response(&error, ErrorCode::BlobUnknown, "", &mut record)
            }
        };
        response.map(|body| {
            let body = if head { Body::empty() } else { body };
            match regions {
                Some(regions) => body.serve(regions, record),
                None => body.serve_copied(record),
            }
        })
    }

    async fn pulled<B>(
        &self,
        request: &Request<B>,
        role: Role,
        head: bool,
    ) -> Result<crate::pull::Pulled, PullError> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(OciError::new(ErrorCode::Unsupported, "members only read").into());
        }
        let route = Route::parse(request.uri().path(), request.uri().query())?;
        let route = route.ok_or_else(|| {
            OciError::new(ErrorCode::NameUnknown, "not a path of the registry API")
        })?;
        if let Some((registry, _)) = route.address().and_then(|a| self.pull.resolve(a).ok()) {
            tracing::trace!(upstream.registry = %registry, role = role.as_str(), "a member asks");
        }
        let headers = request.headers();
        let request = MemberRequest {
            route,
            head,
            range: RangeHeader::parse(text(headers, header::RANGE)),
            role,
            identity: self.identity(headers),
        };
        self.pull.serve_member(request).await
    }

    /// The bearer of the token that was lent; nobody without one.
    fn identity(&self, headers: &HeaderMap) -> Identity {
        let lent =
            text(headers, header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        match lent {
            Some(token) => self.pull.key.token(Secret::new(token)),
            None => Identity::anonymous(),
        }
    }

    fn holders<B>(&self, request: &Request<B>) -> (StatusCode, String) {
        let query = request.uri().query().unwrap_or_default();
        let get = |name: &str| {
            let mut pairs = url::form_urlencoded::parse(query.as_bytes());
            pairs
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.into_owned())
        };
        let Some(digest) = get("digest").and_then(|digest| digest.parse::<Digest>().ok()) else {
            return (StatusCode::BAD_REQUEST, "which digest?\n".to_owned());
        };
        let cluster = &self.pull.cluster;
        if *request.method() != Method::POST {
            let holders = cluster.hints.holders(&digest);
            // A list of addresses is always JSON.
            return (
                StatusCode::OK,
                serde_json::to_string(&holders).unwrap_or_default(),
            );
        }
        let holder = get("holder").and_then(|holder| holder.parse::<SocketAddr>().ok());
        let known = |holder: &SocketAddr| cluster.members.view().addresses.contains(holder);
        match holder.filter(known) {
            Some(holder) => {
                cluster.hints.add(digest, holder);
                (StatusCode::OK, String::new())
            }
            None => (
                StatusCode::BAD_REQUEST,
                "which member holds it?\n".to_owned(),
            ),
        }
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}
