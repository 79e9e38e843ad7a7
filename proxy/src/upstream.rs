//! Registries: from a name to an answer.
//!
//! Owns the order of a registry's endpoints, the Bearer dance with its token server, and the redirects. Sorts every
//! answer into a closed set of outcomes. Asks one question at a time. Callers decide what to do about an outcome, and
//! what to cache.

mod answer;
mod api;
mod authorization;
mod bounded;
mod challenge;
mod corrupt;
mod endpoint;
mod failure;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod head;
mod health;
mod knock;
mod lend;
mod location;
mod probe;
mod question;
mod redirect;
mod refusal;
mod route;
mod scheme;
mod seen;
mod shown;
mod stepdown;
mod token;
mod turn;
mod view;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use larder_shared::RegistryName;
use moka::future::Cache;

pub use self::{
    answer::{Answer, content_range},
    api::{ApiAnswer, ApiAsk},
    failure::{Failure, Limit, Refusal, Refused},
    knock::{Knock, Knocked},
    lend::Lend,
    probe::{Others, Say},
    question::{Ask, Need, Subject, Want},
    stepdown::Became,
    view::{EndpointHealth, Quota},
};
use self::{
    corrupt::Corrupt,
    health::{Admission, Health},
    location::{Location, LocationKey},
    scheme::{Scheme, SchemeKey},
    stepdown::{Manners, Missed},
    token::Tokens,
    turn::{Turn, health_key, limited},
};
use crate::{
    client::{self, Client},
    config::Config,
    metrics::Metrics,
};

/// The head of an answer must arrive within this time, less than the 5 s in which larder answers its own client.
const HEAD_WITHIN: Duration = Duration::from_secs(4);

/// If no other endpoint is left, one that failed is asked once more after this long, with jitter.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// All upstreams.
#[derive(Debug)]
pub struct Upstreams {
    config: Arc<ArcSwap<Config>>,
    client: Arc<Client>,
    metrics: Arc<Metrics>,
    tokens: Tokens,
    /// The last challenge of an endpoint for a repository, so that the first request already carries a token.
    schemes: Cache<SchemeKey, Scheme>,
    locations: Cache<LocationKey, Location>,
    /// By `scheme://host:port`, followed by the fingerprint of the credential that was shown, if any.
    health: Mutex<HashMap<String, Health>>,
    /// Other larders that ask the same registries.
    others: OnceLock<Arc<dyn Others>>,
    corrupt: Corrupt,
    manners: Manners,
}

impl Upstreams {
    pub fn new(config: Arc<ArcSwap<Config>>, client: Arc<Client>, metrics: Arc<Metrics>) -> Self {
        Self {
            config,
            client,
            metrics,
            tokens: Tokens::new(),
            schemes: scheme::schemes(),
            locations: location::locations(),
            health: Mutex::default(),
            others: OnceLock::new(),
            corrupt: corrupt::none(),
            manners: Manners::new(),
        }
    }

    /// Asks the endpoints in order. The first good answer counts. If there is none, the origin's word counts.
    pub async fn ask(&self, ask: &Ask) -> Result<Answer, Failure> {
        if ask.identity.is_lost() {
            return Err(Failure::Unreachable {
                at: ask.registry.to_string(),
                why: "the node's credentials for it are missing".to_owned(),
            });
        }
        let upstream = self.config.load().upstream(ask.registry.as_str());
        let endpoints = &upstream.endpoints;
        let begun = Instant::now();
        if let Some(answer) = self
            .ask_location(ask, ask.first % endpoints.len().max(1))
            .await
        {
            return Ok(answer);
        }
        let mut failures: Vec<(usize, Failure)> = Vec::new();
        let (mut avoided, mut again) = (Vec::new(), Vec::new());
        let origin = endpoints.len().saturating_sub(1);
        let order = self.order(ask, endpoints).await;
        let last = order.last().copied();
        for index in order {
            let all = ask.within.unwrap_or(HEAD_WITHIN);
            let left = all.saturating_sub(begun.elapsed());
            // If only the origin can prove access, no other endpoint is asked after it.
            let alone = ask.proof && !upstream.proves_access;
            let patience = if last == Some(index) || alone {
                ask.within.map(|_| left)
            } else {
                Some(left / 2)
            };
            let endpoint = &endpoints[index];
            let mirrors_will_do = !ask.of_origin && (!ask.proof || upstream.proves_access);
            if index != origin && !mirrors_will_do {
                continue;
            }
            let key = health_key(ask, endpoint);
            let turn = match self.health(&key, |health| health.admit(Instant::now())) {
                Admission::Go => Turn::First,
                Admission::Probe => {
                    if !self.may_probe(&key, probe::silence(ask, endpoint)).await {
                        let silent = self.health(&key, |health| health.silent(Instant::now()));
                        if let Some(silent) = silent {
                            failures.push((index, limited(client::origin(&endpoint.url), silent)));
                            continue;
                        }
                    }
                    Turn::Probe
                }
                Admission::Avoid => {
                    avoided.push(index);
                    continue;
                }
                Admission::Silent(silent) => {
                    failures.push((index, limited(client::origin(&endpoint.url), silent)));
                    continue;
                }
            };
            match self
                .ask_counted(ask, index, endpoint, &upstream, patience, turn)
                .await
            {
                Ok(answer) => return Ok(answer),
                Err(missed) => {
                    if missed.again && turn != Turn::Probe {
                        again.push(index);
                    }
                    failures.push((index, missed.failure));
                }
            }
        }
        // No other endpoint gave an answer. A request that needs one becomes the probe of an open breaker.
        for index in avoided {
            let endpoint = &endpoints[index];
            let asked = if ask.need == Need::Optional {
                Err(Missed::from(Failure::Unreachable {
                    at: client::origin(&endpoint.url),
                    why: "it failed again and again a short time ago".to_owned(),
                }))
            } else {
                let left = ask.within.map(|all| all.saturating_sub(begun.elapsed()));
                self.ask_counted(ask, index, endpoint, &upstream, left, Turn::First)
                    .await
            };
            match asked {
                Ok(answer) => return Ok(answer),
                Err(missed) => {
                    if missed.again {
                        again.push(index);
                    }
                    failures.push((index, missed.failure));
                }
            }
        }
        // Asks failed endpoints again: the failure may be over by now, or may concern the range alone. This is left out
        // if a cached answer would do, or if the origin's word already settles the question.
        let settled = |(index, failure): &(usize, Failure)| {
            let open = match failure {
                Failure::Unreachable { .. } => true,
                // A mirror may still have a blob that the origin no longer has.
                Failure::NotFound(_) => matches!(ask.subject, Subject::Blob(_)),
                _ => false,
            };
            *index == origin && !open
        };
        if ask.need == Need::Optional || failures.iter().any(settled) {
            again.clear();
        }
        for index in again {
            let left = ask.within.unwrap_or(HEAD_WITHIN);
            let left = left.saturating_sub(begun.elapsed());
            if left < AGAIN_AFTER * 2 {
                break;
            }
            tokio::time::sleep(AGAIN_AFTER.mul_f64(0.5 + fastrand::f64())).await;
            let endpoint = &endpoints[index];
            let asked = self.ask_counted(ask, index, endpoint, &upstream, Some(left), Turn::Again);
            failures.retain(|(failed, _)| *failed != index);
            match asked.await {
                Ok(answer) => return Ok(answer),
                Err(missed) => failures.push((index, missed.failure)),
            }
        }
        let of_origin = failures.iter().position(|(index, _)| *index == origin);
        match of_origin {
            Some(at) => Err(failures.swap_remove(at).1),
            None => Err(failures.pop().map_or_else(
                || Failure::Invalid {
                    at: ask.registry.to_string(),
                    why: "no endpoint".to_owned(),
                },
                |(_, failure)| failure,
            )),
        }
    }

    /// Reads or changes the health of an endpoint. `key` comes from [`health_key`].
    fn health<T>(&self, key: &str, look: impl FnOnce(&mut Health) -> T) -> T {
        let mut all = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(key) {
            // A client may name any registry, so the map must be bounded.
            if all.len() >= 10_000 {
                all.clear();
            }
            all.insert(key.to_owned(), Health::new(Instant::now()));
        }
        match all.get_mut(key) {
            Some(health) => look(health),
            None => look(&mut Health::new(Instant::now())),
        }
    }

    /// How long a retry for this registry has to wait for its turn.
    pub fn retry_delay(&self, registry: &RegistryName) -> Duration {
        let upstream = self.config.load().upstream(registry.as_str());
        match upstream.endpoints.first() {
            Some(endpoint) => self.health(&client::origin(&endpoint.url), |health| {
                health.retry_delay(Instant::now())
            }),
            None => Duration::ZERO,
        }
    }

    /// Whether the first answer of a registry already proves access, because no mirror is asked before the origin.
    pub fn proves_at_once(&self, registry: &RegistryName) -> bool {
        let upstream = self.config.load().upstream(registry.as_str());
        upstream.proves_access || upstream.endpoints.len() == 1
    }

    /// How many endpoints a registry has.
    pub fn count(&self, registry: &RegistryName) -> usize {
        self.config
            .load()
            .upstream(registry.as_str())
            .endpoints
            .len()
    }
}
