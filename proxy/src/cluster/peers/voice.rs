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

/// How long a member has while nothing is known of how long its signs take. A connection has to be made first, which on a
/// node where everything begins at once takes as long as all of it. An address that does not answer is found out sooner.
const UNMEASURED: Duration = SLOWEST;

/// How long it has at least once the first sign was measured, which may have come before everything else began.
const MEASURED_ONCE: Duration = Duration::from_millis(600);

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
    /// or that the member is, and for one that was taken for dead and was not. 0 while nothing is known.
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
            patience: AtomicU64::new(0),
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
            self.set_patience(2 * self.patience().as_millis() as u64);
        }
    }

    /// The slots for a digest in a role. They are there for as long as a request has one or waits for one.
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
        match self.patience.load(Ordering::Relaxed) {
            0 => UNMEASURED,
            known => Duration::from_millis(known),
        }
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
                let least = match before {
                    0 => MEASURED_ONCE.as_millis() as u64,
                    before => before * 3 / 4,
                };
                self.set_patience((6 * took.as_millis() as u64).max(least));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What nothing is known of is borne for long, and a first quick sign proves little.
    #[test]
    fn patience_sinks_by_and_by_and_rises_at_once() {
        let voice = Voice::default();
        let quick = Some(Duration::from_millis(1));
        let mut before = voice.patience();
        assert_eq!(before, SLOWEST);
        for _ in 0..8 {
            voice.note_sign(quick);
            let now = voice.patience();
            assert!(now >= before * 3 / 5 || now == SIGN_OF_LIFE, "{now:?}");
            assert!(now <= before);
            before = now;
        }
        assert_eq!(voice.patience(), SIGN_OF_LIFE);
        voice.note_sign(Some(Duration::from_millis(100)));
        assert_eq!(voice.patience(), Duration::from_millis(600));
        voice.note_sign(Some(Duration::from_mins(1)));
        assert_eq!(voice.patience(), SLOWEST);
    }

    #[test]
    fn a_member_that_is_heard_soon_after_it_was_taken_for_dead_gets_twice_the_time() {
        let voice = Voice::default();
        (0..8).for_each(|_| voice.note_sign(Some(Duration::ZERO)));
        voice.note_sign(None);
        voice.note();
        assert_eq!(voice.patience(), 2 * SIGN_OF_LIFE);
        voice.note();
        assert_eq!(
            voice.patience(),
            2 * SIGN_OF_LIFE,
            "it is heard again, and that is all"
        );
    }
}
