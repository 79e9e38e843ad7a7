//! Endpoints that gave wrong bytes for a digest. They are asked for that digest last.

use std::time::{Duration, Instant};

use larder_shared::{Digest, RegistryName};
use moka::future::Cache;

use super::{Upstreams, question::Ask, stepdown::Became};
use crate::{client, config::Endpoint};

/// How long such an endpoint is asked last.
const REMEMBERED: Duration = Duration::from_mins(10);

/// By the endpoint's `scheme://host:port` and the digest: how often the endpoint gave wrong bytes.
pub(super) type Corrupt = Cache<(String, Digest), u32>;

/// An empty memory of corrupt endpoints.
pub(super) fn none() -> Corrupt {
    Cache::builder()
        .max_capacity(10_000)
        .time_to_live(REMEMBERED)
        .build()
}

impl Upstreams {
    /// The order of the endpoints for this question: round-robin from `first`, with corrupt ones last.
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

    /// Records that an endpoint gave bytes without their digest. Returns whether it is asked for them in another manner
    /// from now on.
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
        // If several endpoints gave parts of one blob, all are suspected. An endpoint that repeats it goes last.
        let key = (at, *digest);
        let before = self.corrupt.get(&key).await.unwrap_or(0);
        let otherwise = self
            .manners
            .note(&key.0, digest, Became::Wrong, Instant::now());
        self.corrupt.insert(key, before + 1).await;
        otherwise
    }
}
