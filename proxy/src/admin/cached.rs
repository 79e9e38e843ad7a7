//! Caches an answer that is expensive to compute, so that many visitors of the page cost no more than one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

/// The last answer. A caller that asks while a new one is computed waits for it.
#[derive(Debug)]
pub struct Cached<T> {
    last: Mutex<Option<Last<T>>>,
}

#[derive(Debug)]
struct Last<T> {
    /// The stamp for which the answer was computed.
    stamp: u64,
    found: Instant,
    took: Duration,
    asked: Instant,
    answer: Arc<T>,
}

/// How long a cached answer may be given.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// If the stamp has changed since.
    pub changed: Duration,
    /// If the stamp is the same.
    pub same: Duration,
}

/// Computing the answer may take one part in so many of the time: an answer that took long is kept for longer.
const SHARE: u32 = 20;

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self {
            last: Mutex::new(None),
        }
    }
}

impl<T> Cached<T> {
    /// The cached answer, or a new one if it is too old. `stamp` changes when the answer may have changed.
    pub async fn get<F: Future<Output = T>>(
        &self,
        stamp: u64,
        patience: Patience,
        find: impl FnOnce() -> F,
    ) -> Arc<T> {
        let mut last = self.last.lock().await;
        let now = Instant::now();
        if let Some(last) = last.as_mut() {
            last.asked = now;
            let good = if last.stamp == stamp {
                patience.same
            } else {
                patience.changed
            };
            if last.found.elapsed() < good.max(last.took * SHARE) {
                return Arc::clone(&last.answer);
            }
        }
        let answer = Arc::new(find().await);
        let found = Instant::now();
        *last = Some(Last {
            stamp,
            found,
            took: found - now,
            asked: found,
            answer: Arc::clone(&answer),
        });
        answer
    }

    /// Drops an answer that no caller has asked for lately.
    pub fn let_go(&self, after: Duration) {
        // A caller that holds the lock needs the answer.
        if let Ok(mut last) = self.last.try_lock()
            && last
                .as_ref()
                .is_some_and(|last| last.asked.elapsed() >= after)
        {
            *last = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const EVER: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn one_question_answers_all_that_ask() {
        let kept = Cached::default();
        let found = AtomicU32::new(0);
        let find = || async { found.fetch_add(1, Ordering::Relaxed) };
        let patience = Patience {
            changed: Duration::ZERO,
            same: EVER,
        };
        for (stamp, answer) in [(1, 0), (1, 0), (2, 1), (2, 1), (1, 2)] {
            // An answer that took no time may be computed again at once, as soon as the clock has moved.
            std::thread::sleep(Duration::from_millis(1));
            assert_eq!(*kept.get(stamp, patience, find).await, answer, "{stamp}");
        }
        kept.let_go(EVER);
        assert_eq!(*kept.get(1, patience, find).await, 2);
        kept.let_go(Duration::ZERO);
        assert_eq!(*kept.get(1, patience, find).await, 3);
    }

    #[tokio::test]
    async fn what_takes_long_is_found_out_seldom() {
        let kept = Cached::default();
        let at_once = Patience {
            changed: Duration::ZERO,
            same: Duration::ZERO,
        };
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            1
        };
        assert_eq!(*kept.get(1, at_once, slow).await, 1);
        // An answer that took half a second is kept for ten.
        assert_eq!(*kept.get(2, at_once, || async { 2 }).await, 1);
    }
}
