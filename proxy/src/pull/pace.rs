//! How fast a blob is brought that no client waits for: at a rate, and after those that clients wait for.
//!
//! A fill fetches little more than its readers have read, so to read slowly is to fetch slowly.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use larder_shared::{RangeHeader, range::Spec};

/// Between two looks whether clients wait.
const GLANCE: Duration = Duration::from_millis(200);

/// So long it waits for clients in all: those that never stop do not keep it away for ever.
const LONGEST: Duration = Duration::from_mins(5);

/// What could not be had in time is not caught up with.
const CATCH_UP: Duration = Duration::from_millis(200);

/// So much of a blob may come whatever clients wait for.
const LARGE: u64 = 8 << 20;

/// Shared by all that goes at one rate.
pub struct Pace {
    /// It may stop for clients, or has a rate.
    slow: bool,
    /// Bytes a second; `None`: as they come.
    rate: Option<u64>,
    due: Mutex<Option<Instant>>,
    /// Looks at clients so far that found them waiting.
    waited: AtomicU32,
    /// Whether clients wait for bytes.
    busy: Box<dyn Fn() -> bool + Send + Sync>,
}

impl std::fmt::Debug for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pace")
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}

impl Pace {
    /// As fast as it goes, beside all clients.
    pub fn free() -> Self {
        Self {
            slow: false,
            ..Self::new(None, || false)
        }
    }

    pub fn new(rate: Option<u64>, busy: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self {
            slow: true,
            rate,
            due: Mutex::default(),
            waited: AtomicU32::new(0),
            busy: Box::new(busy),
        }
    }

    /// What of a blob of this length is asked for: of a large one that is read slowly everything is, but as a client does that
    /// may leave. Else the fill would fetch all of it as fast as it comes.
    pub fn range(&self, size: u64) -> RangeHeader {
        if self.slow && size > LARGE {
            RangeHeader::Bytes(vec![Spec::Open(0)])
        } else {
            RangeHeader::Whole
        }
    }

    /// Waits until no client waits for bytes.
    pub async fn turn(&self) {
        while (self.busy)() && GLANCE * self.waited.load(Relaxed) < LONGEST {
            tokio::time::sleep(GLANCE).await;
            self.waited.fetch_add(1, Relaxed);
        }
    }

    /// Waits as long as so many bytes should take, and for clients that have come meanwhile.
    pub async fn after(&self, bytes: u64) {
        self.turn().await;
        let Some(rate) = self.rate else {
            return;
        };
        let until = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
            let from = due.map_or(now, |due| due.max(earliest));
            let until = from + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
            *due = Some(until);
            until
        };
        tokio::time::sleep_until(until.into()).await;
    }
}
