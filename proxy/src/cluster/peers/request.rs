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
    /// How long it may take until an answer begins, as long as the member lives: little where a client waits for its
    /// headers, more where it reads already and upstream may be slow for everybody.
    pub within: Duration,
    /// The `Authorization` that is lent: a Bearer token for pulling from this repository, never another secret.
    pub lent: Option<HeaderValue>,
    /// Whose request it is for.
    pub trace: Trace,
}

/// Why a member gave nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PeerFailure {
    /// It does not have it, or upstream does not.
    #[error("{0} does not have it")]
    Miss(SocketAddr),
    /// Upstream refused the token that was lent, or the member refuses this node.
    #[error("{0} refused")]
    Refused(SocketAddr),
    /// It cannot get it now.
    #[error("{0} cannot get it: {1}")]
    Unable(SocketAddr, StatusCode),
    /// It is not there, or not well.
    #[error("{0} does not answer: {1}")]
    Gone(SocketAddr, String),
}
