//! Which images the sets may hold: a pure choice. The first images of the first sets come first.

use std::collections::HashSet;

use larder_shared::Digest;

/// How many bytes may be held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// By all sets together. Content that they share counts once.
    pub all: u64,
    /// By each set.
    pub sets: Vec<u64>,
}

/// An image that asks for room.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The index of its set in [`Limits::sets`].
    pub set: usize,
    pub parts: &'a [(Digest, u64)],
}

/// For each image, in order, whether there is room for it. An image that does not fit leaves its room to later ones.
pub fn admit(limits: &Limits, asks: &[Ask<'_>]) -> Vec<bool> {
    let mut all = Held::default();
    let mut sets: Vec<Held> = limits.sets.iter().map(|_| Held::default()).collect();
    let admitted = asks.iter().map(|ask| {
        let (Some(set), Some(most)) = (sets.get_mut(ask.set), limits.sets.get(ask.set)) else {
            return false;
        };
        let fits = all.with(ask.parts) <= limits.all && set.with(ask.parts) <= *most;
        if fits {
            all.add(ask.parts);
            set.add(ask.parts);
        }
        fits
    });
    admitted.collect()
}

#[derive(Default)]
struct Held {
    digests: HashSet<Digest>,
    bytes: u64,
}

impl Held {
    fn with(&self, parts: &[(Digest, u64)]) -> u64 {
        let mut own = HashSet::new();
        let new =
            |(digest, _): &&(Digest, u64)| !self.digests.contains(digest) && own.insert(*digest);
        let new = parts.iter().filter(new);
        new.fold(self.bytes, |sum, (_, size)| sum.saturating_add(*size))
    }

    fn add(&mut self, parts: &[(Digest, u64)]) {
        self.bytes = self.with(parts);
        self.digests.extend(parts.iter().map(|(digest, _)| *digest));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(of: &[(u8, u64)]) -> Vec<(Digest, u64)> {
        let part = |(of, size): &(u8, u64)| (Digest::sha256(&[*of]), *size);
        of.iter().map(part).collect()
    }

    #[test]
    fn the_first_go_first_and_shared_layers_count_once() {
        let limits = Limits {
            all: 100,
            sets: vec![100, 30],
        };
        let (big, small, other, shares, last) = (
            parts(&[(1, 60)]),
            parts(&[(1, 60), (2, 20)]),
            parts(&[(3, 70)]),
            parts(&[(2, 20), (4, 10)]),
            parts(&[(5, 11)]),
        );
        let ask = |set, parts| Ask { set, parts };
        let asks = [
            ask(0, &big[..]),
            ask(0, &small),
            ask(0, &other),
            ask(1, &shares),
            ask(1, &last),
        ];
        assert_eq!(admit(&limits, &asks), [true, true, false, true, false]);
    }

    proptest! {
        #[test]
        fn what_is_held_is_never_more_than_the_limits(
            all in 0_u64..200,
            sets in proptest::collection::vec(0_u64..200, 1..3),
            asks in proptest::collection::vec((0_usize..3, proptest::collection::vec(0_u8..8, 0..4)), 0..10),
        ) {
            // A digest has one size.
            let asks: Vec<_> = asks.iter().map(|(set, of)| {
                let of: Vec<_> = of.iter().map(|of| (*of, u64::from(*of) * 9)).collect();
                (*set, parts(&of))
            }).collect();
            let asked: Vec<_> = asks.iter().map(|(set, parts)| Ask { set: *set, parts }).collect();
            let limits = Limits { all, sets };
            let admitted = admit(&limits, &asked);
            let held = |of: Option<usize>| {
                let of = asks.iter().zip(&admitted).filter(|((set, _), is)| **is && of.is_none_or(|of| of == *set));
                let held: HashSet<_> = of.flat_map(|((_, parts), _)| parts.clone()).collect();
                held.iter().map(|(_, size)| size).sum::<u64>()
            };
            prop_assert!(held(None) <= limits.all);
            for (set, most) in limits.sets.iter().enumerate() {
                prop_assert!(held(Some(set)) <= *most);
            }
        }
    }
}
