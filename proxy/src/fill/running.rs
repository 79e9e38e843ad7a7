//! What the task of a fill keeps while it runs: its streams, its turn among the sources, and its patience.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Instant,
};

use tokio::{sync::OwnedSemaphorePermit, task::JoinSet};

use super::{
    Fill, FillError, Fills, Source, fetch::Track, lock, opened::End, patience::Patience,
    ramp::Ramp, suspects::Share,
};
use crate::upstream::Failure;

/// What the task alone knows.
pub(super) struct Running {
    pub(super) fills: Arc<Fills>,
    pub(super) fill: Arc<Fill>,
    /// The streams' own tasks, each with its number.
    pub(super) streams: JoinSet<(u64, End)>,
    /// The same streams as the plan sees them.
    pub(super) flights: Vec<Stream>,
    pub(super) next_id: u64,
    /// Bytes that all streams have received.
    pub(super) received: Arc<AtomicU64>,
    pub(super) ramp: Ramp,
    /// Whether the endpoint in use answers ranges; a stream finds out.
    pub(super) ranged: Arc<AtomicBool>,
    /// The source in use: an index into the list, which only grows.
    pub(super) source: usize,
    /// The endpoint to begin with: a count that goes on past the last endpoint, to the first again.
    pub(super) first: usize,
    /// The sources that brought bytes, each with its endpoint, in case the bytes turn out to be wrong.
    pub(super) used: Vec<(Source, usize)>,
    /// How often the bytes turned out to be wrong.
    pub(super) restarts: usize,
    /// Whether the length is known from a `Content-Range`, and no source has told another. A `Content-Length` alone is
    /// not enough: the body may end short of it.
    pub(super) sure: bool,
    pub(super) patience: Patience,
    /// What members brought, in case it turns out to be wrong.
    pub(super) shares: Vec<Share>,
    /// The member that said the length, if one did.
    pub(super) size_from: Option<Share>,
}

/// A stream under way, as the task knows it.
pub(super) struct Stream {
    pub(super) id: u64,
    /// One of the node's extra streams. The first stream of each depth needs none.
    pub(super) _permit: Option<OwnedSemaphorePermit>,
    pub(super) track: Arc<Track>,
    pub(super) source: Source,
    /// The endpoint that it began with.
    pub(super) first: usize,
    /// The first byte that it was to bring.
    pub(super) start: u64,
    /// How many members stand between it and the source.
    pub(super) depth: u8,
}

impl Running {
    /// The state of a task that has asked nothing yet.
    pub(super) fn new(fills: &Arc<Fills>, fill: &Arc<Fill>) -> Self {
        Self {
            fills: Arc::clone(fills),
            fill: Arc::clone(fill),
            streams: JoinSet::new(),
            flights: Vec::new(),
            next_id: 0,
            received: Arc::default(),
            ramp: Ramp::new(Instant::now()),
            ranged: Arc::new(AtomicBool::new(true)),
            source: 0,
            first: 0,
            used: Vec::new(),
            restarts: 0,
            sure: true,
            patience: Patience::of_fill(Instant::now()),
            shares: Vec::new(),
            size_from: None,
        }
    }

    /// Picks the sources in turn. If all of them were refused, the first refusal is the error.
    pub(super) fn pick_source(&mut self) -> Result<Source, FillError> {
        let state = lock(&self.fill.state);
        let good: Vec<&Source> = state
            .sources
            .iter()
            .filter(|source| !state.refusals.iter().any(|(refused, _)| refused == *source))
            .collect();
        match good.get(self.source % good.len().max(1)) {
            Some(source) => Ok((*source).clone()),
            None => Err(match state.refusals.first() {
                Some((_, failure)) => FillError::Upstream(failure.clone()),
                None => FillError::Broken("no source".to_owned()),
            }),
        }
    }

    /// Excludes a source. Its readers learn why, and the readers of other sources go on.
    pub(super) fn refuse(&mut self, source: Source, failure: Failure) {
        lock(&self.fill.state).refusals.push((source, failure));
        self.fill.wake_readers();
    }
}
