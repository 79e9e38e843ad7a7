//! Which member fetches what: a pure decision over the members, the same on every node that sees the same members.
//!
//! A blob is cut into runs, and every run has its own ranking of the members (rendezvous hashing). The first in rank is
//! the run's *root*: it fetches the run from the object store or upstream. So the bytes of an image are spread over all
//! nodes, each node's share is fetched once, and a member that comes or goes changes the ranking only where it stood.
//! In a large cluster the next in rank are *relays* between the root and everyone else.

use larder_shared::{Algorithm, Digest, Role};

/// The unit of placement. Small enough that the shares of few nodes are even, large enough that a request is worth it.
pub const RUN: u64 = 4 << 20;

/// From this many members on there are relays. The simulator's figures for it are in docs/simulation.md.
pub const RELAYS_FROM: usize = 8;

/// How many runs all members fetch before they go on to the next ones: as many as a fill has streams. With more, runs
/// that upstream has brought wait while every member is busy with others. The figures are in docs/simulation.md.
pub const TOGETHER: u64 = 8;

/// The key of a member in rankings: a hash of its address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Key(u64);

impl Key {
    /// The key of the member that is reached at `address`.
    pub fn of(address: &str) -> Self {
        Self(first_word(&Digest::of(
            Algorithm::Sha256,
            address.as_bytes(),
        )))
    }
}

fn first_word(digest: &Digest) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(word)
}

/// Spreads a number over all bits (the finalizer of SplitMix64).
const fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The run that holds the byte `at`.
pub const fn run_of(at: u64) -> u64 {
    at / RUN
}

/// Indices into `members`, the first in rank for `run` of `digest` first. At most `most` of them.
pub fn rank(members: &[Key], digest: &Digest, run: u64, most: usize) -> Vec<usize> {
    let what = mix(first_word(digest) ^ mix(run.wrapping_add(1)));
    let mut scored: Vec<(u64, usize)> = members
        .iter()
        .enumerate()
        .map(|(index, key)| (mix(key.0 ^ what), index))
        .collect();
    // Ties are broken by the key, so that the order of the list does not matter.
    let order =
        |a: &(u64, usize), b: &(u64, usize)| (b.0, members[b.1].0).cmp(&(a.0, members[a.1].0));
    if most < scored.len() && most > 0 {
        scored.select_nth_unstable_by(most - 1, order);
        scored.truncate(most);
    }
    scored.sort_unstable_by(order);
    scored.truncate(most);
    scored.into_iter().map(|(_, index)| index).collect()
}

/// A place in an order, lowest first.
pub type Turn = (u64, bool, u64);

/// Where `run` stands in the order in which a node fetches what no reader waits for, lowest first. All nodes go through
/// a blob together, [`TOGETHER`] runs at a time, so that bytes are passed on while they come from upstream. Within
/// these, the runs come first of which the node is the root, since other nodes need them from it. The rest come in an
/// order of the node's own, so that not all nodes ask the same root at once.
pub fn turn(own: Key, is_root: bool, run: u64) -> Turn {
    let order = mix(own.0 ^ mix(run.wrapping_add(1)));
    (run / TOGETHER, !is_root, order)
}

/// How many relays there are for each run among `members` nodes; none where the root can serve everyone itself.
pub fn relays(members: usize) -> usize {
    if members < RELAYS_FROM {
        0
    } else {
        members.isqrt()
    }
}

/// The members that `own` asks for `run`, best first: at most `most` members with their roles. Empty for the root,
/// which fetches the run itself. `depth`: how many members may stand between `own` and the source.
pub fn candidates(
    members: &[Key],
    own: Option<usize>,
    digest: &Digest,
    run: u64,
    depth: u8,
    most: usize,
) -> Vec<(usize, Role)> {
    let relays = relays(members.len());
    let ranked = rank(members, digest, run, standings(relays, most));
    choose(members, &ranked, relays, own, run, depth, most)
}

/// How many members, the first in rank, [`choose`] has to see.
pub fn standings(relays: usize, most: usize) -> usize {
    relays.max(most) + 1
}

/// [`candidates`] where the ranking of `run` and the number of its relays are known already.
pub fn choose(
    members: &[Key],
    ranked: &[usize],
    relays: usize,
    own: Option<usize>,
    run: u64,
    depth: u8,
    most: usize,
) -> Vec<(usize, Role)> {
    if depth == 0 {
        return Vec::new();
    }
    let standing = own.and_then(|own| ranked.iter().position(|index| *index == own));
    let mut asked = Vec::new();
    // A node that is neither root nor relay asks a relay that its own key picks.
    if depth > 1 && relays > 0 && standing.is_none_or(|at| at > relays) {
        let mine = own.map_or(0, |own| members[own].0);
        let pick = 1 + (mix(mine ^ mix(run)) % relays as u64) as usize;
        asked.push((ranked[pick], Role::Relay));
    }
    for &index in ranked {
        // All members that are left rank behind this node, so it fetches the run itself.
        if Some(index) == own || asked.len() >= most {
            break;
        }
        asked.push((index, Role::Root));
    }
    asked
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn members(count: usize) -> Vec<Key> {
        (0..count)
            .map(|i| Key::of(&format!("10.0.{}.{}:7422", i / 256, i % 256)))
            .collect()
    }

    fn blob(seed: u64) -> Digest {
        Digest::sha256(&seed.to_le_bytes())
    }

    #[test]
    fn shares_are_even() {
        let (members, runs) = (members(8), 256);
        let mut shares = vec![0; 8];
        for seed in 0..20 {
            for run in 0..runs {
                shares[rank(&members, &blob(seed), run, 1)[0]] += 1;
            }
        }
        let mean = 20 * runs / 8;
        for share in shares {
            assert!(
                (mean * 9 / 10..mean * 11 / 10).contains(&share),
                "{share} of {mean}"
            );
        }
    }

    #[test]
    fn the_root_asks_nobody_and_the_others_ask_it_first() {
        let members = members(RELAYS_FROM - 1);
        for run in 0..50 {
            let ranked = rank(&members, &blob(1), run, members.len());
            for own in 0..members.len() {
                let asked = candidates(&members, Some(own), &blob(1), run, 2, 2);
                if own == ranked[0] {
                    assert_eq!(asked, []);
                } else {
                    assert_eq!(asked[0], (ranked[0], Role::Root));
                    assert!(asked.iter().all(|(index, _)| *index != own));
                }
            }
        }
    }

    #[test]
    fn everyone_goes_through_a_blob_together_its_own_share_first() {
        let order = |own: Key| {
            let mut runs: Vec<u64> = (0..3 * TOGETHER).collect();
            runs.sort_by_key(|run| turn(own, run % 5 == 0, *run));
            runs
        };
        let [one, other] = ["a", "b"].map(|address| order(Key::of(address)));
        assert_ne!(one, other);
        for (part, runs) in (0..).zip(one.chunks(TOGETHER as usize)) {
            assert!(runs.iter().all(|run| run / TOGETHER == part), "{one:?}");
            assert!(runs.is_sorted_by_key(|run| run % 5 != 0), "{one:?}");
        }
    }

    #[test]
    fn relays_share_the_load_of_a_root_in_a_large_cluster() {
        let members = members(400);
        let ranked = rank(&members, &blob(1), 0, 21);
        let mut load: HashMap<usize, usize> = HashMap::new();
        for own in 0..400 {
            if let Some((index, role)) = candidates(&members, Some(own), &blob(1), 0, 2, 2).first()
            {
                *load.entry(*index).or_default() += 1;
                let at = ranked.iter().position(|i| i == index).unwrap();
                assert_eq!(*role == Role::Root, at == 0);
            }
        }
        assert_eq!(load[&ranked[0]], 20, "the root feeds the relays alone");
        assert_eq!(load.len(), 21);
        assert!(load.values().all(|asked| *asked <= 45), "{load:?}");
    }

    proptest! {
        /// A member that only one of two nodes sees moves only the runs for which that member stands.
        #[test]
        fn a_member_that_leaves_changes_only_its_own_runs(
            count in 2usize..40, seed in any::<u64>(), run in 0u64..1000, gone in any::<prop::sample::Index>(),
        ) {
            let all = members(count);
            let gone = gone.index(count);
            let ranked = rank(&all, &blob(seed), run, count);
            let mut fewer = all.clone();
            fewer.remove(gone);
            let without: Vec<usize> = ranked.iter().copied().filter(|i| *i != gone).collect();
            let reranked: Vec<usize> = rank(&fewer, &blob(seed), run, count)
                .into_iter()
                .map(|i| if i >= gone { i + 1 } else { i })
                .collect();
            prop_assert_eq!(without, reranked);
        }

        /// The order in which the members are listed does not matter, nor how many are wanted.
        #[test]
        fn everyone_ranks_alike(count in 1usize..40, seed in any::<u64>(), run in 0u64..1000, most in 1usize..6) {
            let all = members(count);
            let reversed: Vec<Key> = all.iter().rev().copied().collect();
            let one: Vec<Key> = rank(&all, &blob(seed), run, count).into_iter().map(|i| all[i]).collect();
            let other: Vec<Key> = rank(&reversed, &blob(seed), run, most).into_iter().map(|i| reversed[i]).collect();
            prop_assert_eq!(&one[..most.min(count)], &other[..]);
        }

        /// No chain of requests is longer than two, whatever each member believes: a request of some depth goes only to
        /// a role of a smaller depth.
        #[test]
        fn every_hop_is_nearer_to_the_source(
            count in 1usize..200, own in any::<prop::sample::Index>(), seed in any::<u64>(), run in 0u64..1000, depth in 0u8..3,
        ) {
            let all = members(count);
            for (_, role) in candidates(&all, Some(own.index(count)), &blob(seed), run, depth, 3) {
                prop_assert!(role.depth() < depth);
            }
        }
    }
}
