//! Calls that may hang, above all those to a disk: each on its own thread, with a limit on their number and on the
//! wait.
//!
//! A call that hangs keeps its thread until it returns, and nothing can end it. The limits are on how many threads such
//! calls can take, and on how long a caller waits.

use std::{
    collections::HashSet,
    hash::Hash,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, task::JoinHandle, time::timeout};

/// A call did not return in time. It may return yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hangs;

/// A call that goes on even if no caller waits for it.
pub type Ongoing<T> = JoinHandle<Result<T, Hangs>>;

/// The limits for calls of one kind.
#[derive(Clone, Debug)]
pub struct Calls {
    room: Arc<Semaphore>,
    within: Duration,
}

impl Calls {
    /// At most `at_once` calls run at once; a caller waits for its call as long as `within`.
    pub fn new(at_once: usize, within: Duration) -> Self {
        Self {
            room: Arc::new(Semaphore::new(at_once)),
            within,
        }
    }

    /// The result of `call`, unless it takes too long: then the call goes on alone, and still counts as running. The
    /// time in the queue counts too.
    pub async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Hangs> {
        self.wait(self.to_its_end(call)).await?
    }

    /// Like [`Self::run`], as a future that owns its limits.
    pub async fn run_owned<T: Send + 'static>(
        self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Hangs> {
        self.run(call).await
    }

    /// Like [`Self::run`], without a limit on the wait. Callers that share the result wait by [`Self::wait`].
    pub async fn to_its_end<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Hangs> {
        let Ok(room) = Arc::clone(&self.room).acquire_owned().await else {
            return Err(Hangs);
        };
        let called = tokio::task::spawn_blocking(move || {
            let _room = room;
            call()
        });
        called.await.map_err(|_| Hangs)
    }

    /// Begins a call that a caller can wait for more than once, without starting it anew.
    pub fn begin<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Ongoing<T> {
        let calls = self.clone();
        tokio::spawn(async move { calls.to_its_end(call).await })
    }

    /// Waits for a call, for at most the limit.
    pub async fn wait<T>(&self, called: impl Future<Output = T>) -> Result<T, Hangs> {
        timeout(self.within, called).await.map_err(|_| Hangs)
    }
}

/// One caller at a time for each key, for threads that may block.
#[derive(Debug)]
pub struct Turns<K> {
    taken: Mutex<HashSet<K>>,
    given_back: Condvar,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self {
            taken: Mutex::default(),
            given_back: Condvar::new(),
        }
    }
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// Waits until no other caller has the turn at `key` (blocking).
    pub fn take(&self, key: &K) -> Turn<'_, K> {
        let taken = self.lock();
        let mut taken = self
            .given_back
            .wait_while(taken, |taken| taken.contains(key))
            .unwrap_or_else(PoisonError::into_inner);
        taken.insert(key.clone());
        Turn {
            turns: self,
            key: key.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A turn, given back when dropped.
#[derive(Debug)]
pub struct Turn<'a, K: Eq + Hash + Clone> {
    turns: &'a Turns<K>,
    key: K,
}

impl<K: Eq + Hash + Clone> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        self.turns.lock().remove(&self.key);
        self.turns.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    };

    use super::*;

    #[tokio::test]
    async fn calls_that_hang_take_no_more_threads_than_their_room() {
        let calls = Calls::new(2, Duration::from_millis(20));
        let begun = Arc::new(AtomicU32::new(0));
        let (release, hangs) = mpsc::channel::<()>();
        let hangs = Arc::new(Mutex::new(hangs));
        for _ in 0..10 {
            let (begun, hangs) = (Arc::clone(&begun), Arc::clone(&hangs));
            let call = move || {
                begun.fetch_add(1, Ordering::SeqCst);
                let _ = hangs.lock().unwrap().recv();
            };
            assert_eq!(calls.run(call).await, Err(Hangs));
        }
        assert_eq!(begun.load(Ordering::SeqCst), 2);
        drop(release);
        // Calls that return make room for others.
        while calls.run(|| 1).await != Ok(1) {}
    }

    #[tokio::test]
    async fn a_call_that_takes_long_is_waited_for_again() {
        let calls = Calls::new(1, Duration::from_millis(20));
        let (release, hangs) = mpsc::channel::<u32>();
        let mut ongoing = calls.begin(move || hangs.recv());
        for _ in 0..3 {
            assert!(calls.wait(&mut ongoing).await.is_err());
        }
        release.send(7).unwrap();
        let ended = loop {
            if let Ok(ended) = calls.wait(&mut ongoing).await {
                break ended;
            }
        };
        assert_eq!(ended.unwrap(), Ok(Ok(7)));
    }

    #[test]
    fn a_turn_is_for_one_and_keys_do_not_wait_for_each_other() {
        let turns = Turns::default();
        let inside = AtomicU32::new(0);
        let first = turns.take(&1);
        drop(turns.take(&2));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let _turn = turns.take(&1);
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
            assert_eq!(inside.load(Ordering::SeqCst), 0);
            drop(first);
        });
    }
}
