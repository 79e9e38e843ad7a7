//! How an endpoint is asked for the bytes of a digest, and for how long what it did is remembered.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use larder_shared::Digest;
use lru::LruCache;

use super::Says;

/// An endpoint that a plain GET was needed for is asked plainly for this long.
pub(super) const REMEMBERED: Duration = Duration::from_mins(10);

/// Endpoints and digests that are remembered.
const MOST: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// How an endpoint is asked for the bytes of a digest.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(in crate::upstream) enum Manner {
    #[default]
    Ranges,
    /// By ranges, but one of them has just brought nothing.
    Doubted,
    Plain,
}

/// What became of a body, or of a question that was put in two ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Became {
    /// The range was not answered, and the plain GET was.
    SteppedDown,
    /// The body broke off before it brought a new byte. Whether it was that of a plain GET.
    BrokeOff { plain: bool },
    /// The bytes do not have their digest.
    Wrong,
    /// Neither way brought anything, and the fill has given up: that says nothing of ranges.
    Failed,
}

impl Manner {
    pub(in crate::upstream) fn after(self, became: Became) -> Self {
        match (self, became) {
            (_, Became::SteppedDown | Became::Wrong)
            | (Self::Doubted | Self::Plain, Became::BrokeOff { plain: false }) => Self::Plain,
            // A plain GET begins at the first byte each time: ranges at least go on where they stopped.
            (_, Became::BrokeOff { plain: true } | Became::Failed) => Self::Ranges,
            (Self::Ranges, Became::BrokeOff { plain: false }) => Self::Doubted,
        }
    }
}

/// What is remembered: of a digest at an endpoint, and of an endpoint as a whole.
#[derive(Debug)]
pub(in crate::upstream) struct Manners {
    known: Mutex<LruCache<Key, (Manner, Instant)>>,
    /// Endpoints that refused a range of one digest.
    suspected: Mutex<LruCache<String, (Digest, Instant)>>,
}

/// `scheme://host:port`, and the digest.
type Key = (String, Option<Digest>);

impl Manners {
    pub(in crate::upstream) fn new() -> Self {
        Self {
            known: Mutex::new(LruCache::new(MOST)),
            suspected: Mutex::new(LruCache::new(MOST)),
        }
    }

    fn all(&self) -> MutexGuard<'_, LruCache<Key, (Manner, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn suspected(&self) -> MutexGuard<'_, LruCache<String, (Digest, Instant)>> {
        self.suspected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// How `at` is asked for `digest`.
    pub(in crate::upstream) fn of(&self, at: &str, digest: &Digest, now: Instant) -> Manner {
        let mut all = self.all();
        let mut young = |digest| {
            let (manner, since) = *all.get(&(at.to_owned(), digest))?;
            (now.duration_since(since) < REMEMBERED).then_some(manner)
        };
        match young(None) {
            Some(Manner::Plain) => Manner::Plain,
            _ => young(Some(*digest)).unwrap_or_default(),
        }
    }

    /// Something became of what `at` was asked for `digest`. Says whether it is asked in another way from now on.
    pub(in crate::upstream) fn note(
        &self,
        at: &str,
        digest: &Digest,
        became: Became,
        now: Instant,
    ) -> bool {
        let before = self.of(at, digest, now);
        let after = before.after(became);
        self.all().put((at.to_owned(), Some(*digest)), (after, now));
        (before == Manner::Plain) != (after == Manner::Plain)
    }

    /// A plain GET of `digest` was answered at `at` where a range was not, which says this.
    pub(super) fn note_stepped(&self, at: &str, digest: &Digest, says: Says, now: Instant) {
        let lasting = match says {
            Says::Nothing => false,
            Says::OfEndpoint => true,
            Says::OfDigest => {
                let mut suspected = self.suspected();
                let before = suspected.get(at).copied();
                suspected.put(at.to_owned(), (*digest, now));
                before.is_some_and(|(other, since)| {
                    other != *digest && now.duration_since(since) < REMEMBERED
                })
            }
        };
        if lasting {
            let endpoint = (at.to_owned(), None);
            self.all().put(endpoint, (Manner::Plain, now));
        }
        let _ = self.note(at, digest, Became::SteppedDown, now);
    }

    /// `at` has answered a range behind the first byte: what it refused was not the range.
    pub(in crate::upstream) fn note_answered(&self, at: &str) {
        let mut suspected = self.suspected();
        if !suspected.is_empty() {
            suspected.pop(at);
        }
    }
}
