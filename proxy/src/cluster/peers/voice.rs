//! How a member sounds: when it was last heard, and how long its silence is borne.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use larder_shared::{Digest, Role};
use tokio::sync::Semaphore;

/// Nothing for this long, and the member is asked whether it is alive; it has this long to say so. Together they are how
/// long a reader waits for a member that is gone.
pub(super) const QUIET: Duration = Duration::from_millis(80);
const SIGN_OF_LIFE: Duration = Duration::from_millis(120);

/// How long a member has while nothing is known of how long its signs take: a connection has to be made first.
const UNMEASURED: Duration = Duration::from_millis(301);

/// How long signs take is measured this often while a member is asked for something.
const MEASURED: Duration = Duration::from_millis(500);

/// Requests for one digest to one member at once. More would each cost a handshake and bring nothing. Another digest has
/// slots of its own: what its source trickles must not be waited for by what the member has on its disk.
const AT_ONCE: usize = 4;

/// A member that is heard so soon after it was taken for dead was only slow.
const FALSE_ALARM: Duration = Duration::from_millis(400);

/// However slow a member has been, it has no longer than this.
pub(super) const SLOWEST: Duration = Duration::from_secs(1);

/// How a member sounds.
#[derive(Debug)]
pub(super) struct Voice {
    /// When it was last heard, in milliseconds since the start.
    heard: AtomicU64,
    /// How long it has to show a sign of life, in milliseconds: more where signs take long, be it that the network is full
    /// or that the member is, and for one that was taken for dead and was not.
    patience: AtomicU64,
    /// When it was last asked for a sign.
    asked: AtomicU64,
    /// When it was last taken for dead; 0 if it was heard since.
    missed: AtomicU64,
    /// For each role as many as there may be requests under way: a relay that is waited for must find one to ask its root.
    slots: Mutex<HashMap<(Digest, Role), Weak<Semaphore>>>,
}

impl Default for Voice {
    fn default() -> Self {
        Self {
            heard: AtomicU64::new(0),
            patience: AtomicU64::new(UNMEASURED.as_millis() as u64),
            asked: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            slots: Mutex::default(),
        }
    }
}

impl Voice {
    pub(super) fn note(&self) {
        let now = now();
        self.heard.store(now, Ordering::Relaxed);
        let missed = self.missed.swap(0, Ordering::Relaxed);
        if missed > 0 && now.saturating_sub(missed) < FALSE_ALARM.as_millis() as u64 {
            self.set_patience(2 * self.patience.load(Ordering::Relaxed));
        }
    }

    /// The slots for a digest in a role. They are there for as long as somebody has them or waits for one.
    pub(super) fn slots(&self, digest: &Digest, role: Role) -> Arc<Semaphore> {
        let mut all = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slots) = all.get(&(*digest, role)).and_then(Weak::upgrade) {
            return slots;
        }
        all.retain(|_, slots| slots.strong_count() > 0);
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        all.insert((*digest, role), Arc::downgrade(&slots));
        slots
    }

    pub(super) fn is_quiet(&self) -> bool {
        now().saturating_sub(self.heard.load(Ordering::Relaxed)) >= QUIET.as_millis() as u64
    }

    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.patience.load(Ordering::Relaxed))
    }

    fn set_patience(&self, millis: u64) {
        let (least, most) = (SIGN_OF_LIFE.as_millis() as u64, SLOWEST.as_millis() as u64);
        self.patience
            .store(millis.clamp(least, most), Ordering::Relaxed);
    }

    /// Whether it is time to measure how long a sign takes.
    pub(super) fn is_due(&self) -> bool {
        let (now, asked) = (now(), self.asked.load(Ordering::Relaxed));
        let due = asked == 0 || now.saturating_sub(asked) >= MEASURED.as_millis() as u64;
        if due {
            self.asked.store(now.max(1), Ordering::Relaxed);
        }
        due
    }

    /// A sign came after `took`, or did not come in time. Patience rises at once and sinks by and by.
    pub(super) fn note_sign(&self, took: Option<Duration>) {
        let before = self.patience.load(Ordering::Relaxed);
        match took {
            Some(took) => {
                let first = before == UNMEASURED.as_millis() as u64;
                let sinking = if first { 0 } else { before * 3 / 4 };
                self.set_patience((6 * took.as_millis() as u64).max(sinking));
            }
            None => self.missed.store(now().max(1), Ordering::Relaxed),
        }
    }
}

/// Milliseconds since the first look at this clock.
fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}
