//! Endpoints that gave wrong bytes for a digest: they are asked for it last.

use std::time::{Duration, Instant};

use larder_shared::{Digest, RegistryName};
use moka::future::Cache;

use super::{Upstreams, question::Ask, stepdown::Became};
use crate::{client, config::Endpoint};

/// An endpoint that gave wrong bytes for a digest is asked for it last for this long.
const REMEMBERED: Duration = Duration::from_mins(10);

/// `scheme://host:port` of an endpoint, and the digest; how often it gave wrong bytes for it.
pub(super) type Corrupt = Cache<(String, Digest), u32>;

/// No endpoint has given wrong bytes yet.
pub(super) fn none() -> Corrupt {
    Cache::builder()
        .max_capacity(10_000)
        .time_to_live(REMEMBERED)
        .build()
}

impl Upstreams {
    /// The order of the endpoints for this question: from `first` on and around, corrupt last.
    pub(super) async fn order(&self, ask: &Ask, endpoints: &[Endpoint]) -> Vec<usize> {
        let count = endpoints.len();
        let mut order: Vec<usize> = (0..count).map(|i| (i + ask.first) % count).collect();
        if let Some(digest) = ask.subject.digest() {
            let mut wrong = Vec::with_capacity(count);
            for endpoint in endpoints {
                let key = (client::origin(&endpoint.url), digest);
                wrong.push(self.corrupt.get(&key).await.unwrap_or(0));
            }
            order.sort_by_key(|index| wrong[*index]);
        }
        order
    }

    /// An endpoint gave bytes that do not have their digest. Says whether it is asked for them in another way from now on.
    pub async fn brought_wrong_bytes(
        &self,
        registry: &RegistryName,
        endpoint: usize,
        digest: &Digest,
    ) -> bool {
        let upstream = self.config.load().upstream(registry.as_str());
        let Some(endpoint) = upstream.endpoints.get(endpoint) else {
            return false;
        };
        let at = client::origin(&endpoint.url);
        tracing::warn!(upstream.endpoint = at, blob.digest = %digest, "an endpoint gave wrong bytes and is asked last for this digest; look at it, and at what is between");
        // Where several brought the bytes of one blob, all are suspected; one that brings wrong bytes again goes last.
        let key = (at, *digest);
        let before = self.corrupt.get(&key).await.unwrap_or(0);
        let otherwise = self
            .manners
            .note(&key.0, digest, Became::Wrong, Instant::now());
        self.corrupt.insert(key, before + 1).await;
        otherwise
    }
}
