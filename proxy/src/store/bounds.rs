//! What has to go so that the node tier stays within its bounds: a pure choice over the index.

use std::time::Duration;

use larder_shared::Digest;

use super::Entry;

/// The bounds in force, in bytes of now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// The most that blobs and partials may take together.
    pub max: u64,
    /// What must stay free on the file system.
    pub min_free: u64,
}

/// One blob, as far as the choice is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub digest: Digest,
    pub entry: Entry,
    /// How long it may stay without use; `None` for ever.
    pub ttl: Option<Duration>,
}

impl Candidate {
    /// Whether it has not been used for longer than it may stay.
    pub fn has_expired(&self, now: u64) -> bool {
        let age = Duration::from_secs(now.saturating_sub(self.entry.used));
        self.ttl.is_some_and(|ttl| age > ttl)
    }
}

/// Bytes that must be freed to be within `bounds`, when `used` are taken and `free` are free.
pub fn excess(bounds: Bounds, used: u64, free: u64) -> u64 {
    let over = used.saturating_sub(bounds.max);
    let short = bounds.min_free.saturating_sub(free);
    over.max(short)
}

/// What is evicted, in order: what has outlived its time, then the least recently used until `excess` bytes are free.
/// `stays` is asked last and only about those whose turn it is: it may be expensive.
pub fn victims(
    candidates: &mut [Candidate],
    now: u64,
    excess: u64,
    mut stays: impl FnMut(&Digest) -> bool,
) -> Vec<Digest> {
    candidates.sort_by_key(|candidate| candidate.entry.used);
    let mut freed = 0;
    let mut gone = Vec::new();
    for candidate in candidates {
        if (candidate.has_expired(now) || freed < excess) && !stays(&candidate.digest) {
            freed += candidate.entry.size;
            gone.push(candidate.digest);
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(name: u8, size: u64, used: u64, ttl: Option<u64>) -> Candidate {
        Candidate {
            digest: Digest::sha256(&[name]),
            entry: Entry { size, used },
            ttl: ttl.map(Duration::from_secs),
        }
    }

    #[test]
    fn excess_is_what_hurts_more() {
        let bounds = Bounds {
            max: 100,
            min_free: 50,
        };
        assert_eq!(excess(bounds, 100, 50), 0);
        assert_eq!(excess(bounds, 130, 50), 30);
        assert_eq!(excess(bounds, 130, 10), 40);
        assert_eq!(excess(bounds, 10, 10), 40);
    }

    #[test]
    fn the_old_go_first_then_the_least_recently_used_and_the_kept_stay() {
        let mut all = [
            candidate(1, 10, 500, Some(100)),
            candidate(2, 10, 100, None),
            candidate(3, 10, 200, None),
            candidate(4, 10, 950, Some(100)),
            candidate(5, 10, 990, None),
        ];
        let name = |n: u8| Digest::sha256(&[n]);
        assert_eq!(victims(&mut all, 1000, 0, |_| false), [name(1)]);
        assert_eq!(
            victims(&mut all, 1000, 15, |_| false),
            [name(2), name(3), name(1)]
        );
        assert_eq!(
            victims(&mut all, 1000, 15, |d| *d == name(2)),
            [name(3), name(1)]
        );
    }

    proptest! {
        /// Enough goes if enough may go, and nothing is taken that is younger than something that stays and may go.
        #[test]
        fn just_enough(sizes in prop::collection::vec((1u64..100, 0u64..1000), 1..30), excess in 0u64..2000) {
            let mut all: Vec<Candidate> = sizes.iter().enumerate().map(|(i, (size, used))| candidate(i as u8, *size, *used, None)).collect();
            let gone = victims(&mut all, 1000, excess, |_| false);
            let size = |d: &Digest| all.iter().find(|c| c.digest == *d).unwrap().entry.size;
            let freed: u64 = gone.iter().map(size).sum();
            let total: u64 = all.iter().map(|c| c.entry.size).sum();
            prop_assert!(freed >= excess.min(total));
            if let Some(last) = gone.last() {
                prop_assert!(freed - size(last) < excess);
            }
            let youngest = all.iter().filter(|c| gone.contains(&c.digest)).map(|c| c.entry.used).max();
            let oldest_kept = all.iter().filter(|c| !gone.contains(&c.digest)).map(|c| c.entry.used).min();
            if let (Some(youngest), Some(oldest)) = (youngest, oldest_kept) {
                prop_assert!(youngest <= oldest);
            }
        }
    }
}
