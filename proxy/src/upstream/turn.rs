//! The turn of one endpoint: asks it, and records its health.

use std::time::{Duration, Instant};

use larder_shared::admin::{StepName, StepOutcome};

use super::{
    Upstreams,
    answer::Answer,
    failure::Failure,
    health::Silent,
    probe,
    question::{Ask, Need},
    stepdown::{Missed, Seen},
    view::Quota,
};
use crate::{
    client,
    config::{Endpoint, Upstream},
    events,
};

/// Why an endpoint is asked now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    First,
    /// To find out whether the endpoint still wants silence.
    Probe,
    /// The endpoint failed a moment ago, and no other one is left.
    Again,
}

impl Upstreams {
    /// Asks one endpoint, perhaps as the probe of a silence, and records its health.
    pub(super) async fn ask_counted(
        &self,
        ask: &Ask,
        index: usize,
        endpoint: &Endpoint,
        upstream: &Upstream,
        patience: Option<Duration>,
        turn: Turn,
    ) -> Result<Answer, Missed> {
        let key = health_key(ask, endpoint);
        let mut unanswered = Unanswered {
            upstreams: self,
            key: &key,
            since: (ask.need != Need::Beside).then(Instant::now),
        };
        let again = turn == Turn::Again;
        let probe = turn == Turn::Probe;
        // Boxed, since a token dance is rare and large, and every request's future would reserve room for it.
        let asking = Box::pin(self.ask_stepping_down(ask, index, endpoint, upstream, again));
        let asked = match patience {
            Some(patience) => tokio::time::timeout(patience, asking)
                .await
                .unwrap_or_else(|_| {
                    let why = format!("no answer within {} ms", patience.as_millis());
                    let at = client::origin(&endpoint.url);
                    Err(Failure::Unreachable { at, why }.into())
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
        self.health(&key, |health| match &asked {
            // The first attempt already counted as a failure.
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
            self.health(&key, |health| health.quota = Some((quota, now + window)));
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
            tracing::debug!(upstream.endpoint = key, %failure, "an endpoint did not answer");
        }
        let (seen, again) = missed.unwrap_or((Seen::Fits, false));
        asked.map_err(|failure| Missed {
            failure,
            seen,
            again,
        })
    }
}

/// Counts a failure if the caller stops waiting. Otherwise a hanging endpoint would never be avoided.
struct Unanswered<'a> {
    upstreams: &'a Upstreams,
    key: &'a str,
    since: Option<Instant>,
}

/// A caller that leaves earlier than this has its own reasons.
const PATIENCE: Duration = Duration::from_secs(1);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            self.upstreams.health(self.key, |health| {
                health.failed(Instant::now(), fastrand::f64());
            });
        }
    }
}

/// The key of an endpoint's health. Each credential has a quota of its own, so each has its own health (promise P15).
pub(super) fn health_key(ask: &Ask, endpoint: &Endpoint) -> String {
    let at = client::origin(&endpoint.url);
    if ask.identity.is_anonymous() {
        at
    } else {
        format!("{at} {}", ask.identity.fingerprint())
    }
}

pub(super) fn limited(at: String, silent: Silent) -> Failure {
    Failure::Limited {
        at,
        retry_after: Some(silent.left),
        why: silent.why,
    }
}
