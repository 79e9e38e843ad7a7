//! Which members fetch the next copies of a digest: a pure decision, the same on all members that know the same.
//!
//! Only the first in rank among the members that are not gone decides for a digest. Two deciders at once would both
//! have it copied. The decider counts the holders, and offers missing copies to the first in rank that do not hold it.

use super::life::Life;

/// How many members, the first in rank, know a digest's holders.
pub const KEEPERS: usize = crate::cluster::KEEPERS;

/// What the decision needs to know of a digest.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a, M> {
    /// How many living members should hold it.
    pub copies: usize,
    /// Whether more than a third of the members is missing.
    pub held_back: bool,
    /// The member that asks.
    pub own: M,
    /// Members that are not gone, in the order of rank, and whether each lives.
    pub ranked: &'a [(M, Life)],
    /// The members that say they hold it.
    pub holders: &'a [(M, Life)],
    /// Members that have taken an offer and have not finished.
    pub coming: &'a [M],
    /// Members that declined a short time ago.
    pub declined: &'a [M],
}

/// What to do about a digest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict<M> {
    /// Enough members hold it or are fetching it.
    Enough,
    /// Another member decides.
    NotOurs,
    /// Nothing is done now: too many members are missing, or no holder lives and one may come back.
    Waits,
    /// No further member can take a copy.
    Short,
    /// Each of `to` fetches it from one of `from`.
    Copy { to: Vec<M>, from: Vec<M> },
}

/// Decides about a digest.
pub fn decide<M: Copy + Eq>(question: &Question<'_, M>) -> Verdict<M> {
    let Question { own, ranked, .. } = *question;
    match ranked.first() {
        Some((first, _)) if *first == own => {}
        _ => return Verdict::NotOurs,
    }
    let holds = |member: &M| question.holders.iter().any(|(holder, _)| holder == member);
    let of = |wanted: Life| {
        let holders = question.holders.iter();
        holders
            .filter(move |(_, life)| *life == wanted)
            .map(|(member, _)| *member)
    };
    let living: Vec<M> = of(Life::Living).collect();
    // A holder that vanished a moment ago counts until it is gone.
    let counted = living.len() + of(Life::Waited).count();
    let coming = question
        .coming
        .iter()
        .filter(|member| !holds(member))
        .count();
    let lacking = question.copies.saturating_sub(counted + coming);
    if lacking == 0 {
        return Verdict::Enough;
    }
    if living.is_empty() || question.held_back {
        return Verdict::Waits;
    }
    let takes = |(member, life): &&(M, Life)| {
        *life == Life::Living
            && !holds(member)
            && !question.coming.contains(member)
            && !question.declined.contains(member)
    };
    let to: Vec<M> = ranked
        .iter()
        .filter(takes)
        .map(|(m, _)| *m)
        .take(lacking)
        .collect();
    if to.is_empty() {
        return Verdict::Short;
    }
    Verdict::Copy { to, from: living }
}

/// Whether `own` comes after the first `copies` holders in rank, so that it need not keep the digest. `others` are the
/// other living holders, `ranked` is the order. Holders that know the same agree on which of them keep it.
pub fn is_surplus<M: Copy + Eq>(copies: usize, own: M, ranked: &[M], others: &[M]) -> bool {
    let keeps = ranked
        .iter()
        .filter(|m| **m == own || others.contains(m))
        .take(copies);
    let keeps: Vec<&M> = keeps.collect();
    keeps.len() >= copies && !keeps.contains(&&own)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Life::*, *};

    fn ask(holders: &[(u32, Life)], change: impl FnOnce(&mut Question<'_, u32>)) -> Verdict<u32> {
        let ranked: Vec<_> = (0..6).map(|member| (member, Living)).collect();
        let mut question = Question {
            copies: 2,
            held_back: false,
            own: 0,
            ranked: &ranked,
            holders,
            coming: &[],
            declined: &[],
        };
        change(&mut question);
        decide(&question)
    }

    fn copy(to: &[u32], from: &[u32]) -> Verdict<u32> {
        let (to, from) = (to.to_vec(), from.to_vec());
        Verdict::Copy { to, from }
    }

    #[test]
    fn the_first_without_it_fetches_it() {
        assert_eq!(ask(&[(3, Living)], |_| ()), copy(&[0], &[3]));
        assert_eq!(ask(&[(0, Living)], |_| ()), copy(&[1], &[0]));
        assert_eq!(ask(&[(0, Living), (3, Living)], |_| ()), Verdict::Enough);
        assert_eq!(
            ask(&[(3, Living)], |q| q.copies = 4),
            copy(&[0, 1, 2], &[3])
        );
        assert_eq!(ask(&[(3, Living)], |q| q.copies = 1), Verdict::Enough);
    }

    #[test]
    fn the_next_takes_what_one_declines_and_no_one_is_asked_twice() {
        assert_eq!(
            ask(&[(3, Living)], |q| q.declined = &[0, 1]),
            copy(&[2], &[3])
        );
        assert_eq!(ask(&[(3, Living)], |q| q.coming = &[0]), Verdict::Enough);
        assert_eq!(
            ask(&[(3, Living)], |q| q.declined = &[0, 1, 2, 4, 5]),
            Verdict::Short
        );
        // A member that holds it by now no longer counts as fetching it.
        let both = [(0, Living), (3, Gone)];
        assert_eq!(ask(&both, |q| q.coming = &[0]), copy(&[1], &[0]));
    }

    #[test]
    fn a_member_that_vanished_is_waited_for_and_a_large_part_is_no_reason() {
        assert_eq!(ask(&[(2, Living), (3, Waited)], |_| ()), Verdict::Enough);
        assert_eq!(ask(&[(2, Living), (3, Gone)], |_| ()), copy(&[0], &[2]));
        assert_eq!(ask(&[(3, Waited)], |_| ()), Verdict::Waits);
        assert_eq!(ask(&[(3, Living)], |q| q.held_back = true), Verdict::Waits);
        assert_eq!(ask(&[(3, Living)], |q| q.own = 1), Verdict::NotOurs);
    }

    #[test]
    fn surplus_is_what_the_first_in_rank_hold_besides() {
        let ranked = [4, 2, 0, 1, 3];
        assert!(is_surplus(2, 1, &ranked, &[2, 4]));
        assert!(!is_surplus(2, 2, &ranked, &[1, 4]));
        assert!(!is_surplus(2, 1, &ranked, &[4]), "it is the second");
        assert!(!is_surplus(3, 1, &ranked, &[2, 4]));
    }

    proptest! {
        /// Exactly one member decides. No member fetches a blob that it has, and no copies are fetched in excess.
        #[test]
        fn one_decides_and_nothing_is_fetched_in_vain(
            copies in 1usize..5,
            lives in prop::collection::vec(0u8..3, 1..20),
            holds in prop::collection::vec(any::<bool>(), 20),
            declines in prop::collection::vec(any::<bool>(), 20),
        ) {
            let life = |n: &u8| [Living, Waited, Gone][usize::from(*n)];
            let all: Vec<(usize, Life)> = lives.iter().map(life).enumerate().collect();
            let ranked: Vec<_> = all.iter().copied().filter(|(_, life)| *life != Gone).collect();
            let holders: Vec<_> = all.iter().copied().filter(|(m, _)| holds[*m]).collect();
            let declined: Vec<usize> = (0..20).filter(|m| declines[*m]).collect();
            let mut deciders = 0;
            for (own, _) in &all {
                let question = Question {
                    copies, held_back: false, own: *own, ranked: &ranked, holders: &holders, coming: &[], declined: &declined,
                };
                let verdict = decide(&question);
                deciders += usize::from(verdict != Verdict::NotOurs);
                if let Verdict::Copy { to, from } = verdict {
                    let counted = holders.iter().filter(|(_, life)| *life != Gone).count();
                    prop_assert!(to.len() + counted <= copies);
                    prop_assert!(to.iter().all(|m| !holds[*m] && !declines[*m] && all[*m].1 == Living));
                    prop_assert!(!from.is_empty() && from.iter().all(|m| holds[*m] && all[*m].1 == Living));
                }
            }
            prop_assert_eq!(deciders, usize::from(!ranked.is_empty()));
        }

        /// However many members hold a digest, enough of them keep it.
        #[test]
        fn enough_of_the_holders_keep(copies in 1usize..5, count in 0usize..12, order in Just((0..12).collect::<Vec<usize>>()).prop_shuffle()) {
            let holders: Vec<usize> = (0..count).collect();
            let keep = holders.iter().filter(|own| {
                let others: Vec<usize> = holders.iter().copied().filter(|m| m != *own).collect();
                !is_surplus(copies, **own, &order, &others)
            });
            prop_assert_eq!(keep.count(), copies.min(count));
        }
    }
}
