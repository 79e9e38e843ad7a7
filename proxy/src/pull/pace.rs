//! The speed at which larder brings a blob that no client waits for: at a given rate, and after blobs that clients wait
//! for.
//!
//! A fill fetches only a little more than its readers have read, so a slow reader makes a slow fetch.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use larder_shared::{RangeHeader, range::Spec};

/// The pause between two checks whether clients wait.
const GLANCE: Duration = Duration::from_millis(200);

/// The longest total wait for clients. Without it, a constant stream of clients would stop the fetch for ever.
const LONGEST: Duration = Duration::from_mins(5);

/// A delay of more than this is not made up for by going faster.
const CATCH_UP: Duration = Duration::from_millis(200);

/// A blob of up to this many bytes may be fetched whole, even while clients wait.
const LARGE: u64 = 8 << 20;

/// The pace of all fetches that share one rate.
pub struct Pace {
    /// The fetch may stop for clients, or has a rate.
    slow: bool,
    /// Bytes per second; `None` for no limit.
    rate: Option<u64>,
    due: Mutex<Option<Instant>>,
    /// How many checks so far found clients waiting.
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
    /// No limit, and no waiting for clients.
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

    /// The range to ask for, given the blob's length. A large blob that is read slowly is asked for with an open range,
    /// as by a client that may leave. If it were asked for as a whole, the fill would fetch it at full speed.
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

    /// Waits as long as this many bytes should take, and for clients that have arrived meanwhile.
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
