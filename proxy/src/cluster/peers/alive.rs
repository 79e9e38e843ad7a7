//! Whether a member lives: it has just been heard, or says so when it is asked.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, StatusCode};
use larder_shared::Role;

use super::{
    ALIVE, IN_ROLE, PeerFailure, Peers,
    body::PATIENCE,
    voice::{QUIET, SLOWEST},
};

/// If this node itself wakes up this late, it is too busy to judge a member's silence.
const LATE: Duration = Duration::from_millis(50);

impl Peers {
    /// Waits for the head of an answer for as long as the member lives.
    pub(super) async fn watched<T>(
        self: &Arc<Self>,
        member: SocketAddr,
        within: Duration,
        answer: impl Future<Output = Result<T, PeerFailure>>,
    ) -> Result<T, PeerFailure> {
        let begun = Instant::now();
        tokio::pin!(answer);
        loop {
            if let Ok(answered) = tokio::time::timeout(QUIET, &mut answer).await {
                return answered;
            }
            if begun.elapsed() >= within {
                // The member lives, and its source is late.
                return Err(PeerFailure::Unable(member, StatusCode::GATEWAY_TIMEOUT));
            }
            tokio::select! {
                answered = &mut answer => return answered,
                lives = self.lives(member) => if !lives {
                    return Err(PeerFailure::Gone(member, "it shows no sign of life".to_owned()));
                },
            }
        }
    }

    /// Whether a member has just been heard, or says that it is alive.
    pub async fn lives(self: &Arc<Self>, member: SocketAddr) -> bool {
        let voice = self.voice(member);
        if !voice.is_quiet() {
            return true;
        }
        let (peers, patience) = (Arc::clone(self), voice.patience());
        let sign = async move { peers.sign(member, patience).await };
        self.signs.run(member, sign).await.unwrap_or(false)
    }

    /// Whether something comes to a member for the members that ask it in `role`.
    pub(super) async fn receives(&self, member: SocketAddr, role: Role) -> bool {
        let path = format!("{ALIVE}?{IN_ROLE}={}", role.as_str());
        let told = self
            .call(member, Method::GET, &path, Bytes::new(), SLOWEST)
            .await;
        let since = told.ok().and_then(|told| {
            let text = std::str::from_utf8(&told).ok()?.trim().parse().ok()?;
            Some(Duration::from_millis(text))
        });
        since.is_some_and(|since| since < PATIENCE)
    }

    /// Asks for a sign of life and takes note of how long it takes.
    pub(super) async fn sign(&self, member: SocketAddr, patience: Duration) -> bool {
        let begun = Instant::now();
        let alive = self.call(member, Method::GET, ALIVE, Bytes::new(), patience);
        let lives = alive.await.is_ok();
        self.voice(member).note_sign(lives.then(|| begun.elapsed()));
        // Where this node itself is late, the silence says nothing about the member.
        lives || begun.elapsed() > patience + LATE
    }
}
