//! A registry that speaks the pull half of the distribution spec, counts every byte, and misbehaves when a test asks
//! for it. It has two ports on 127.0.0.1, or on a [`Host`]: the registry, and the target of its redirects.
//!
//! The test puts its content in; nothing can be pushed over HTTP.

mod auth;
mod connection;
mod content;
mod fault;
mod gate;
mod ledger;
mod odd;
mod reply;
mod repositories;
mod request;
mod server;
mod socket;
mod tls;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;

pub use self::auth::IDENTITY_TOKEN;
pub use self::content::{Algorithm, Content, Pieces, digest_of, expected};
pub use self::fault::{Armed, Fault, Match, Target};
pub use self::gate::Gate;
pub use self::ledger::Seen;
pub use self::odd::Odd;
pub(crate) use self::request::form;
pub use self::request::{Kind, Request};
use self::server::{Port, Running, Shared, bind};
use self::tls::Tls;
use crate::hosts::Host;

/// A running fake registry. Its tasks live on the runtime that started it; it stops when dropped.
#[derive(Debug)]
pub struct FakeRegistry {
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
    /// The runtime of its tasks, and with it the network of its ports.
    home: Handle,
}

impl FakeRegistry {
    /// Starts one over plain HTTP on ports that are free.
    pub async fn start() -> Self {
        Self::start_with(None, Handle::current(), Ipv4Addr::LOCALHOST.into()).await
    }

    /// Starts one over TLS, with a certificate for 127.0.0.1 and localhost under [`Self::ca_pem`].
    pub async fn start_tls() -> Self {
        let tls = Tls::new().expect("a certificate");
        Self::start_with(Some(tls), Handle::current(), Ipv4Addr::LOCALHOST.into()).await
    }

    /// Starts one over plain HTTP on free ports of a host's address.
    pub async fn start_in(host: &Host) -> Self {
        Self::start_with(None, host.runtime().clone(), host.address()).await
    }

    async fn start_with(tls: Option<Tls>, home: Handle, ip: IpAddr) -> Self {
        let any = SocketAddr::new(ip, 0);
        let [registry, cdn] = bound(&home, [any, any]).await;
        let [at, cdn_at] = [&registry, &cdn].map(tokio::net::TcpListener::local_addr);
        let at = at.expect("a bound address");
        let cdn_at = cdn_at.expect("a bound address");
        let shared = Arc::new(Shared::new(at, cdn_at, tls));
        let running = Running::new(&home, &shared, registry, cdn);
        Self {
            shared,
            running: Mutex::new(Some(running)),
            home,
        }
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.shared.registry.to_string()
    }

    /// The scheme and [`Self::host`], without a slash at the end.
    pub fn url(&self) -> String {
        self.shared.url(Port::Registry)
    }

    /// `127.0.0.1:PORT` of the second port, to which [`Target::Cdn`] leads.
    pub fn cdn_host(&self) -> String {
        self.shared.cdn.to_string()
    }

    /// The authority to trust, in PEM. Panics over plain HTTP.
    pub fn ca_pem(&self) -> &str {
        let tls = self.shared.tls.as_ref();
        &tls.expect("the fake registry was started with TLS").ca_pem
    }

    /// Closes both ports and all connections; from then on connections are refused.
    pub async fn stop(&self) {
        let running = self.slot().take();
        if let Some(running) = running {
            running.stop().await;
        }
    }

    /// Listens on the same ports again, with the same content.
    pub async fn start_again(&self) {
        self.stop().await;
        let ports = [self.shared.registry, self.shared.cdn];
        let [registry, cdn] = bound(&self.home, ports).await;
        *self.slot() = Some(Running::new(&self.home, &self.shared, registry, cdn));
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Binds both ports on the runtime that will accept there.
async fn bound(home: &Handle, ports: [SocketAddr; 2]) -> [tokio::net::TcpListener; 2] {
    let binding = home.spawn(async move {
        let [registry, cdn] = ports.map(bind);
        [registry.await, cdn.await].map(|port| port.expect("a free port"))
    });
    binding.await.expect("no panic")
}

/// The content that it holds.
impl FakeRegistry {
    /// Puts a blob and gives its sha256 digest.
    pub fn put_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> String {
        self.put_content(repository, &Content::bytes(bytes))
    }

    /// Puts a blob of `size` bytes computed from `seed`; [`expected`] gives any range of it. Hashes it once, and holds
    /// none of it in memory.
    pub fn put_blob_of(&self, repository: &str, seed: u64, size: u64) -> String {
        self.put_content(repository, &Content::synthetic(seed, size))
    }

    /// Puts a blob and gives its sha256 digest.
    pub fn put_content(&self, repository: &str, content: &Content) -> String {
        self.put_content_as(repository, Algorithm::Sha256, content)
    }

    /// Puts a blob under the digest of this algorithm.
    pub fn put_content_as(
        &self,
        repository: &str,
        algorithm: Algorithm,
        content: &Content,
    ) -> String {
        let digest = content.digest(algorithm);
        self.put_blob_under(repository, &digest, content);
        digest
    }

    /// Puts a blob under a digest, whether or not it is the right one.
    pub fn put_blob_under(&self, repository: &str, digest: &str, content: &Content) {
        let mut state = self.shared.state();
        let repositories = &mut state.repositories;
        repositories.put_blob(repository, digest, content.clone());
    }

    /// Puts a manifest, tags it if a tag is given, and gives its sha256 digest.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> String {
        self.put_manifest_as(repository, Algorithm::Sha256, tag, media_type, bytes)
    }

    /// Puts a manifest under the digest of this algorithm, and tags it if a tag is given.
    pub fn put_manifest_as(
        &self,
        repository: &str,
        algorithm: Algorithm,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> String {
        let mut state = self.shared.state();
        let repositories = &mut state.repositories;
        let digest = repositories.put_manifest(repository, algorithm, media_type, bytes.into());
        if let Some(tag) = tag {
            repositories.tag(repository, tag, &digest);
        }
        digest
    }

    /// Points a tag to a digest.
    pub fn retag(&self, repository: &str, tag: &str, digest: &str) {
        self.shared
            .state()
            .repositories
            .tag(repository, tag, digest);
    }

    /// Forgets a tag; its manifest stays.
    pub fn delete_tag(&self, repository: &str, tag: &str) {
        self.shared.state().repositories.delete_tag(repository, tag);
    }

    /// Forgets a manifest and the tags that point to it.
    pub fn delete_manifest(&self, repository: &str, digest: &str) {
        let mut state = self.shared.state();
        state.repositories.delete_manifest(repository, digest);
    }

    /// Forgets a blob of a repository.
    pub fn delete_blob(&self, repository: &str, digest: &str) {
        let mut state = self.shared.state();
        state.repositories.delete_blob(repository, digest);
    }
}

/// How it misbehaves.
impl FakeRegistry {
    /// From now on this fault applies to these requests.
    pub fn fault(&self, which: Match, fault: Fault) -> Armed {
        self.shared.state().rules.add(which, fault)
    }

    /// Puts a gate into the body of each of these answers, after so many bytes.
    pub fn gate(&self, which: Match, bytes: u64) -> Gate {
        let gate = Gate::new(bytes);
        self.fault(which, Fault::Gate(gate.clone()));
        gate
    }

    /// Ends all faults for later requests.
    pub fn clear_faults(&self) {
        self.shared.state().rules.clear();
    }
}

/// Which clients may read. A repository is public until a test calls one of these for it.
impl FakeRegistry {
    /// Only this user may read the repository, by Basic.
    pub fn require_basic(&self, repository: &str, user: &str, password: &str) {
        let mut state = self.shared.state();
        state.auth.require_basic(repository, user, password);
    }

    /// Only these users may read the repository, by tokens of the fake's `/token`. The user name [`IDENTITY_TOKEN`]
    /// stands for a refresh token. Replaces earlier users; issued tokens stay good.
    pub fn require_bearer(&self, repository: &str, users: &[(&str, &str)]) {
        self.shared.state().auth.require_bearer(repository, users);
    }

    /// Everyone may also read the repository, but by a token.
    pub fn allow_anonymous(&self, repository: &str) {
        self.shared.state().auth.allow_anonymous(repository);
    }

    /// Everyone may read the repository without a token.
    pub fn make_public(&self, repository: &str) {
        self.shared.state().auth.make_public(repository);
    }

    /// The lifetime of tokens issued from now on, in whole seconds as in `expires_in`; 5 minutes at first.
    pub fn token_lifetime(&self, lifetime: Duration) {
        self.shared.state().auth.token_lifetime = lifetime;
    }

    /// No token issued until now is accepted any more.
    pub fn revoke_tokens(&self) {
        self.shared.state().auth.revoke_tokens();
    }
}

/// The requests and bytes that it has counted.
impl FakeRegistry {
    /// All requests since the last reset, in the order they came, on both ports.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.ledger.requests()
    }

    /// How many requests this is true of.
    pub fn count(&self, condition: impl Fn(&Seen) -> bool) -> usize {
        self.requests()
            .iter()
            .filter(|seen| condition(seen))
            .count()
    }

    /// Body bytes sent in answers to requests for this blob, over all repositories and both ports.
    pub fn blob_bytes_sent(&self, digest: &str) -> u64 {
        let of_blob = |seen: &Seen| {
            matches!(seen.kind, Kind::Blob | Kind::Cdn)
                && matches!(seen.status, 200 | 206)
                && seen.reference == digest
        };
        let requests = self.requests();
        let blobs = requests.iter().filter(|seen| of_blob(seen));
        blobs.map(|seen| seen.bytes_sent).sum()
    }

    /// Body bytes sent in all.
    pub fn bytes_sent(&self) -> u64 {
        self.requests().iter().map(|seen| seen.bytes_sent).sum()
    }

    /// Connections accepted since the last reset, on both ports.
    pub fn connections(&self) -> u64 {
        self.shared.ledger.connections()
    }

    /// Forgets all requests and connections. An answer under way is no longer listed.
    pub fn reset_counts(&self) {
        self.shared.ledger.reset();
    }
}
