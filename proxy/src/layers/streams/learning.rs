//! The spans that one start of an image reads, in the order of the first reads.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::order::{START, SpanAt};

/// The spans that a start has read.
#[derive(Debug)]
pub struct Learning {
    began: Instant,
    read: Mutex<(Vec<SpanAt>, HashSet<SpanAt>)>,
}

impl Learning {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            read: Mutex::default(),
        })
    }

    /// A container has read something of a span.
    pub fn note(&self, place: SpanAt) {
        if self.began.elapsed() > START {
            return;
        }
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let (order, seen) = &mut *read;
        if seen.insert(place) {
            order.push(place);
        }
    }

    /// How much longer reads count as part of the start.
    pub fn left(&self) -> Duration {
        START.saturating_sub(self.began.elapsed())
    }

    /// The spans that were read so far.
    pub fn read(&self) -> Vec<SpanAt> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.0.clone()
    }
}
