//! Events of requests as they happen, for listeners that are connected now (`larder explain --trace`).
//!
//! Owns the events and the listeners. Without a listener a request costs one look at a number. A slow listener misses
//! events, which are counted and reported to it. It never holds up a request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use larder_shared::admin::{StepName, StepOutcome, TraceEvent};
use tokio::sync::broadcast;

/// Events that are kept for a slow listener.
const BUFFER: usize = 1024;

tokio::task_local! {
    /// The request that this task works for, if there is a listener.
    static CURRENT: Option<Traced>;
}

/// Where requests report what they do. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    events: broadcast::Sender<Option<Arc<Heard>>>,
    requests: Arc<AtomicU64>,
}

/// An event, and the repository that its request asks for.
#[derive(Debug)]
pub struct Heard {
    pub registry: String,
    pub repository: String,
    pub event: TraceEvent,
}

/// The facts of a request that begins.
#[derive(Debug)]
pub struct Begun<'a> {
    /// `X-Request-ID`.
    pub request_id: &'a str,
    pub method: &'a str,
    /// Without the query.
    pub path: &'a str,
    pub registry: String,
    pub repository: String,
    pub agent: &'a str,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            events: broadcast::Sender::new(BUFFER),
            requests: Arc::default(),
        }
    }
}

impl Events {
    /// Reports that a request begins. Without a listener it returns `None` and does not call `begun`.
    pub fn begin<'a>(&self, begun: impl FnOnce() -> Begun<'a>) -> Option<Traced> {
        if self.events.receiver_count() == 0 {
            return None;
        }
        let begun = begun();
        let request = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let traced = Traced(Arc::new(Request {
            events: self.clone(),
            number: request,
            registry: begun.registry,
            repository: begun.repository,
            begun: Instant::now(),
        }));
        traced.tell(TraceEvent::Begin {
            request,
            request_id: begun.request_id.to_owned(),
            method: begun.method.to_owned(),
            path: begun.path.to_owned(),
            registry: traced.0.registry.clone(),
            repository: traced.0.repository.clone(),
            agent: begun.agent.to_owned(),
        });
        Some(traced)
    }

    /// A listener to all events from now on.
    pub fn listen(&self) -> Listener {
        Listener(self.events.subscribe())
    }

    /// Ends all listeners.
    pub fn close(&self) {
        // This fails only if there is no listener.
        let _ = self.events.send(None);
    }
}

/// One listener.
#[derive(Debug)]
pub struct Listener(broadcast::Receiver<Option<Arc<Heard>>>);

/// The next thing that a listener gets.
#[derive(Debug)]
pub enum Next {
    Event(Arc<Heard>),
    /// This many events were missed.
    Missed(u64),
    End,
}

impl Listener {
    pub async fn next(&mut self) -> Next {
        match self.0.recv().await {
            Ok(Some(heard)) => Next::Event(heard),
            Err(broadcast::error::RecvError::Lagged(missed)) => Next::Missed(missed),
            Ok(None) | Err(broadcast::error::RecvError::Closed) => Next::End,
        }
    }
}

/// A request with a listener.
#[derive(Clone, Debug)]
pub struct Traced(Arc<Request>);

#[derive(Debug)]
struct Request {
    events: Events,
    number: u64,
    registry: String,
    repository: String,
    begun: Instant,
}

impl Traced {
    /// Reports that the response's head is sent.
    pub fn answered(&self, status: u16, tier: &str, outcome: &str) {
        self.tell(TraceEvent::Answered {
            request: self.0.number,
            status,
            tier: tier.to_owned(),
            outcome: outcome.to_owned(),
            after_ms: self.after_ms(),
        });
    }

    /// Reports that the request is over.
    pub fn ended(&self, outcome: &str, sent_bytes: u64) {
        self.tell(TraceEvent::End {
            request: self.0.number,
            outcome: outcome.to_owned(),
            sent_bytes,
            after_ms: self.after_ms(),
        });
    }

    fn after_ms(&self) -> f64 {
        self.0.begun.elapsed().as_secs_f64() * 1000.0
    }

    fn tell(&self, event: TraceEvent) {
        let heard = Heard {
            registry: self.0.registry.clone(),
            repository: self.0.repository.clone(),
            event,
        };
        let _ = self.0.events.events.send(Some(Arc::new(heard)));
    }
}

/// Runs the work of a request, and reports its steps.
pub fn scope<F: Future>(traced: Option<Traced>, work: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(traced, work)
}

/// Runs work in another task as part of the same request.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let current = CURRENT.try_with(Clone::clone).ok().flatten();
    CURRENT.scope(current, work)
}

/// Reports a step of the current request. `told` is called only if there is a listener.
pub fn step(step: StepName, told: impl FnOnce() -> (StepOutcome, String)) {
    let _ = CURRENT.try_with(|current| {
        if let Some(traced) = current {
            let (outcome, detail) = told();
            traced.tell(TraceEvent::Step {
                request: traced.0.number,
                step: step.as_str().to_owned(),
                outcome: outcome.as_str().to_owned(),
                detail,
                after_ms: traced.after_ms(),
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun<'a>() -> Begun<'a> {
        Begun {
            request_id: "1",
            method: "GET",
            path: "/v2/a/manifests/b",
            registry: "r".to_owned(),
            repository: "a".to_owned(),
            agent: "",
        }
    }

    #[tokio::test]
    async fn nobody_is_told_where_nobody_listens() {
        let events = Events::default();
        assert!(events.begin(|| unreachable!("nobody listens")).is_none());
        drop(events.listen());
        assert!(
            events
                .begin(|| unreachable!("nobody listens any more"))
                .is_none()
        );
    }

    #[tokio::test]
    async fn steps_are_told_of_the_request_they_belong_to_also_in_another_task() {
        let events = Events::default();
        let mut listener = events.listen();
        let traced = events.begin(begun);
        scope(traced, async {
            let work = async { step(StepName::Tag, || (StepOutcome::Fresh, "x".to_owned())) };
            tokio::spawn(carried(work)).await.unwrap();
        })
        .await;
        step(StepName::Tag, || unreachable!("this is no request's"));
        assert!(matches!(listener.next().await, Next::Event(_)));
        let Next::Event(heard) = listener.next().await else {
            panic!("a step");
        };
        assert!(
            matches!(&heard.event, TraceEvent::Step { request: 1, outcome, .. } if outcome == "fresh")
        );
        events.close();
        assert!(matches!(listener.next().await, Next::End));
    }

    #[tokio::test]
    async fn what_a_slow_listener_missed_is_counted() {
        let events = Events::default();
        let mut listener = events.listen();
        for _ in 0..BUFFER + 10 {
            events.begin(begun);
        }
        assert!(matches!(listener.next().await, Next::Missed(10)));
        assert!(matches!(listener.next().await, Next::Event(_)));
    }
}
