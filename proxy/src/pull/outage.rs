//! Questions that upstream left unanswered a moment ago.
//!
//! A client that got a 503 asks for the same content again at once: with a credential, as a blob, or as a retry. A
//! registry that hangs would use up the whole time of each of these requests. So upstream is still asked, but with
//! little patience, and the other members have their turn sooner.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use larder_shared::{Reference, Route};
use lru::LruCache;

use crate::access::Place;

/// For so long after a silence, upstream is asked with little patience. If such a brief question stays unanswered, this
/// time is not prolonged, so that a slow registry gets its full time again.
const REMEMBERED: Duration = Duration::from_secs(5);

/// How many silences are remembered, since a client may ask for anything.
const THINGS: NonZeroUsize = NonZeroUsize::new(1000).unwrap();

/// The time that upstream gets after a recent silence. A registry that is back answers within it.
pub(super) const LITTLE: Duration = Duration::from_millis(700);

/// The same, within a request whose first question already took its time.
pub(super) const SOME: Duration = Duration::from_millis(1500);

/// A failure that came sooner than this made no client wait: a refused connection, an open breaker.
const UNANSWERED: Duration = Duration::from_millis(500);

/// A hash of the requested content, whatever the form of the request. A collision costs one hurried question.
fn thing(place: &Place, route: &Route) -> Option<u64> {
    let mut hash = DefaultHasher::new();
    (&place.registry, &place.repository).hash(&mut hash);
    match route {
        Route::Manifest(_, Reference::Tag(tag)) => tag.hash(&mut hash),
        Route::Manifest(_, Reference::Digest(digest)) | Route::Blob(_, digest) => {
            digest.hash(&mut hash);
        }
        Route::Ping | Route::Tags(..) | Route::Referrers(..) => return None,
    }
    Some(hash.finish())
}

/// What an attempt says about upstream's silence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lesson {
    /// Upstream is silent.
    Silent,
    /// Upstream answered.
    Answers,
    /// Nothing new.
    None,
}

/// An attempt that is dropped after this long was ended by larder's own time limit, or would have been.
const LEFT_LATE: Duration = Duration::from_secs(4);

/// `answered`: whether the answer is upstream's; `None` if the client left before there was an answer.
fn lesson(answered: Option<bool>, brief: bool, took: Duration) -> Lesson {
    match answered {
        Some(true) => Lesson::Answers,
        Some(false) if !brief && took >= UNANSWERED => Lesson::Silent,
        // A client that leaves early says nothing about the registry.
        None if !brief && took >= LEFT_LATE => Lesson::Silent,
        Some(false) | None => Lesson::None,
    }
}

/// All silences of the last seconds.
#[derive(Debug)]
pub struct Outages(Mutex<LruCache<u64, Instant>>);

impl Default for Outages {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(THINGS)))
    }
}

impl Outages {
    /// Begins an attempt, whose result the caller reports with [`Attempt::ended`]. Without a report, the attempt counts
    /// as abandoned when it is dropped.
    pub(super) fn begin(&self, place: &Place, route: &Route) -> Attempt<'_> {
        let thing = thing(place, route);
        let brief = thing.is_some_and(|thing| self.was_silent(thing));
        Attempt {
            outages: self,
            thing,
            brief,
            began: Instant::now(),
            answered: None,
        }
    }

    fn was_silent(&self, thing: u64) -> bool {
        let silences = self.lock();
        // For a healthy registry, the usual case, nothing is remembered.
        let since = silences.peek(&thing);
        since.is_some_and(|since| since.elapsed() < REMEMBERED)
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<u64, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One attempt.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    outages: &'a Outages,
    thing: Option<u64>,
    brief: bool,
    began: Instant,
    answered: Option<bool>,
}

impl Attempt<'_> {
    /// The patience with upstream, where it is less than usual.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.brief.then_some(LITTLE)
    }

    /// Reports the result: whether upstream was silent.
    pub(super) fn ended(mut self, silent: bool) {
        self.answered = Some(!silent);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let Some(thing) = self.thing.take() else {
            return;
        };
        match lesson(self.answered, self.brief, self.began.elapsed()) {
            Lesson::Silent => {
                self.outages.lock().put(thing, Instant::now());
            }
            Lesson::Answers if self.brief => {
                self.outages.lock().pop(&thing);
            }
            Lesson::Answers | Lesson::None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_attempt_makes_a_silence_and_any_answer_ends_it() {
        let (soon, late) = (Duration::from_millis(3), Duration::from_secs(2));
        for (answered, brief, took, expected) in [
            (Some(true), false, late, Lesson::Answers),
            (Some(true), true, soon, Lesson::Answers),
            (Some(false), false, late, Lesson::Silent),
            // The client left, or the time limit on its headers ended the attempt.
            (None, false, LEFT_LATE, Lesson::Silent),
            (None, false, late, Lesson::None),
            // A refused connection costs no time.
            (Some(false), false, soon, Lesson::None),
            (None, false, soon, Lesson::None),
            // Otherwise a client that asks often enough would never let a slow registry finish an answer.
            (Some(false), true, LITTLE, Lesson::None),
            (None, true, late, Lesson::None),
        ] {
            let found = lesson(answered, brief, took);
            assert_eq!(found, expected, "{answered:?} {brief} {took:?}");
        }
    }
}
