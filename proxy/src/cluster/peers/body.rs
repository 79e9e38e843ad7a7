//! The body of a member's answer, watched: silence is looked into, and a member that is gone is given up.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use larder_shared::Role;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    PeerFailure, Peers,
    voice::{QUIET, Voice},
};
use crate::client::{self, Arrivals};

/// A member that lives but brings nothing for `PATIENCE` is given up, unless it says that something comes to itself.
/// Then the reader waits, up to `LONGEST`: where upstream is slow everybody waits for it, and asking another member
/// would only have the same bytes sent twice.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_mins(1);

/// The body of a member's answer, watched.
#[derive(Debug)]
pub struct PeerBody {
    peers: Arc<Peers>,
    member: SocketAddr,
    /// The role in which it was asked.
    role: Role,
    voice: Arc<Voice>,
    _slot: Option<OwnedSemaphorePermit>,
    incoming: (http::response::Parts, Incoming),
    /// When it last brought something, or said that it is alive.
    heard: Instant,
    /// When it last brought something.
    brought: Instant,
    /// How long the member may bring nothing until it is asked whether it receives anything itself. It is asked twice
    /// within [`PATIENCE`], so that a relay has its root's answer before the relay's own readers ask.
    asked_at: Duration,
}

impl PeerBody {
    pub(super) fn new(
        peers: Arc<Peers>,
        member: SocketAddr,
        role: Role,
        slot: Option<OwnedSemaphorePermit>,
        response: Response<Incoming>,
    ) -> Self {
        Self {
            voice: peers.voice(member),
            peers,
            member,
            role,
            _slot: slot,
            incoming: response.into_parts(),
            heard: Instant::now(),
            brought: Instant::now(),
            asked_at: PATIENCE / 2,
        }
    }

    /// The headers of the answer.
    pub fn headers(&self) -> &http::HeaderMap {
        &self.incoming.0.headers
    }

    /// How the body's bytes arrive.
    pub fn arrivals(&self) -> Arrivals {
        Arrivals::of(&self.incoming.0.extensions)
    }

    /// The bytes that are still to come, if that is known.
    pub fn left(&self) -> Option<u64> {
        self.incoming.1.size_hint().exact()
    }

    /// The member that answers.
    pub fn member(&self) -> SocketAddr {
        self.member
    }

    /// The next bytes; `None` at the end. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Result<Bytes, PeerFailure>> {
        loop {
            let until = self.heard + QUIET;
            let frame = tokio::time::timeout_at(until.into(), self.incoming.1.frame()).await;
            match frame {
                Ok(Some(Ok(frame))) => {
                    self.note_frame();
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Ok(Some(Err(error))) => return Some(Err(self.gone(error.to_string()))),
                Ok(None) => return None,
                Err(_) => {
                    let waited = self.brought.elapsed();
                    let mut in_vain = waited >= LONGEST;
                    if waited >= self.asked_at {
                        let receives = self.peers.receives(self.member, self.role).await;
                        in_vain |= !receives && waited >= PATIENCE;
                        if receives && self.role == Role::Root {
                            self.peers.flow.note_member(self.role);
                        }
                        self.asked_at = waited + PATIENCE / 2;
                    }
                    if in_vain {
                        let why = format!("it brought nothing for {} s", waited.as_secs());
                        return Some(Err(self.gone(why)));
                    }
                    let lives = tokio::select! {
                        frame = self.incoming.1.frame() => match frame {
                            Some(Ok(frame)) => {
                                self.note_frame();
                                match frame.into_data() {
                                    Ok(data) => return Some(Ok(data)),
                                    Err(_) => true,
                                }
                            }
                            Some(Err(error)) => return Some(Err(self.gone(error.to_string()))),
                            None => return None,
                        },
                        lives = self.peers.lives(self.member) => lives,
                    };
                    if !lives {
                        return Some(Err(self.gone("it shows no sign of life".to_owned())));
                    }
                    self.heard = Instant::now();
                }
            }
        }
    }

    fn note_frame(&mut self) {
        self.heard = Instant::now();
        self.brought = self.heard;
        self.asked_at = PATIENCE / 2;
        self.voice.note();
        self.peers.flow.note_member(self.role);
    }

    fn gone(&self, why: String) -> PeerFailure {
        self.peers.members.failed(self.member);
        PeerFailure::Gone(self.member, why)
    }

    /// The whole body, if it has at most `limit` bytes and comes within `within`.
    pub async fn collect(self, limit: u64, within: Duration) -> Result<Bytes, PeerFailure> {
        let member = self.member;
        client::collect(self.incoming.1, limit, within)
            .await
            .map_err(|why| PeerFailure::Gone(member, why))
    }
}
