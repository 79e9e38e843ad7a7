//! Which members live: a pure state machine over the signs of life that came, and those that were missed.
//!
//! ```text
//!            missed                     missed again, WAIT later
//!   Living ──────────▶ Waited for ──────────────────────────────▶ Gone
//!      ▲    unlisted        │         unlisted for WAIT             │
//!      └────────────────────┴──────────── heard ────────────────────┘
//! ```
//!
//! A restart takes seconds and a network hiccup less, so a member that vanished is waited for. Until it is gone, it
//! counts as a holder of what it held. Times are seconds of any clock that only goes forward.

use std::{collections::HashMap, hash::Hash};

/// How long a member that vanished is waited for, in seconds.
pub const WAIT: u64 = 120;

/// A member that was silent for so many seconds is asked whether it lives.
pub const UNHEARD: u64 = 30;

/// Signs older than this do not tell how many members are missing now.
const LATELY: u64 = 180;

/// How long a member that left the list counts as missing. After that it is no member any more.
const FORGOTTEN: u64 = 900;

/// The state of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    Living,
    /// It vanished a short time ago.
    Waited,
    Gone,
}

#[derive(Clone, Copy, Debug)]
struct Signs {
    heard: u64,
    /// When it was missed first and last, since it was last heard.
    missed: Option<(u64, u64)>,
    unlisted: Option<u64>,
}

/// The signs of life of all other members.
#[derive(Debug)]
pub struct Lives<M> {
    all: HashMap<M, Signs>,
}

impl<M> Default for Lives<M> {
    fn default() -> Self {
        Self {
            all: HashMap::new(),
        }
    }
}

impl<M: Copy + Eq + Hash> Lives<M> {
    /// Takes the list of members. A member that is new on it counts as living until it is missed.
    pub fn list(&mut self, members: impl IntoIterator<Item = M>, now: u64) {
        for signs in self.all.values_mut() {
            signs.unlisted = signs.unlisted.or(Some(now));
        }
        for member in members {
            let signs = self.all.entry(member).or_insert(Signs {
                heard: 0,
                missed: None,
                unlisted: None,
            });
            // The member is back on the list, so earlier misses no longer count.
            if signs.unlisted.take().is_some_and(|at| at < now) {
                signs.missed = None;
            }
        }
        self.all
            .retain(|_, signs| signs.unlisted.is_none_or(|at| now < at + FORGOTTEN));
    }

    /// The member sent something.
    pub fn heard(&mut self, member: M, now: u64) {
        if let Some(signs) = self.all.get_mut(&member) {
            signs.heard = now;
            signs.missed = None;
        }
    }

    /// The member was asked and did not answer.
    pub fn missed(&mut self, member: M, now: u64) {
        if let Some(signs) = self.all.get_mut(&member) {
            let first = signs.missed.map_or(now, |(first, _)| first);
            signs.missed = Some((first, now));
        }
    }

    /// The state of a member. An unknown member is gone.
    pub fn life(&self, member: M, now: u64) -> Life {
        let Some(signs) = self.all.get(&member) else {
            return Life::Gone;
        };
        let left = signs.unlisted.is_some_and(|at| now >= at + WAIT);
        // Silence lasts from the first unanswered question to the last: a time without questions proves nothing.
        let silent = signs
            .missed
            .is_some_and(|(first, last)| last >= first + WAIT);
        match signs.unlisted.is_some() || signs.missed.is_some() {
            _ if left || silent => Life::Gone,
            true => Life::Waited,
            false => Life::Living,
        }
    }

    /// Whether a member is known to be gone. `false` for a member that is not known.
    pub fn is_gone(&self, member: M, now: u64) -> bool {
        self.all.contains_key(&member) && self.life(member, now) == Life::Gone
    }

    /// At most `most` members to ask for a sign of life: first those that were missed before, then those that were
    /// silent for longest.
    pub fn to_ask(&self, now: u64, most: usize) -> Vec<M> {
        let listed = self.all.iter().filter(|(_, s)| s.unlisted.is_none());
        let quiet = listed.filter(|(_, signs)| now >= signs.latest() + UNHEARD || signs.waits());
        let mut quiet: Vec<_> = quiet.map(|(m, s)| (!s.waits(), s.latest(), *m)).collect();
        quiet.sort_by_key(|(calm, latest, _)| (*calm, *latest));
        // Members that are missed for long must not keep the others from being asked.
        let (missed, calm): (Vec<_>, Vec<_>) = quiet.into_iter().partition(|(calm, ..)| !calm);
        let room = most.saturating_sub(calm.len()).max(most / 2);
        let missed = missed.into_iter().take(room);
        let asked = missed.chain(calm).take(most);
        asked.map(|(_, _, member)| member).collect()
    }

    /// Whether more than a third of the members is missing; this node counts as living. In a large cluster the members
    /// that were checked lately stand for all.
    pub fn too_many_are_missing(&self, now: u64) -> bool {
        let lately = |signs: &&Signs| signs.unlisted.is_some() || now < signs.latest() + LATELY;
        let looked_at = self.all.values().filter(lately);
        let (mut all, mut missing) = (1, 0);
        for signs in looked_at {
            all += 1;
            missing += usize::from(signs.missed.is_some() || signs.unlisted.is_some());
        }
        3 * missing > all
    }

    /// The members that are not gone.
    pub fn not_gone(&self, now: u64) -> Vec<M> {
        let members = self.all.keys().copied();
        members
            .filter(|m| self.life(*m, now) != Life::Gone)
            .collect()
    }
}

impl Signs {
    fn waits(&self) -> bool {
        self.missed.is_some()
    }

    fn latest(&self) -> u64 {
        self.missed
            .map_or(self.heard, |(_, last)| last.max(self.heard))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lives(count: u32, now: u64) -> Lives<u32> {
        let mut lives = Lives::default();
        lives.list(0..count, now);
        (0..count).for_each(|member| lives.heard(member, now));
        lives
    }

    #[test]
    fn a_member_that_vanished_is_waited_for() {
        let mut lives = lives(3, 1000);
        lives.missed(0, 1010);
        assert_eq!(lives.life(0, 1010), Life::Waited);
        // No question was asked meanwhile.
        assert_eq!(lives.life(0, 5000), Life::Waited);
        lives.missed(0, 1129);
        assert_eq!(lives.life(0, 1129), Life::Waited);
        lives.missed(0, 1130);
        assert_eq!(lives.life(0, 1130), Life::Gone);
        lives.heard(0, 1131);
        assert_eq!(lives.life(0, 1131), Life::Living);
    }

    #[test]
    fn a_member_that_left_the_list_is_waited_for_too() {
        let mut lives = lives(4, 1000);
        lives.list([1, 2, 3], 1010);
        assert_eq!(lives.life(0, 1010), Life::Waited);
        assert_eq!(lives.life(0, 1130), Life::Gone);
        lives.list([0, 1, 2, 3], 1131);
        assert_eq!(lives.life(0, 1131), Life::Living);
        lives.list([1, 2, 3], 1140);
        lives.list([1, 2, 3], 1140 + FORGOTTEN);
        assert_eq!(lives.all.len(), 3);
    }

    #[test]
    fn one_of_three_may_be_missing_and_two_of_five_may_not() {
        let now = 1000;
        for (others, missing, held) in [(2, 1, false), (1, 1, true), (4, 1, false), (4, 2, true)] {
            let mut lives = lives(others, now);
            (0..missing).for_each(|member| lives.missed(member, now));
            assert_eq!(
                lives.too_many_are_missing(now),
                held,
                "{missing} of {others}"
            );
        }
        let mut left = lives(7, now);
        left.list([0, 1, 2], now + 1);
        assert!(left.too_many_are_missing(now + 1));
        left.list([0, 1, 2], now + 1 + FORGOTTEN);
        assert!(!left.too_many_are_missing(now + 1 + FORGOTTEN));
    }

    #[test]
    fn many_that_are_missed_do_not_keep_the_others_from_being_asked() {
        let mut lives = lives(40, 1000);
        (0..20).for_each(|member| lives.missed(member, 1001));
        let asked = lives.to_ask(1000 + UNHEARD, 16);
        assert_eq!(asked.len(), 16);
        assert_eq!(asked.iter().filter(|member| **member < 20).count(), 8);
        assert_eq!(
            lives.to_ask(1001, 16).len(),
            16,
            "those missed are asked again soon"
        );
    }

    proptest! {
        /// A member that was heard within WAIT is never gone.
        #[test]
        fn no_member_is_gone_before_its_time(steps in prop::collection::vec((0u8..4, 1u64..90), 1..60)) {
            let mut lives = lives(3, 1000);
            let (mut now, mut heard) = (1000, 1000);
            for (what, later) in steps {
                now += later;
                match what {
                    0 => { lives.heard(0, now); heard = now; lives.list(0..3, now); }
                    1 => lives.missed(0, now),
                    2 => lives.list(1..3, now),
                    _ => lives.list(0..3, now),
                }
                if now < heard + WAIT {
                    prop_assert_ne!(lives.life(0, now), Life::Gone);
                }
            }
        }
    }
}
