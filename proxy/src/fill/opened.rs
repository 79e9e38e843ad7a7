//! What a stream meets: an answer before its body, the body, and how it can end.
//!
//! Members, the object store and registries answer in ways of their own; from here on they are alike.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::{task::JoinHandle, time::timeout};

use crate::{
    client::Arrivals,
    cluster::{object_store::Object, peers::PeerBody},
    metrics,
    upstream::Failure,
};

/// How a stream ended.
#[derive(Debug)]
pub enum End {
    Done,
    /// It broke off, stalled, or ended early.
    Broken {
        why: String,
        stalled: bool,
    },
    /// The source said no before the first byte.
    Refused(Failure),
    /// A member said no, broke off, or is gone. Another source is asked.
    Peer {
        member: SocketAddr,
        why: String,
    },
    /// The source has something else under this digest.
    WrongObject(String),
    Disk(io::Error),
    /// A write does not return.
    Hangs(JoinHandle<io::Result<()>>),
}

/// A source's answer before its body.
#[derive(Debug)]
pub struct Opened {
    /// Bytes of the whole blob.
    pub size: u64,
    /// Where the body begins: the range's start, or 0 from a source that knows no ranges.
    pub start: u64,
    pub ranged: bool,
    /// Which endpoint of the source answers; `usize::MAX` for a member.
    pub endpoint: usize,
    /// The member that answers.
    pub member: Option<SocketAddr>,
    /// That member passes it on from another source.
    pub passed_on: bool,
    pub body: SourceBody,
    /// How the body's bytes arrive.
    pub arrivals: Arrivals,
    /// What the body has brought already.
    pub first: Option<Brought>,
}

impl Opened {
    /// The next that the body brings; see [`SourceBody::next`].
    pub async fn next(&mut self, idle: Duration) -> Brought {
        match self.first.take() {
            Some(first) => first,
            None => self.body.next(idle).await,
        }
    }
}

/// A body under way.
#[derive(Debug)]
pub enum SourceBody {
    Upstream(Incoming),
    Peer(Box<PeerBody>),
    Object(Box<Object>),
}

/// What a body brings.
#[derive(Debug)]
pub enum Brought {
    Data(Bytes),
    End,
    Broken { why: String, stalled: bool },
}

impl SourceBody {
    /// The kind of source that sends it.
    pub fn source(&self) -> metrics::Source {
        match self {
            Self::Upstream(_) => metrics::Source::Upstream,
            Self::Peer(_) => metrics::Source::Member,
            Self::Object(_) => metrics::Source::ObjectStore,
        }
    }

    /// The bytes that are still to come; 0 if that is not known.
    pub fn left(&self) -> u64 {
        let left = match self {
            Self::Upstream(incoming) => incoming.size_hint().exact(),
            Self::Peer(body) => body.left(),
            Self::Object(_) => None,
        };
        left.unwrap_or(0)
    }

    /// The next bytes. A source that brings nothing for `idle` is broken. May be dropped and called again.
    pub async fn next(&mut self, idle: Duration) -> Brought {
        let broken = |why, stalled| Brought::Broken { why, stalled };
        match self {
            Self::Upstream(incoming) => loop {
                match timeout(idle, incoming.frame()).await {
                    Ok(Some(Ok(frame))) => {
                        if let Ok(data) = frame.into_data() {
                            return Brought::Data(data);
                        }
                    }
                    Ok(Some(Err(error))) => return broken(error.to_string(), false),
                    Ok(None) => return Brought::End,
                    Err(_) => {
                        let why = format!("it brought nothing for {} ms", idle.as_millis());
                        return broken(why, true);
                    }
                }
            },
            Self::Object(object) => match timeout(idle, object.body.next()).await {
                Ok(Some(Ok(data))) => Brought::Data(data),
                Ok(Some(Err(failure))) => broken(failure.to_string(), false),
                Ok(None) => Brought::End,
                Err(_) => broken("the object store brings nothing".to_owned(), true),
            },
            Self::Peer(body) => match body.next().await {
                Some(Ok(data)) => Brought::Data(data),
                Some(Err(failure)) => broken(failure.to_string(), false),
                None => Brought::End,
            },
        }
    }
}
