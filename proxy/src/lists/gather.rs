//! Gathers the pages of a list: each tag once, up to a limit.

use std::collections::{BTreeMap, btree_map::Entry};

use larder_shared::{
    Digest, Tag,
    warm::{ListedTag, Listing},
};

/// The most tags of one repository. A set has no use for a choice among more, and every member keeps the list.
pub const MOST: usize = 100_000;

/// A list's facts about one tag.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Said {
    pub digest: Option<Digest>,
    /// Bytes of the image.
    pub size: Option<u64>,
    /// When it was pushed, in Unix seconds.
    pub pushed: Option<u64>,
}

/// The repository has more than [`MOST`] tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooMany;

/// The tags so far.
#[derive(Default, Debug)]
pub(super) struct Gathered(BTreeMap<Tag, Said>);

impl Gathered {
    /// Adds a tag. Names that no client can ask for are left out.
    pub(super) fn add(&mut self, tag: &str, said: Said) -> Result<(), TooMany> {
        let Ok(tag) = tag.parse::<Tag>() else {
            return Ok(());
        };
        let full = self.0.len() >= MOST;
        match self.0.entry(tag) {
            Entry::Vacant(_) if full => return Err(TooMany),
            Entry::Vacant(new) => {
                new.insert(said);
            }
            Entry::Occupied(mut known) => {
                let both = merged(*known.get(), said);
                known.insert(both);
            }
        }
        Ok(())
    }

    /// The list, sorted by name: the order of pages has no meaning.
    pub(super) fn listing(self) -> Listing {
        let tags = self.0.into_iter().map(|(tag, said)| ListedTag {
            tag,
            digest: said.digest,
            size: said.size,
            pushed: said.pushed,
        });
        Listing {
            tags: tags.collect(),
            complete: true,
        }
    }
}

/// If a tag was moved while its list was read, it may be listed twice. The later push counts. If no times are given,
/// the digest stays open, and is asked for separately.
fn merged(known: Said, new: Said) -> Said {
    match (known.digest, new.digest) {
        (Some(a), Some(b)) if a != b => match (known.pushed, new.pushed) {
            (Some(before), Some(after)) if before < after => new,
            (Some(before), Some(after)) if before > after => known,
            _ => Said::default(),
        },
        (None, Some(_)) => new,
        _ => known,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(digest: &str, pushed: u64) -> Said {
        Said {
            digest: Some(Digest::sha256(digest.as_bytes())),
            size: None,
            pushed: (pushed > 0).then_some(pushed),
        }
    }

    #[test]
    fn a_tag_that_moved_between_two_pages_counts_once() {
        for (first, second, expected) in [
            (said("a", 1), said("b", 2), said("b", 2)),
            (said("b", 2), said("a", 1), said("b", 2)),
            (said("a", 0), said("b", 2), Said::default()),
            (said("a", 1), said("b", 1), Said::default()),
            (said("a", 1), said("a", 1), said("a", 1)),
            (Said::default(), said("a", 1), said("a", 1)),
            (said("a", 1), Said::default(), said("a", 1)),
        ] {
            let mut gathered = Gathered::default();
            gathered.add("t", first).unwrap();
            gathered.add("t", second).unwrap();
            let listing = gathered.listing();
            assert_eq!(listing.tags.len(), 1);
            let tag = &listing.tags[0];
            let came = Said {
                digest: tag.digest,
                size: tag.size,
                pushed: tag.pushed,
            };
            assert_eq!(came, expected, "{first:?} {second:?}");
        }
    }

    #[test]
    fn tags_are_bounded_and_impossible_names_are_left_out() {
        let mut gathered = Gathered::default();
        for name in ["", "-x", "a/b", "a b", &"x".repeat(129)] {
            gathered.add(name, Said::default()).unwrap();
        }
        assert!(gathered.0.is_empty());
        for n in 0..MOST {
            gathered.add(&n.to_string(), Said::default()).unwrap();
        }
        assert_eq!(gathered.add("0", said("a", 1)), Ok(()));
        assert_eq!(gathered.add("more", Said::default()), Err(TooMany));
    }

    proptest! {
        #[test]
        fn the_order_of_pages_does_not_matter(
            tags in proptest::collection::hash_map("[a-z]{1,2}", 0_u64..4, 0..20),
        ) {
            let list = |tags: &mut dyn Iterator<Item = (&String, &u64)>| {
                let mut gathered = Gathered::default();
                for (tag, n) in tags {
                    gathered.add(tag, said(&n.to_string(), *n)).unwrap();
                }
                gathered.listing()
            };
            let mut pairs: Vec<_> = tags.iter().collect();
            let first = list(&mut pairs.clone().into_iter());
            pairs.reverse();
            prop_assert_eq!(list(&mut pairs.into_iter()), first);
        }
    }
}
