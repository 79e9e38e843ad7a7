//! The roles in which members of a cluster ask each other.

/// How a node is asked for a run. The requester says so, and the role decides which members the asked one may ask in turn, so
/// that no chain of requests is longer than from a reader over a relay to a root, whatever each believes of the members.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Only what is committed on its disk counts.
    Holder,
    /// It may ask holders, the object store and upstream.
    Root,
    /// It may ask the root, or what a root may ask.
    Relay,
    /// Only what is committed on its disk counts, for a copy that a keeper makes: it is no use of the blob.
    Copy,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Holder, Self::Root, Self::Relay, Self::Copy];

    /// The word for it in requests between members.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Holder => "holder",
            Self::Root => "root",
            Self::Relay => "relay",
            Self::Copy => "copy",
        }
    }

    /// The role that [`Self::as_str`] names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }

    /// How many members stand between an answer in this role and the source, at the most.
    pub const fn depth(self) -> u8 {
        match self {
            Self::Holder | Self::Root | Self::Copy => 0,
            Self::Relay => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_roles() {
        for role in Role::ALL {
            assert_eq!(Role::parse(role.as_str()), Some(role));
        }
        assert_eq!(Role::parse("boss"), None);
    }
}
