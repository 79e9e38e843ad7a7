//! Decides which of several larders probes a registry that requested silence (promise P15).

use std::{fmt, time::Instant};

use futures_util::future::BoxFuture;
use larder_shared::Digest;

use super::{Upstreams, question::Ask};
use crate::{client, config::Endpoint};

/// The other larders' answer to a planned probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Say {
    Go,
    Wait,
    /// One of their probes was answered: the silence is over.
    Over,
}

/// Other larders that share a registry's limits with this one.
pub trait Others: fmt::Debug + Send + Sync {
    /// Whether this larder may probe. `silenced`: how long ago its silence began.
    fn may_probe(&self, silence: Digest, silenced: std::time::Duration) -> BoxFuture<'_, Say>;

    /// Tells the others that this larder's probe was answered.
    fn answered(&self, silence: Digest);
}

/// The name of a silence among larders: a hash of the endpoint and the caller that it silenced. `None` if other larders
/// cannot recognize the same credential.
pub(super) fn silence(ask: &Ask, endpoint: &Endpoint) -> Option<Digest> {
    if ask.identity.is_anonymous() {
        return Some(silence_of_nobody(endpoint));
    }
    Some(named(endpoint, &ask.identity.shared()?.to_string()))
}

/// The silence that an endpoint requested from anonymous clients.
pub(super) fn silence_of_nobody(endpoint: &Endpoint) -> Digest {
    named(endpoint, "")
}

fn named(endpoint: &Endpoint, who: &str) -> Digest {
    let at = client::origin(&endpoint.url);
    Digest::sha256(format!("silence {at} {who}").as_bytes())
}

impl Upstreams {
    /// Sets the other larders that ask the same registries.
    pub fn beside(&self, others: std::sync::Arc<dyn Others>) {
        let _ = self.others.set(others);
    }

    /// Whether a due probe may go, as far as the others are concerned.
    pub(super) async fn may_probe(&self, key: &str, silence: Option<Digest>) -> bool {
        let (Some(others), Some(silence)) = (self.others.get(), silence) else {
            return true;
        };
        let silenced = self.health(key, |health| health.silenced(Instant::now()));
        match others.may_probe(silence, silenced).await {
            Say::Go => true,
            Say::Over => {
                self.health(key, |health| health.answered(true));
                true
            }
            Say::Wait => {
                self.health(key, |health| health.put_off(Instant::now()));
                false
            }
        }
    }

    /// Tells the others that a probe was answered, so that they need not probe themselves.
    pub(super) fn probed(&self, silence: Option<Digest>) {
        if let (Some(others), Some(silence)) = (self.others.get(), silence) {
            others.answered(silence);
        }
    }
}
