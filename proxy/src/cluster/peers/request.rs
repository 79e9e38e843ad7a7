//! A question to a member, and why it may give nothing.

use std::{net::SocketAddr, time::Duration};

use http::{HeaderValue, StatusCode};
use larder_shared::{Digest, Range, RegistryName, Repository, Role};

use crate::trace::Trace;

/// What is asked of a member.
#[derive(Clone, Debug)]
pub enum PeerSubject {
    /// A range of a blob.
    Blob(Digest, Range),
    /// A whole manifest.
    Manifest(Digest),
    /// Whether it has this blob, and how long it is.
    Has(Digest),
}

/// One question to a member.
#[derive(Clone, Debug)]
pub struct PeerRequest {
    pub registry: RegistryName,
    pub repository: Repository,
    pub subject: PeerSubject,
    pub role: Role,
    /// How long the answer may take to begin, as long as the member lives: short where a client waits for its headers,
    /// longer where the client reads already and upstream may be slow for everybody.
    pub within: Duration,
    /// The `Authorization` that is lent: a Bearer token for pulling from this repository, never another secret.
    pub lent: Option<HeaderValue>,
    /// The request on whose behalf the member is asked.
    pub trace: Trace,
}

/// Why a member gave nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PeerFailure {
    /// The member does not have the subject, or upstream does not.
    #[error("{0} does not have it")]
    Miss(SocketAddr),
    /// Upstream refused the token that was lent, or the member refuses this node.
    #[error("{0} refused")]
    Refused(SocketAddr),
    /// The member cannot get the subject now.
    #[error("{0} cannot get it: {1}")]
    Unable(SocketAddr, StatusCode),
    /// The member is not there, or not well.
    #[error("{0} does not answer: {1}")]
    Gone(SocketAddr, String),
}
