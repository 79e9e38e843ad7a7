//! Registries: from a name to an answer.
//!
//! Owns the order of a registry's endpoints, the Bearer dance with its token server, the redirects, and the sorting of
//! whatever comes back into a closed set of outcomes. Asks one question at a time; what to do about an outcome, and
//! what is cached, is the callers' business.

mod authorization;
mod bounded;
mod challenge;
mod endpoint;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod health;
mod knock;
mod location;
mod probe;
mod question;
mod redirect;
mod refusal;
mod seen;
mod stepdown;
mod token;
mod view;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use larder_shared::{
    Digest, RegistryName,
    admin::{StepName, StepOutcome},
};
use moka::future::Cache;

pub use self::{
    authorization::Lend,
    knock::{Knock, Knocked},
    probe::{Others, Say},
    question::{Answer, Ask, Failure, Limit, Need, Refusal, Refused, Subject, Want, content_range},
    stepdown::Became,
    view::{EndpointHealth, Quota},
};
use self::{
    authorization::{Scheme, SchemeKey},
    health::{Admission, Health, Silent},
    location::{Location, LocationKey},
    stepdown::{Manners, Missed, Seen},
    token::Tokens,
};
use crate::{
    client::{self, Client},
    config::{Config, Endpoint, Upstream},
    events,
    metrics::Metrics,
};

/// The head of an answer must come within this time. Below the 5 s in which larder answers its own client.
const FIRST_BYTE: Duration = Duration::from_secs(4);

/// An endpoint that failed is asked once more after this long, with jitter, where nobody else is left to ask.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// An endpoint that gave wrong bytes for a digest is asked for it last for this long.
const LIAR_TTL: Duration = Duration::from_mins(10);

/// All upstreams.
#[derive(Debug)]
pub struct Upstreams {
    config: Arc<ArcSwap<Config>>,
    client: Arc<Client>,
    metrics: Arc<Metrics>,
    tokens: Tokens,
    /// Which challenge a repository of an endpoint answers with, so that the token comes with the first request.
    schemes: Cache<SchemeKey, Scheme>,
    locations: Cache<LocationKey, Location>,
    /// By `scheme://host:port`.
    health: Mutex<HashMap<String, Health>>,
    /// Other larders that ask the same registries.
    others: OnceLock<Arc<dyn Others>>,
    /// Endpoints that gave wrong bytes for a digest, and how often. They are asked for it last.
    corrupt: Cache<(String, Digest), u32>,
    manners: Manners,
}

impl Upstreams {
    pub fn new(config: Arc<ArcSwap<Config>>, client: Arc<Client>, metrics: Arc<Metrics>) -> Self {
        Self {
            config,
            client,
            metrics,
            tokens: Tokens::new(),
            schemes: authorization::schemes(),
            locations: location::locations(),
            health: Mutex::default(),
            others: OnceLock::new(),
            corrupt: Cache::builder()
                .max_capacity(10_000)
                .time_to_live(LIAR_TTL)
                .build(),
            manners: Manners::new(),
        }
    }

    /// Asks the endpoints in order. The first that has it answers; if none has, the origin's word counts.
    pub async fn ask(&self, ask: &Ask) -> Result<Answer, Failure> {
        if ask.identity.is_lost() {
            return Err(Failure::Unreachable {
                place: ask.registry.to_string(),
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
            let all = ask.within.unwrap_or(FIRST_BYTE);
            let left = all.saturating_sub(begun.elapsed());
            // Where the origin alone proves, nobody stands behind it.
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
            let place = health_key(ask, endpoint);
            let turn = match self.health(&place, |health| health.admit(Instant::now())) {
                Admission::Go => Turn::First,
                Admission::Probe => {
                    if !self.may_probe(&place, probe::silence(ask, endpoint)).await {
                        let silent = self.health(&place, |health| health.silent(Instant::now()));
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
        // Nothing else can answer: a request that needs an answer is the probe.
        for index in avoided {
            let endpoint = &endpoints[index];
            let asked = if ask.need == Need::Optional {
                Err(Missed::from(Failure::Unreachable {
                    place: client::origin(&endpoint.url),
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
        // One failure may be over by now, or be that of a range alone. Not where a cached answer would do, nor where the
        // origin has said what counts.
        let settled = |(index, failure): &(usize, Failure)| {
            let open = match failure {
                Failure::Unreachable { .. } => true,
                // A mirror may have what the origin has no more.
                Failure::NotFound(_) => matches!(ask.subject, Subject::Blob(_)),
                _ => false,
            };
            *index == origin && !open
        };
        if ask.need == Need::Optional || failures.iter().any(settled) {
            again.clear();
        }
        for index in again {
            let left = ask.within.unwrap_or(FIRST_BYTE);
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
                    place: ask.registry.to_string(),
                    why: "no endpoint".to_owned(),
                },
                |(_, failure)| failure,
            )),
        }
    }

    /// The order of the endpoints for this question: from `first` on and around, corrupt last.
    async fn order(&self, ask: &Ask, endpoints: &[Endpoint]) -> Vec<usize> {
        let count = endpoints.len();
        let mut order: Vec<usize> = (0..count).map(|i| (i + ask.first) % count).collect();
        if let Some(digest) = ask.subject.digest() {
            let mut lies = Vec::with_capacity(count);
            for endpoint in endpoints {
                let key = (client::origin(&endpoint.url), digest);
                lies.push(self.corrupt.get(&key).await.unwrap_or(0));
            }
            order.sort_by_key(|index| lies[*index]);
        }
        order
    }

    /// Asks one endpoint, maybe as the probe of a silence, and takes note of how it fares.
    async fn ask_counted(
        &self,
        ask: &Ask,
        index: usize,
        endpoint: &Endpoint,
        upstream: &Upstream,
        patience: Option<Duration>,
        turn: Turn,
    ) -> Result<Answer, Missed> {
        let place = health_key(ask, endpoint);
        let mut unanswered = Unanswered {
            upstreams: self,
            place: &place,
            since: (ask.need != Need::Beside).then(Instant::now),
        };
        let again = turn == Turn::Again;
        let probe = turn == Turn::Probe;
        // Boxed: a token dance is rare and large, and every request carries room for it.
        let asking = Box::pin(self.ask_stepping_down(ask, index, endpoint, upstream, again));
        let asked = match patience {
            Some(patience) => tokio::time::timeout(patience, asking)
                .await
                .unwrap_or_else(|_| {
                    let why = format!("no answer within {} ms", patience.as_millis());
                    let place = client::origin(&endpoint.url);
                    Err(Failure::Unreachable { place, why }.into())
                }),
            None => asking.await,
        };
        unanswered.since = None;
        drop(unanswered);
        let (asked, missed) = match asked {
            Ok(answer) => (Ok(answer), None),
            Err(missed) => (Err(missed.failure), Some((missed.seen, missed.again))),
        };
        let now = Instant::now();
        self.health(&place, |health| match &asked {
            // What was asked twice has failed once.
            Err(Failure::Unreachable { .. }) if again => {}
            Err(Failure::Unreachable { .. }) => health.failed(now, fastrand::f64()),
            Err(Failure::Limited {
                retry_after, why, ..
            }) => health.limited(now, *retry_after, *why, probe),
            _ => health.answered(probe),
        });
        let unanswered = matches!(
            asked,
            Err(Failure::Unreachable { .. } | Failure::Limited { .. })
        );
        if probe && !unanswered {
            self.probed(probe::silence(ask, endpoint));
        }
        if let Ok(answer) = &asked
            && let Some((quota, window)) = Quota::read(|name| answer.header(name))
        {
            self.health(&place, |health| health.quota = Some((quota, now + window)));
        }
        self.count_asked(ask, &asked);
        events::step(StepName::Upstream, || {
            let origin = client::origin(&endpoint.url);
            match &asked {
                Ok(_) => (StepOutcome::Answered, format!("{origin} answered")),
                Err(failure @ Failure::Limited { .. }) => {
                    (StepOutcome::Silent, failure.to_string())
                }
                Err(failure @ (Failure::Unreachable { .. } | Failure::Invalid { .. })) => {
                    (StepOutcome::Unanswered, failure.to_string())
                }
                Err(failure) => (StepOutcome::Answered, failure.to_string()),
            }
        });
        if let Err(failure) = &asked {
            tracing::debug!(upstream.endpoint = place, %failure, "an endpoint did not answer");
        }
        let (seen, again) = missed.unwrap_or((Seen::Fits, false));
        asked.map_err(|failure| Missed {
            failure,
            seen,
            again,
        })
    }

    fn health<T>(&self, place: &str, look: impl FnOnce(&mut Health) -> T) -> T {
        let mut all = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(place) {
            // Anyone may name any registry: what is remembered must not grow without bound.
            if all.len() >= 10_000 {
                all.clear();
            }
            all.insert(place.to_owned(), Health::new(Instant::now()));
        }
        match all.get_mut(place) {
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
        {
            let place = client::origin(&endpoint.url);
            tracing::warn!(upstream.endpoint = place, blob.digest = %digest, "an endpoint gave wrong bytes and is asked last for this digest; look at it, and at what is between");
            // Where several brought the bytes of one blob, all are suspected; the one that lies again goes last.
            let key = (place, *digest);
            let lies = self.corrupt.get(&key).await.unwrap_or(0);
            let now = Instant::now();
            let otherwise = self.manners.note(&key.0, digest, Became::Wrong, now);
            self.corrupt.insert(key, lies + 1).await;
            otherwise
        }
    }

    /// Whether the first answer of a registry already proves access: no mirror is asked before the origin.
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

/// Why an endpoint is asked now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    First,
    /// Whether it still wants silence.
    Probe,
    /// It failed a moment ago, and no other endpoint is left.
    Again,
}

/// A caller that gives up waiting is a failure of the endpoint as well, or nobody would ever learn that it hangs.
struct Unanswered<'a> {
    upstreams: &'a Upstreams,
    place: &'a str,
    since: Option<Instant>,
}

/// A caller that leaves earlier than this has its own reasons.
const PATIENCE: Duration = Duration::from_secs(1);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            self.upstreams.health(self.place, |health| {
                health.failed(Instant::now(), fastrand::f64());
            });
        }
    }
}

/// Credentials have quotas of their own: who asks is part of how an endpoint fares (promise P15).
fn health_key(ask: &Ask, endpoint: &Endpoint) -> String {
    let place = client::origin(&endpoint.url);
    if ask.identity.is_anonymous() {
        place
    } else {
        format!("{place} {}", ask.identity.fingerprint())
    }
}

fn limited(place: String, silent: Silent) -> Failure {
    Failure::Limited {
        place,
        retry_after: Some(silent.left),
        why: silent.why,
    }
}
