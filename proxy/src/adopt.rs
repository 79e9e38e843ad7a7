//! Which repository holds what the container runtime has: from a guess to a proof (promise P29).
//!
//! The runtime's labels and names only nominate. Anybody's manifest causes a label, labels lack ports, and names can be
//! made on the node. So each is a [`Guess`], and [`Adoption`] chooses which is looked at next. It is pure: the caller
//! says what came of a look, and what time it is. `pull::adopted` asks the origins; the pace is kept here.
//!
//! ```text
//! nominated --its file is hashed--> hashed --the origin returned the same bytes--> proven
//!     ^                             |  ^ ^
//!     |                             |  | +- later: no answer, a limit, a silence   (30 s, doubled up to 30 min)
//!     +---- the file changed -------+  +--- refused: 401, 403, 404, other bytes    (1 h, doubled up to a day)
//! ```

mod guess;
mod pace;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use larder_shared::{Digest, RegistryName};

pub use self::guess::{Guess, What, guesses};
use self::pace::Pace;

/// The most guesses that are followed.
pub const GUESSES: usize = 20_000;

/// The backoff after no answer: the first, and the longest.
const LATER: Duration = Duration::from_secs(30);
const LATER_MAX: Duration = Duration::from_mins(30);

/// The backoff after a refusal: the first, and the longest. A repository may become public, and a tag may move back.
const REFUSED: Duration = Duration::from_hours(1);
const REFUSED_MAX: Duration = Duration::from_hours(24);

/// A file that could not be hashed is tried again after this long.
const UNHASHED: Duration = Duration::from_mins(1);

/// What came of asking an origin about a guess.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answered {
    /// The origin returned the same bytes, or the repository was known to hold them.
    Proven,
    /// The tag points to something else.
    Elsewhere,
    Refused,
    Missing,
    /// The origin returned other bytes.
    Differs,
    /// No answer now. The registry is left alone for this long, if it said so.
    Later(Option<Duration>),
    /// The file here could not be read: it is hashed again first.
    Unread,
}

/// The state of a guess. Whether its file is hashed is kept by digest, in [`Adoption`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    Proven,
    /// Not asked again before that time.
    Later(Instant),
    Refused(Instant),
}

#[derive(Clone, Debug)]
struct Entry {
    guess: Guess,
    state: State,
    /// Answers in a row without a proof.
    tried: u32,
}

/// Numbers of guesses by state.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Standing {
    pub nominated: u64,
    pub hashed: u64,
    pub proven: u64,
    pub later: u64,
    pub refused: u64,
}

/// The next question, or how long to wait for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    Ask(Guess),
    /// No question is due before that time.
    Wait(Instant),
    Nothing,
}

/// All guesses, the most important first.
#[derive(Default, Debug)]
pub struct Adoption {
    entries: Vec<Entry>,
    hashed: HashSet<Digest>,
    /// Files that could not be hashed, and when they are tried again.
    unhashed: HashMap<Digest, Instant>,
    paces: HashMap<RegistryName, Pace>,
}

impl Adoption {
    /// Replaces the guesses. What is known of a guess that is still among them stays known.
    pub fn nominate(&mut self, guesses: Vec<Guess>, now: Instant) {
        let before = std::mem::take(&mut self.entries).into_iter();
        let mut before: HashMap<Guess, Entry> =
            before.map(|entry| (entry.guess.clone(), entry)).collect();
        let new = guesses.into_iter().take(GUESSES).map(|guess| {
            before.remove(&guess).unwrap_or(Entry {
                guess,
                state: State::Open,
                tried: 0,
            })
        });
        self.entries = new.collect();
        let guesses = self.entries.iter().map(|entry| &entry.guess);
        let digests: HashSet<&Digest> = guesses.clone().map(Guess::digest).collect();
        let registries: HashSet<&RegistryName> = guesses.map(|guess| &guess.registry).collect();
        self.hashed.retain(|digest| digests.contains(digest));
        self.unhashed.retain(|digest, _| digests.contains(digest));
        // A registry's pace outlives its guesses until it is rested: images that go and come back must not cause more
        // questions.
        self.paces
            .retain(|registry, pace| registries.contains(registry) || !pace.is_rested(now));
    }

    /// The guesses of which nothing is known yet.
    pub fn open(&self) -> Vec<Guess> {
        let open = self
            .entries
            .iter()
            .filter(|entry| entry.state == State::Open);
        open.map(|entry| entry.guess.clone()).collect()
    }

    /// Takes note that the repository is known to hold it: no question is needed.
    pub fn known(&mut self, guess: &Guess) {
        for entry in &mut self.entries {
            if entry.guess == *guess {
                entry.state = State::Proven;
            }
        }
    }

    /// What should be hashed next.
    pub fn next_to_hash(&self, now: Instant) -> Option<Digest> {
        let due = |digest: &Digest| self.unhashed.get(digest).is_none_or(|at| *at <= now);
        let digests = self.entries.iter().map(|entry| *entry.guess.digest());
        digests
            .into_iter()
            .find(|digest| !self.hashed.contains(digest) && due(digest))
    }

    /// Takes note that a file was hashed, and whether its bytes have the digest.
    pub fn hashed(&mut self, digest: &Digest, sound: bool, now: Instant) {
        if sound {
            self.unhashed.remove(digest);
            self.hashed.insert(*digest);
        } else {
            self.hashed.remove(digest);
            self.unhashed.insert(*digest, now + UNHASHED);
        }
    }

    /// What should be asked next. The pace of its registry counts it as asked.
    pub fn next_to_ask(&mut self, now: Instant) -> Next {
        let mut soonest: Option<Instant> = None;
        let mut wait = |at: Instant| soonest = Some(soonest.map_or(at, |other| other.min(at)));
        let hashed = |entry: &&Entry| self.hashed.contains(entry.guess.digest());
        for entry in self.entries.iter().filter(hashed) {
            match entry.state {
                State::Proven => continue,
                State::Later(at) | State::Refused(at) if at > now => {
                    wait(at);
                    continue;
                }
                State::Open | State::Later(_) | State::Refused(_) => {}
            }
            let registry = &entry.guess.registry;
            let pace = self
                .paces
                .entry(registry.clone())
                .or_insert_with(|| Pace::new(now));
            match pace.admit(now) {
                Ok(()) => return Next::Ask(entry.guess.clone()),
                Err(at) => wait(at),
            }
        }
        soonest.map_or(Next::Nothing, Next::Wait)
    }

    /// Takes note of what came of asking. `jitter` is from 0 to 1.
    pub fn answered(&mut self, guess: &Guess, answered: Answered, now: Instant, jitter: f64) {
        if let Some(pace) = self.paces.get_mut(&guess.registry) {
            match answered {
                Answered::Later(left_alone) => pace.failed(now, left_alone, jitter),
                Answered::Unread => {}
                _ => pace.answered(),
            }
        }
        let of_tag = matches!(guess.what, What::Tag(..));
        for entry in &mut self.entries {
            if entry.guess == *guess {
                entry.take(answered, now, jitter);
            } else if of_tag && answered == Answered::Proven && entry.guess.is_manifest_of(guess) {
                // Its bytes came with the tag's answer.
                entry.state = State::Proven;
            }
        }
        if answered == Answered::Unread {
            self.hashed(guess.digest(), false, now);
        }
    }

    /// How many guesses stand where.
    pub fn standing(&self) -> Standing {
        let mut standing = Standing::default();
        for entry in &self.entries {
            let of = match entry.state {
                State::Open if self.hashed.contains(entry.guess.digest()) => &mut standing.hashed,
                State::Open => &mut standing.nominated,
                State::Proven => &mut standing.proven,
                State::Later(_) => &mut standing.later,
                State::Refused(_) => &mut standing.refused,
            };
            *of += 1;
        }
        standing
    }
}

impl Entry {
    fn take(&mut self, answered: Answered, now: Instant, jitter: f64) {
        let backoff = |first: Duration, most: Duration, tried: u32| {
            let pause = first.saturating_mul(1 << tried.min(10)).min(most);
            // Jitter, so that members that began together do not go on together.
            now + pause.mul_f64(0.75 + 0.5 * jitter)
        };
        let tried = self.tried;
        self.tried = tried.saturating_add(1);
        self.state = match answered {
            Answered::Proven => {
                self.tried = 0;
                State::Proven
            }
            Answered::Elsewhere | Answered::Refused | Answered::Missing | Answered::Differs => {
                State::Refused(backoff(REFUSED, REFUSED_MAX, tried))
            }
            Answered::Later(_) => State::Later(backoff(LATER, LATER_MAX, tried)),
            Answered::Unread => State::Open,
        };
    }
}
