//! What is known of one list: a pure decision by the result of each refresh.
//!
//! ```text
//! came                  before            is kept                 says
//! tags                  anything          the new list            -
//! no tags               a list with tags  the old one, 3 times    since when, and why
//! no tags               anything else     the new, empty one      -
//! the registry's no     a list with tags  the old one, 3 times    since when, and why
//! the registry's no     anything else     nothing                 since when, and why
//! an outage             anything          what there was          since when, and why
//! ```

use std::sync::Arc;

use larder_shared::{
    Digest,
    warm::{Listed, Listing},
};

use super::fault::Fault;
use crate::metrics::ListOutcome;

/// How many refreshes in a row are doubted if they would take a list with tags away.
const DOUBTED: u32 = 3;

/// Bytes of the longest explanation that is taken from a member.
const LONGEST: usize = 500;

/// A list, and where it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    pub listing: Listing,
    /// The same for lists with the same tags, on every member.
    pub generation: String,
    /// When the registry was asked for it, in Unix seconds.
    pub at: u64,
    /// The member that asked; `None` if it was this node.
    pub by: Option<String>,
    /// Whether the list needed a credential. Such a list is handed on over mutual TLS only.
    pub private: bool,
}

impl Known {
    pub fn new(listing: Listing, at: u64, by: Option<String>, private: bool) -> Self {
        // Writing these types to memory cannot fail.
        let text = serde_json::to_vec(&listing).unwrap_or_default();
        Self {
            generation: Digest::sha256(&text).hex()[..32].to_owned(),
            listing,
            at,
            by,
            private,
        }
    }

    /// The list, with its origin, for the sets.
    pub fn listed(&self) -> Listed {
        Listed {
            listing: self.listing.clone(),
            at: self.at,
            by: self.by.clone(),
        }
    }

    /// The generation, which is the same for lists with the same tags.
    #[cfg(any(test, fuzzing))]
    pub(super) fn name(&self) -> &str {
        &self.generation
    }
}

/// Why there is no newer list than the one that is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// When it began, in Unix seconds.
    pub since: u64,
    pub why: String,
    /// The registry itself says that there is no list: this is no outage.
    pub answered: bool,
}

impl Trouble {
    /// A member's explanation, as one line of bounded length.
    pub(super) fn told(since: u64, why: &str, answered: bool, now: u64) -> Self {
        let plain = why.chars().filter(|c| !c.is_control());
        let mut line = String::new();
        for c in plain {
            if line.len() + c.len_utf8() > LONGEST {
                break;
            }
            line.push(c);
        }
        Self {
            since: since.min(now),
            why: line,
            answered,
        }
    }
}

/// The result of one refresh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Came {
    /// A list from the registry or from a member, with the trouble that the member has with it.
    List(Known, Option<Trouble>),
    Nothing(Fault),
    /// A member has no list either, because of this trouble.
    Told(Trouble),
}

/// What is known of one list.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Kept {
    pub list: Option<Arc<Known>>,
    pub trouble: Option<Trouble>,
    doubted: u32,
}

impl Kept {
    /// The state that a file or a member tells.
    pub(super) fn of(list: Option<Known>, trouble: Option<Trouble>) -> Self {
        Self {
            list: list.map(Arc::new),
            trouble,
            doubted: 0,
        }
    }

    fn has_tags(&self) -> bool {
        let list = self.list.as_ref();
        list.is_some_and(|list| !list.listing.tags.is_empty())
    }

    /// Records the result of a refresh. `now` is in Unix seconds.
    pub(super) fn learn(&mut self, came: Came, now: u64) -> ListOutcome {
        let takes_away = match &came {
            Came::List(known, _) => known.listing.tags.is_empty(),
            Came::Nothing(fault) => fault.kind.is_answer(),
            Came::Told(trouble) => trouble.answered,
        };
        let doubtful = takes_away && self.has_tags() && self.doubted < DOUBTED;
        match came {
            Came::List(..) if doubtful => {
                self.doubted += 1;
                self.troubled(now, "the registry lists no tags any more".to_owned(), true);
                ListOutcome::Empty
            }
            Came::List(known, trouble) => {
                let same = self
                    .list
                    .as_ref()
                    .is_some_and(|before| before.generation == known.generation);
                self.doubted = 0;
                self.list = Some(Arc::new(known));
                self.trouble = trouble;
                if same {
                    ListOutcome::Unchanged
                } else {
                    ListOutcome::Listed
                }
            }
            Came::Nothing(fault) => {
                self.take_away(takes_away, doubtful);
                self.troubled(now, fault.why, takes_away);
                fault.kind.outcome()
            }
            Came::Told(trouble) => {
                self.take_away(takes_away, doubtful);
                self.troubled(trouble.since, trouble.why, trouble.answered);
                ListOutcome::Taken
            }
        }
    }

    fn take_away(&mut self, takes_away: bool, doubtful: bool) {
        if doubtful {
            self.doubted += 1;
        } else if takes_away {
            self.list = None;
        }
    }

    fn troubled(&mut self, now: u64, why: String, answered: bool) {
        let since = self.trouble.as_ref().map_or(now, |trouble| trouble.since);
        self.trouble = Some(Trouble {
            since,
            why,
            answered,
        });
    }
}

#[cfg(test)]
mod tests {
    use larder_shared::warm::ListedTag;
    use proptest::prelude::*;

    use super::{super::fault::FaultKind, *};

    fn list(tags: &[&str], at: u64) -> Came {
        let tags = tags.iter().map(|tag| ListedTag {
            tag: tag.parse().unwrap(),
            digest: None,
            size: None,
            pushed: None,
        });
        let listing = Listing {
            tags: tags.collect(),
            complete: true,
        };
        Came::List(Known::new(listing, at, None, false), None)
    }

    fn no(kind: FaultKind) -> Came {
        Came::Nothing(Fault::new(kind, format!("{kind:?}")))
    }

    /// The state after each step: the first tag, and since when there is trouble.
    fn kept(steps: &[Came]) -> Vec<(Option<String>, Option<u64>)> {
        let mut kept = Kept::default();
        let steps = (1..).zip(steps);
        steps
            .map(|(now, came)| {
                kept.learn(came.clone(), now);
                let tags = kept.list.as_ref().map(|known| &known.listing.tags);
                let first = tags.map(|tags| tags.first().map_or("-", |tag| tag.tag.as_str()));
                (
                    first.map(str::to_owned),
                    kept.trouble.as_ref().map(|trouble| trouble.since),
                )
            })
            .collect()
    }

    #[test]
    fn table() {
        use FaultKind::{Credentials, Invalid, Limited, NotFound, Refused, Unreachable};
        let full = || list(&["a"], 1);
        let empty = || list(&[], 2);
        let row = |steps: &[Came], expected: &[(Option<&str>, Option<u64>)]| {
            let expected: Vec<_> = expected
                .iter()
                .map(|(tag, since)| (tag.map(str::to_owned), *since))
                .collect();
            assert_eq!(kept(steps), expected, "{steps:?}");
        };
        let a = Some("a");
        // The repository was emptied: the old list stays for three refreshes, and then the empty one is believed.
        row(
            &[full(), empty(), empty(), empty(), empty(), full()],
            &[
                (a, None),
                (a, Some(2)),
                (a, Some(2)),
                (a, Some(2)),
                (Some("-"), None),
                (a, None),
            ],
        );
        // A repository that was always empty is no trouble.
        row(&[empty(), empty()], &[(Some("-"), None), (Some("-"), None)]);
        // After a list in between, doubting begins anew.
        row(
            &[full(), empty(), empty(), full(), empty(), empty(), empty()],
            &[
                (a, None),
                (a, Some(2)),
                (a, Some(2)),
                (a, None),
                (a, Some(5)),
                (a, Some(5)),
                (a, Some(5)),
            ],
        );
        // A registry's refusal takes the list away after three refreshes; an outage never does.
        for kind in [Refused, NotFound] {
            row(
                &[full(), no(kind), no(kind), no(kind), no(kind), no(kind)],
                &[
                    (a, None),
                    (a, Some(2)),
                    (a, Some(2)),
                    (a, Some(2)),
                    (None, Some(2)),
                    (None, Some(2)),
                ],
            );
            row(&[no(kind), full()], &[(None, Some(1)), (a, None)]);
        }
        for kind in [Limited, Unreachable, Invalid, Credentials] {
            let mut steps = vec![full()];
            steps.extend((0..20).map(|_| no(kind)));
            assert_eq!(kept(&steps).last(), Some(&(Some("a".to_owned()), Some(2))));
        }
        // A member's report of the registry's answer counts like an answer to this node.
        let told = |answered| {
            Came::Told(Trouble {
                since: 2,
                why: "told".to_owned(),
                answered,
            })
        };
        row(
            &[full(), told(true), told(true), told(true), told(true)],
            &[
                (a, None),
                (a, Some(2)),
                (a, Some(2)),
                (a, Some(2)),
                (None, Some(2)),
            ],
        );
        let outage: Vec<_> = [full()]
            .into_iter()
            .chain((0..9).map(|_| told(false)))
            .collect();
        assert_eq!(kept(&outage).last(), Some(&(Some("a".to_owned()), Some(2))));
        // An outage between two doubts neither counts nor resets them.
        row(
            &[
                full(),
                empty(),
                no(Unreachable),
                no(Refused),
                empty(),
                empty(),
            ],
            &[
                (a, None),
                (a, Some(2)),
                (a, Some(2)),
                (a, Some(2)),
                (a, Some(2)),
                (Some("-"), None),
            ],
        );
    }

    #[test]
    fn the_same_tags_are_the_same_generation() {
        let known = |came: Came| match came {
            Came::List(known, _) => known,
            _ => unreachable!("it is a list"),
        };
        let (one, other) = (known(list(&["a"], 1)), known(list(&["a"], 9)));
        assert_eq!(one.generation, other.generation);
        assert_ne!(one.generation, known(list(&["b"], 1)).generation);
        let mut kept = Kept::default();
        assert_eq!(kept.learn(list(&["a"], 1), 1), ListOutcome::Listed);
        assert_eq!(kept.learn(list(&["a"], 2), 2), ListOutcome::Unchanged);
        assert_eq!(kept.list.as_ref().map(|known| known.at), Some(2));
        assert_eq!(kept.learn(list(&["b"], 3), 3), ListOutcome::Listed);
    }

    #[test]
    fn a_member_explains_in_one_short_line() {
        let told = Trouble::told(9, &format!("a\n\u{1b}[31mb{}", "é".repeat(1000)), false, 5);
        assert!(told.why.starts_with("a[31mb"), "{}", told.why);
        assert!(told.why.len() <= LONGEST);
        assert_eq!(told.since, 5);
    }

    proptest! {
        /// In any order of results, a list with tags is lost only after four refreshes that take it away, and a new
        /// list ends all trouble.
        #[test]
        fn a_list_with_tags_is_not_lost_at_once(steps in proptest::collection::vec(0_u8..6, 0..40)) {
            let mut kept = Kept::default();
            let mut taken = 0;
            for (now, step) in (1..).zip(steps) {
                let came = match step {
                    0 | 1 => list(&["a"], now),
                    2 => list(&[], now),
                    3 => no(FaultKind::Refused),
                    4 => no(FaultKind::Unreachable),
                    _ => no(FaultKind::Limited),
                };
                let had = kept.has_tags();
                kept.learn(came, now);
                match step {
                    0 | 1 => taken = 0,
                    2 | 3 if had => taken += 1,
                    _ => {}
                }
                if had {
                    prop_assert_eq!(kept.has_tags(), taken <= DOUBTED);
                }
                prop_assert_eq!(kept.trouble.is_none(), step <= 1 || (step == 2 && !had) || (step == 2 && taken > DOUBTED));
            }
        }
    }
}
