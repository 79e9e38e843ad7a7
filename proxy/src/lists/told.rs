//! A list as it is stored, and as one member tells it to another: JSON that is checked before it is used.

use larder_shared::warm::Listing;
use serde::{Deserialize, Serialize};

use super::{
    gather::{Gathered, Said},
    kept::{Kept, Known, Trouble},
};

/// One member's knowledge of a list.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// The list's name, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub of: String,
    /// Absent if there is no list, or if the asking member has the same one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listing: Option<Listing>,
    /// Identifies the list, also if the list itself is left out; empty if there is none.
    pub generation: String,
    /// When the registry was asked for it, in Unix seconds.
    pub at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<ToldTrouble>,
    /// How many seconds ago the registry was last asked, with any result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tried_ago: Option<u64>,
    /// Whether the registry is being asked now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
}

/// Why and since when the list is not the newest.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ToldTrouble {
    pub since: u64,
    pub why: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub answered: bool,
}

impl Told {
    /// Everything that is kept of the list. `known` is the generation that the asking member has.
    pub(super) fn of(kept: &Kept, known: Option<&str>) -> Self {
        let mut told = Self {
            trouble: kept.trouble.as_ref().map(|trouble| ToldTrouble {
                since: trouble.since,
                why: trouble.why.clone(),
                answered: trouble.answered,
            }),
            ..Self::default()
        };
        if let Some(list) = &kept.list {
            told.generation.clone_from(&list.generation);
            (told.at, told.private) = (list.at, list.private);
            told.by.clone_from(&list.by);
            if known != Some(list.generation.as_str()) {
                told.listing = Some(list.listing.clone());
            }
        }
        told
    }

    /// The list and the trouble, checked and normalized: each tag once, in order, no times in the future. `before` is
    /// the list that the asking member has, `teller` the member that told it.
    pub(super) fn understood(
        self,
        before: Option<&Known>,
        teller: Option<&str>,
        now: u64,
    ) -> (Option<Known>, Option<Trouble>) {
        let trouble = self
            .trouble
            .map(|trouble| Trouble::told(trouble.since, &trouble.why, trouble.answered, now));
        let by = match (self.by.filter(|by| is_address(by)), teller) {
            (Some(by), _) => Some(by),
            (None, teller) => teller.map(str::to_owned),
        };
        let at = self.at.min(now);
        let known = match (self.listing, before) {
            (Some(listing), _) => {
                cleaned(&listing).map(|listing| Known::new(listing, at, by, self.private))
            }
            (None, Some(before)) if before.generation == self.generation => Some(Known {
                at,
                by,
                private: self.private || before.private,
                ..before.clone()
            }),
            _ => None,
        };
        (known, trouble)
    }
}

/// Whether a text is a member's address, which messages may contain.
fn is_address(text: &str) -> bool {
    text.parse::<std::net::SocketAddr>().is_ok()
}

/// A list in the form in which this node would have written it; `None` if it is too long.
fn cleaned(listing: &Listing) -> Option<Listing> {
    let mut gathered = Gathered::default();
    for tag in &listing.tags {
        let said = Said {
            digest: tag.digest,
            size: tag.size,
            pushed: tag.pushed,
        };
        gathered.add(tag.tag.as_str(), said).ok()?;
    }
    Some(Listing {
        complete: listing.complete,
        ..gathered.listing()
    })
}

#[cfg(test)]
mod tests {
    use larder_shared::{Digest, warm::ListedTag};

    use super::*;

    fn listing(tags: &[&str]) -> Listing {
        let tags = tags.iter().map(|tag| ListedTag {
            tag: tag.parse().unwrap(),
            digest: Some(Digest::sha256(tag.as_bytes())),
            size: Some(1),
            pushed: None,
        });
        Listing {
            tags: tags.collect(),
            complete: true,
        }
    }

    #[test]
    fn what_is_told_is_understood_and_the_same_list_costs_nothing() {
        let known = Known::new(listing(&["a", "b"]), 5, None, true);
        let trouble = Some(Trouble {
            since: 6,
            why: "x".to_owned(),
            answered: true,
        });
        let kept = Kept::of(Some(known.clone()), trouble.clone());
        let whole = serde_json::to_string(&Told::of(&kept, Some("another"))).unwrap();
        let told: Told = serde_json::from_str(&whole).unwrap();
        let (list, why) = told.understood(None, Some("10.0.0.1:7422"), 9);
        let expected = Known {
            by: Some("10.0.0.1:7422".to_owned()),
            ..known.clone()
        };
        assert_eq!((list.as_ref(), why), (Some(&expected), trouble));
        let told = Told::of(&kept, Some(&known.generation));
        let short = serde_json::to_string(&told).unwrap();
        assert!(short.len() < 200 && told.listing.is_none(), "{short}");
        let (list, _) = told.clone().understood(Some(&known), None, 9);
        assert_eq!(list, Some(known));
        // Without the list itself, another generation tells nothing.
        assert_eq!(told.understood(None, None, 9).0, None);
        let nothing = Told::of(&Kept::default(), None);
        assert_eq!(nothing.understood(None, None, 9), (None, None));
    }

    #[test]
    fn nothing_is_believed_unseen() {
        let mut odd = listing(&["b", "a", "b"]);
        odd.tags[2].digest = Some(Digest::sha256(b"other"));
        let told = Told {
            listing: Some(odd),
            generation: "made up".to_owned(),
            at: 1_000,
            by: Some("<script>".to_owned()),
            ..Told::default()
        };
        let (known, _) = told.understood(None, None, 9);
        let known = known.unwrap();
        assert_eq!((known.at, known.by), (9, None));
        assert_ne!(known.generation, "made up");
        let tags: Vec<_> = known
            .listing
            .tags
            .iter()
            .map(|tag| tag.tag.as_str())
            .collect();
        assert_eq!(tags, ["a", "b"]);
        assert_eq!(known.listing.tags[1].digest, None);
    }
}
