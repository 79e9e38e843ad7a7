//! Which member asks the registry for a list, and which members the others ask for it: pure decisions.
//!
//! The first living member in rank lists, and the others ask it. A member that is asked answers from what it has, or
//! asks the registry. It asks no other member on behalf of one. So no chain is longer than one member. If nodes
//! disagree about the members, the worst result is one more list.

use std::time::Duration;

use larder_shared::{Digest, RegistryName, Repository, warm::ListBy};

use crate::cluster::placement::{Key, rank};

/// How many members a node asks for a list before it lists itself.
pub(super) const ASKED: usize = 4;

/// The part of the time between two refreshes after which a list is asked for again. Refreshes come up to a tenth too
/// early or too late, so below nine tenths, a node that is alone lists at each refresh.
const DUE: f64 = 0.8;

/// The digest that stands for a list in rankings.
pub fn thing(registry: &RegistryName, repository: &Repository, by: ListBy) -> Digest {
    let by = match by {
        ListBy::Auto => "auto",
        ListBy::Gar => "gar",
        ListBy::Ecr => "ecr",
        ListBy::Acr => "acr",
        ListBy::Off => "off",
    };
    Digest::sha256(format!("warm/{registry}/{repository}/{by}").as_bytes())
}

/// The members to ask for a list, in rank order: the living ones that stand before this node. Empty if this node lists
/// itself. A node that is not among the members itself asks the first of all members.
pub(super) fn before(
    members: &[Key],
    own: Option<usize>,
    thing: &Digest,
    lives: impl Fn(usize) -> bool,
) -> Vec<usize> {
    rank(members, thing, 0, members.len())
        .into_iter()
        .take_while(|index| Some(*index) != own)
        .filter(|index| lives(*index))
        .take(ASKED)
        .collect()
}

/// Whether the registry, last asked `tried` ago, is to be asked again.
pub(super) fn is_due(tried: Option<Duration>, refresh: Duration) -> bool {
    tried.is_none_or(|ago| ago >= refresh.mul_f64(DUE))
}

/// Whether a node lists itself because the members before it do not answer. A node without a list does so at once. The
/// others wait for different times, or all would list at once when some members go.
pub(super) fn lists_alone(
    has_list: bool,
    silent_for: Duration,
    refresh: Duration,
    jitter: f64,
) -> bool {
    !has_list || silent_for >= refresh.mul_f64(jitter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REFRESH: Duration = Duration::from_mins(5);

    fn keys(count: usize) -> Vec<Key> {
        (0..count)
            .map(|n| Key::of(&format!("10.0.0.{n}:7422")))
            .collect()
    }

    /// One round of a cluster: each node asks as it decides. Returns how often the registry is asked.
    fn round(
        members: &[Key],
        thing: &Digest,
        down: &[bool],
        believes: impl Fn(usize, usize) -> bool,
        now: Duration,
        tried: &mut [Option<Duration>],
    ) -> usize {
        let mut lists = 0;
        for node in (0..members.len()).filter(|node| !down[*node]) {
            let asked = before(members, Some(node), thing, |other| believes(node, other));
            let answers = asked.into_iter().find(|other| !down[*other]);
            let lister = answers.unwrap_or(node);
            let ago = tried[lister].map(|at| now.checked_sub(at).unwrap());
            if is_due(ago, REFRESH) {
                tried[lister] = Some(now);
                lists += 1;
            }
        }
        lists
    }

    #[test]
    fn names_make_the_thing() {
        let of = |registry: &str, repository: &str, by| {
            thing(&registry.parse().unwrap(), &repository.parse().unwrap(), by)
        };
        let one = of("r.io", "a/b", ListBy::Auto);
        assert_eq!(one, of("r.io", "a/b", ListBy::Auto));
        assert_ne!(one, of("r.io", "a/b", ListBy::Gar));
        assert_ne!(one, of("r.io", "a/c", ListBy::Auto));
    }

    #[test]
    fn a_node_that_is_alone_lists_at_each_refresh_and_no_oftener() {
        for (ago, due) in [
            (None, true),
            (Some(0.5), false),
            (Some(0.9), true),
            (Some(1.1), true),
        ] {
            let ago = ago.map(|part: f64| REFRESH.mul_f64(part));
            assert_eq!(is_due(ago, REFRESH), due, "{ago:?}");
        }
        let thing = Digest::sha256(b"list");
        assert!(before(&keys(1), Some(0), &thing, |_| true).is_empty());
        assert!(before(&[], None, &thing, |_| true).is_empty());
        assert_eq!(before(&keys(9), None, &thing, |_| true).len(), ASKED);
    }

    #[test]
    fn silent_members_are_waited_for_by_those_that_have_a_list() {
        assert!(lists_alone(false, Duration::ZERO, REFRESH, 0.9));
        assert!(!lists_alone(true, Duration::ZERO, REFRESH, 0.9));
        assert!(!lists_alone(true, REFRESH / 2, REFRESH, 0.9));
        assert!(lists_alone(true, REFRESH, REFRESH, 0.9));
    }

    /// How many lists a registry makes in an hour for this many nodes, on average over twenty hours. Each node
    /// refreshes within a tenth of [`REFRESH`].
    fn lists_in_an_hour(nodes: usize) -> f64 {
        const HOURS: u32 = 20;
        let members = keys(nodes);
        let thing = Digest::sha256(b"list");
        let mut random = 1_u64;
        let mut jittered = || {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            REFRESH.mul_f64(0.9 + 0.2 * ((random >> 40) as f64 / f64::from(1 << 24)))
        };
        let mut next: Vec<Duration> = (0..nodes).map(|_| jittered()).collect();
        let (mut tried, mut lists) = (None::<Duration>, 0_u32);
        let end = Duration::from_hours(u64::from(HOURS));
        while let Some((node, now)) = next.iter().copied().enumerate().min_by_key(|(_, at)| *at)
            && now < end
        {
            let asked = before(&members, Some(node), &thing, |_| true);
            let lister = asked.first().copied().unwrap_or(node);
            assert_eq!(lister, rank(&members, &thing, 0, 1)[0], "all ask one");
            if is_due(tried.map(|at| now.saturating_sub(at)), REFRESH) {
                (tried, lists) = (Some(now), lists + 1);
            }
            next[node] = now + jittered();
        }
        f64::from(lists) / f64::from(HOURS)
    }

    /// The figures of BENCHMARKS.md: together, many nodes cost a list every four minutes, not one list each.
    #[test]
    fn a_hundred_nodes_cost_a_registry_hardly_more_lists_than_one() {
        let found = [1, 10, 100].map(lists_in_an_hour);
        let near = |(found, lists): (&f64, f64)| (found - lists).abs() < 0.4;
        let lists = [12.0, 13.0, 14.8];
        assert!(found.iter().zip(lists).all(near), "{found:?}");
    }

    proptest! {
        /// If nodes agree on which members live, there is one lister.
        #[test]
        fn one_member_lists_for_all(
            count in 1_usize..60,
            seed in any::<u64>(),
            down in proptest::collection::vec(proptest::bool::weighted(0.3), 60),
        ) {
            let members = keys(count);
            let thing = Digest::sha256(&seed.to_le_bytes());
            prop_assume!(down[..count].iter().any(|down| !down));
            let mut tried = vec![None; count];
            let agreed = |_: usize, other: usize| !down[other];
            for turn in 0..4 {
                let lists = round(&members, &thing, &down[..count], agreed, REFRESH * turn, &mut tried);
                prop_assert_eq!(lists, 1, "round {}", turn);
            }
            prop_assert_eq!(tried.iter().flatten().count(), 1);
        }

        /// Whatever each node believes, a round has at most one list for each node. Once they agree again, there is one
        /// list in all.
        #[test]
        fn two_listers_for_a_while_are_one_list_more(
            count in 1_usize..20,
            seed in any::<u64>(),
            wrong in proptest::collection::vec(any::<bool>(), 400),
        ) {
            let members = keys(count);
            let thing = Digest::sha256(&seed.to_le_bytes());
            let down = vec![false; count];
            let mut tried = vec![None; count];
            let confused = |node: usize, other: usize| !wrong[node * 20 + other];
            let lists = round(&members, &thing, &down, confused, Duration::ZERO, &mut tried);
            prop_assert!((1..=count).contains(&lists));
            let agreed = |_: usize, _: usize| true;
            let lists = round(&members, &thing, &down, agreed, REFRESH, &mut tried);
            prop_assert_eq!(lists, 1);
        }
    }
}
