//! Connections to members, with the certificates that are in force.

use std::{net::SocketAddr, sync::PoisonError, time::Duration};

use bytes::Bytes;
use http::{Response, header};
use http_body_util::Full;
use hyper::body::Incoming;

use super::{ALIVE, PeerFailure, Peers};
use crate::{client::Direct, cluster::tls::MemberTls, config::PeerTls};

/// A connection to a member must stand within this time.
const CONNECT: Duration = Duration::from_millis(250);

/// The connections that were made with the certificates of a generation; `None` is plain.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    generation: Option<u64>,
    scheme: &'static str,
    bulk: Direct,
    /// Signs of life have connections of their own, so that none has to be made when a sign is wanted.
    signs: Direct,
}

impl Peers {
    /// This node's side of mutual TLS; `None` where it is off.
    pub async fn tls(&self) -> Result<Option<MemberTls>, PeerFailure> {
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        let config = self.config.load_full();
        // Peers that were taken out of the configuration are not the same as TLS that was turned off.
        let Some(peers) = &config.cluster.peers else {
            return Err(PeerFailure::Gone(
                nobody,
                "no peers are configured".to_owned(),
            ));
        };
        let current = self.tls.current(&peers.tls).await;
        current.map_err(|error| PeerFailure::Gone(nobody, error.to_string()))
    }

    /// The same as far as it is known without waiting for a file.
    pub fn known_tls(&self) -> Option<MemberTls> {
        let config = self.config.load();
        match &config.cluster.peers.as_ref()?.tls {
            PeerTls::Mutual(files) => self.tls.known(files),
            PeerTls::Off => None,
        }
    }

    /// Whether a token may be lent: only over connections that are encrypted.
    pub fn may_lend(&self) -> bool {
        let config = self.config.load();
        let peers = config.cluster.peers.as_ref();
        peers.is_some_and(|peers| peers.tls != PeerTls::Off)
    }

    async fn pool(&self) -> Result<Pool, PeerFailure> {
        let tls = self.tls().await?;
        let generation = tls.as_ref().map(|tls| tls.generation);
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pool.as_ref().filter(|pool| pool.generation == generation) {
            return Ok(pool.clone());
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let tls = tls.map(|tls| (tls.client, tls.name));
        let made = Pool {
            generation,
            scheme,
            bulk: Direct::new(tls.clone(), CONNECT),
            signs: Direct::new(tls, CONNECT),
        };
        *pool = Some(made.clone());
        Ok(made)
    }

    /// Sends a request to `path` at a member. Signs of life have a connection of their own.
    pub(super) async fn send(
        &self,
        member: SocketAddr,
        request: http::request::Builder,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, PeerFailure> {
        let pool = self.pool().await?;
        let gone = |why: String| PeerFailure::Gone(member, why);
        let mut request = request
            .uri(format!("{}://{member}{path}", pool.scheme))
            .body(Full::new(body))
            .map_err(|error| gone(error.to_string()))?;
        // The configuration may have changed since the check whether a token may be lent.
        if pool.generation.is_none() {
            request.headers_mut().remove(header::AUTHORIZATION);
        }
        let direct = if path.starts_with(ALIVE) {
            pool.signs
        } else {
            pool.bulk
        };
        let sent = direct.send(request).await;
        if sent.is_ok() {
            self.voice(member).note();
        }
        sent.map_err(|error| gone(error.to_string()))
    }
}
