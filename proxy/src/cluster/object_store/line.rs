//! What waits to be written: a bounded list of jobs.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// One thing to write.
#[derive(Debug)]
pub(super) struct Job<K, V> {
    pub(super) key: K,
    pub(super) value: V,
    pub(super) bytes: u64,
    /// How often it has failed.
    pub(super) failed: u32,
    /// The job does not begin before then.
    pub(super) due: Instant,
}

/// A list of jobs, each key at most once.
#[derive(Debug)]
pub(super) struct Line<K, V> {
    state: Mutex<State<K, V>>,
    longest: usize,
    most_bytes: u64,
    changed: Notify,
}

#[derive(Debug)]
struct State<K, V> {
    waiting: VecDeque<Job<K, V>>,
    bytes: u64,
    /// Keys that are being written.
    busy: Vec<K>,
    closed: bool,
}

/// What became of a job that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    Waits,
    /// Its key waits already, or is being written.
    Known,
    Full,
}

impl<K: Eq + Clone, V> Line<K, V> {
    pub(super) fn new(longest: usize, most_bytes: u64) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                bytes: 0,
                busy: Vec::new(),
                closed: false,
            }),
            longest,
            most_bytes,
            changed: Notify::new(),
        }
    }

    /// Adds a job, unless its key is here. A single job may be larger than the bound.
    pub(super) fn push(&self, job: Job<K, V>) -> Pushed {
        let mut state = self.state();
        if state.busy.contains(&job.key) || state.waiting.iter().any(|w| w.key == job.key) {
            return Pushed::Known;
        }
        self.add(&mut state, job)
    }

    /// Adds a job; an older one with its key is forgotten.
    pub(super) fn replace(&self, job: Job<K, V>) -> Pushed {
        let mut state = self.state();
        if let Some(at) = state.waiting.iter().position(|w| w.key == job.key) {
            state.take(at);
        }
        self.add(&mut state, job)
    }

    fn add(&self, state: &mut State<K, V>, job: Job<K, V>) -> Pushed {
        let fits = state.waiting.is_empty()
            || state.waiting.len() < self.longest && state.bytes + job.bytes <= self.most_bytes;
        if state.closed || !fits {
            return Pushed::Full;
        }
        state.bytes += job.bytes;
        state.waiting.push_back(job);
        self.changed.notify_one();
        Pushed::Waits
    }

    /// The next job that is due; its key counts as busy until [`done`](Self::done). `None`: closed, and nothing is due.
    pub(super) async fn next(&self) -> Option<Job<K, V>> {
        loop {
            let wait = {
                let mut state = self.state();
                let now = Instant::now();
                let due = |w: &Job<K, V>, busy: &[K]| w.due <= now && !busy.contains(&w.key);
                let found = state.waiting.iter().position(|w| due(w, &state.busy));
                if let Some(at) = found {
                    let job = state.take(at);
                    state.busy.push(job.key.clone());
                    // Another worker may find more.
                    self.changed.notify_one();
                    return Some(job);
                }
                if state.closed {
                    // Wakes the next worker, so that each of them learns of the end.
                    self.changed.notify_one();
                    return None;
                }
                let soonest = state.waiting.iter().map(|w| w.due).min();
                soonest.map(|due| due.max(now + Duration::from_millis(1)))
            };
            let changed = self.changed.notified();
            match wait {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, changed).await;
                }
                None => changed.await,
            }
        }
    }

    /// Notes that a job has ended. With `again` it waits for another attempt, unless a newer job with its key does.
    /// `false` if the list is closed to another attempt.
    pub(super) fn done(&self, key: &K, again: Option<Job<K, V>>) -> bool {
        let mut state = self.state();
        if let Some(at) = state.busy.iter().position(|busy| busy == key) {
            state.busy.swap_remove(at);
        }
        let Some(job) = again else {
            return true;
        };
        if state.closed {
            return false;
        }
        if !state.waiting.iter().any(|w| w.key == job.key) {
            state.bytes += job.bytes;
            state.waiting.push_back(job);
        }
        self.changed.notify_one();
        true
    }

    /// Closes the list, and drops the jobs that are not due. Returns how many were dropped.
    pub(super) fn close(&self) -> usize {
        let mut state = self.state();
        state.closed = true;
        let now = Instant::now();
        let before = state.waiting.len();
        state.waiting.retain(|w| w.due <= now);
        state.bytes = state.waiting.iter().map(|w| w.bytes).sum();
        self.changed.notify_one();
        before - state.waiting.len()
    }

    /// How many jobs wait or are being written, and the bytes of the jobs that wait.
    pub(super) fn length(&self) -> (usize, u64) {
        let state = self.state();
        (state.waiting.len() + state.busy.len(), state.bytes)
    }

    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> State<K, V> {
    fn take(&mut self, at: usize) -> Job<K, V> {
        let job = self.waiting.remove(at).expect("a place in the list");
        self.bytes -= job.bytes;
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(key: &'static str, bytes: u64) -> Job<&'static str, u32> {
        Job {
            key,
            value: 0,
            bytes,
            failed: 0,
            due: Instant::now(),
        }
    }

    #[tokio::test]
    async fn bounds_and_doubles() {
        let line = Line::new(2, 10);
        assert_eq!(line.push(job("large", 99)), Pushed::Waits);
        assert_eq!(line.push(job("a", 1)), Pushed::Full, "too many bytes");
        assert_eq!(line.push(job("large", 99)), Pushed::Known);
        assert_eq!(line.next().await.unwrap().key, "large");
        assert_eq!(line.push(job("large", 99)), Pushed::Known, "it is written");
        assert!(line.done(&"large", None));
        assert_eq!(line.push(job("a", 1)), Pushed::Waits);
        assert_eq!(line.push(job("b", 1)), Pushed::Waits);
        assert_eq!(line.push(job("c", 1)), Pushed::Full, "too many");
        assert_eq!(line.length(), (2, 2));
    }

    #[tokio::test]
    async fn the_newer_value_of_a_key_is_written_last() {
        let line = Line::new(9, 99);
        line.replace(job("a", 1));
        line.replace(Job {
            value: 1,
            ..job("a", 2)
        });
        assert_eq!(line.length(), (1, 2));
        let first = line.next().await.unwrap();
        assert_eq!(first.value, 1);
        line.replace(Job {
            value: 2,
            ..job("a", 1)
        });
        let next = line.next();
        tokio::pin!(next);
        assert!(
            futures_util::poll!(&mut next).is_pending(),
            "not two at once"
        );
        // The older one failed: the newer one stands for both.
        line.done(&"a", Some(first));
        assert_eq!(next.await.unwrap().value, 2);
        assert_eq!(line.length(), (1, 0));
    }

    #[tokio::test]
    async fn nothing_before_its_time_and_nothing_after_the_end() {
        let line = Line::new(9, 99);
        let later = Instant::now() + Duration::from_millis(30);
        line.push(Job {
            due: later,
            ..job("later", 1)
        });
        line.push(job("now", 1));
        assert_eq!(line.next().await.unwrap().key, "now");
        assert_eq!(line.next().await.unwrap().key, "later");
        assert!(Instant::now() >= later);
        line.push(job("due", 1));
        let later = Instant::now() + Duration::from_mins(1);
        line.push(Job {
            due: later,
            ..job("never", 1)
        });
        assert_eq!(line.close(), 1);
        assert_eq!(line.push(job("more", 1)), Pushed::Full);
        assert_eq!(line.next().await.unwrap().key, "due");
        assert!(line.next().await.is_none());
    }
}
