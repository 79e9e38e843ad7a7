//! Which of several larders probes a registry that asked to be left alone (promise P15).

use std::{fmt, time::Instant};

use futures_util::future::BoxFuture;
use larder_shared::Digest;

use super::{Upstreams, question::Ask};
use crate::{client, config::Endpoint};

/// What the others say to a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Say {
    Go,
    Wait,
    /// One of them was answered: the silence is over.
    Over,
}

/// The larders that share a registry's patience with this one.
pub trait Others: fmt::Debug + Send + Sync {
    /// May this one probe? It was silenced so long ago.
    fn may_probe(&self, silence: Digest, silenced: std::time::Duration) -> BoxFuture<'_, Say>;

    /// This one's probe was answered.
    fn answered(&self, silence: Digest);
}

/// What a silence is known by among larders: which caller is silenced at which endpoint, as a hash. `None` where they
/// cannot tell that they mean the same credential.
pub(super) fn silence(ask: &Ask, endpoint: &Endpoint) -> Option<Digest> {
    if ask.identity.is_anonymous() {
        return Some(silence_of_nobody(endpoint));
    }
    Some(named(endpoint, &ask.identity.shared()?.to_string()))
}

/// The silence for which a registry asked clients without a credential.
pub(super) fn silence_of_nobody(endpoint: &Endpoint) -> Digest {
    named(endpoint, "")
}

fn named(endpoint: &Endpoint, who: &str) -> Digest {
    let at = client::origin(&endpoint.url);
    Digest::sha256(format!("silence {at} {who}").as_bytes())
}

impl Upstreams {
    /// Sets the larders that ask these registries as well.
    pub fn beside(&self, others: std::sync::Arc<dyn Others>) {
        let _ = self.others.set(others);
    }

    /// Whether the probe that is due may go, as far as others are concerned.
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

    /// A probe was answered, and the others need not find out by themselves.
    pub(super) fn probed(&self, silence: Option<Digest>) {
        if let (Some(others), Some(silence)) = (self.others.get(), silence) {
            others.answered(silence);
        }
    }
}
