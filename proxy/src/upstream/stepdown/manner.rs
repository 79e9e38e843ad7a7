//! The manner in which an endpoint is asked for the bytes of a digest, and how long its behaviour is remembered.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use larder_shared::Digest;
use lru::LruCache;

use super::Says;

/// An endpoint that needed a plain GET is asked plainly for this long.
pub(super) const REMEMBERED: Duration = Duration::from_mins(10);

/// How many pairs of endpoint and digest are remembered.
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

/// The end of a body, or of a question that was asked in two forms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Became {
    /// The range failed, and the plain GET succeeded.
    SteppedDown,
    /// The body broke off before it brought a new byte. `plain`: it was the body of a plain GET.
    BrokeOff { plain: bool },
    /// The bytes do not have their digest.
    Wrong,
    /// Both forms failed, and the fill has given up. This says nothing about ranges.
    Failed,
}

impl Manner {
    pub(in crate::upstream) fn after(self, became: Became) -> Self {
        match (self, became) {
            (_, Became::SteppedDown | Became::Wrong)
            | (Self::Doubted | Self::Plain, Became::BrokeOff { plain: false }) => Self::Plain,
            // A plain GET starts at the first byte each time. Ranges at least go on where the last one stopped.
            (_, Became::BrokeOff { plain: true } | Became::Failed) => Self::Ranges,
            (Self::Ranges, Became::BrokeOff { plain: false }) => Self::Doubted,
        }
    }
}

/// The remembered manners: of a digest at an endpoint, and of an endpoint as a whole.
#[derive(Debug)]
pub(in crate::upstream) struct Manners {
    known: Mutex<LruCache<Key, (Manner, Instant)>>,
    /// Endpoints that refused a range of one digest.
    suspected: Mutex<LruCache<String, (Digest, Instant)>>,
}

/// `scheme://host:port` of an endpoint, and the digest; `None` for the endpoint as a whole.
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

    /// The manner in which `at` is asked for `digest`.
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

    /// Records what became of `digest` at `at`. Returns whether `at` is asked for it in another manner from now on.
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

    /// Records that `at` answered a plain GET of `digest` but not a range. `says` tells what that means.
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

    /// `at` has answered a range beyond the first byte, so the range was not the reason for its refusal.
    pub(in crate::upstream) fn note_answered(&self, at: &str) {
        let mut suspected = self.suspected();
        if !suspected.is_empty() {
            suspected.pop(at);
        }
    }
}
