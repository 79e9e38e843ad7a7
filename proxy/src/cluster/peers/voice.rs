//! A member's signs of life: when it was last heard, and how long it may be silent.

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

/// A member that is silent for `QUIET` is asked whether it is alive, and has at least `SIGN_OF_LIFE` to say so.
/// Together they are how long a reader waits for a member that is gone.
pub(super) const QUIET: Duration = Duration::from_millis(80);
const SIGN_OF_LIFE: Duration = Duration::from_millis(120);

/// How long a member has before its first sign of life was measured. A connection has to be made first, which takes
/// long on a node where everything begins at once. An address that does not answer is found out sooner.
const UNMEASURED: Duration = SLOWEST;

/// How long a member has at least after its first sign was measured, which may have come before the load began.
const MEASURED_ONCE: Duration = Duration::from_millis(600);

/// How long signs take is measured this often while a member is asked for something.
const MEASURED: Duration = Duration::from_millis(500);

/// Requests for one digest to one member at once. Each further one would cost a handshake and bring nothing. Every
/// digest has slots of its own: a request for bytes on the member's disk must not wait for those of another digest,
/// whose source is slow.
const AT_ONCE: usize = 4;

/// A member that is heard so soon after it was taken for dead was only slow.
const FALSE_ALARM: Duration = Duration::from_millis(400);

/// The longest that a member has for a sign of life, however slow it has been.
pub(super) const SLOWEST: Duration = Duration::from_secs(1);

/// What is known of a member's signs of life.
#[derive(Debug)]
pub(super) struct Voice {
    /// When it was last heard, in milliseconds since the start.
    heard: AtomicU64,
    /// How long the member has to show a sign of life, in milliseconds; 0 while nothing is known. It has more where
    /// signs take long, because the network or the member is busy, and after it was wrongly taken for dead.
    patience: AtomicU64,
    /// When it was last asked for a sign.
    asked: AtomicU64,
    /// When it was last taken for dead; 0 if it was heard since.
    missed: AtomicU64,
    /// The requests that may be under way. Each role has its own slots: a relay for which readers wait must find a slot
    /// to ask its root.
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

    /// The slots for a digest in a role. They last for as long as a request has one or waits for one.
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

    /// A member has long while nothing is known of it, and a first quick sign proves little.
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
