//! The roles in which members of a cluster ask each other.

/// How a node is asked for a run. The requester names the role, and the role decides which members the asked node may
/// ask in turn. So no chain of requests is longer than from a reader over a relay to a root, whatever each node
/// believes of the members.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Role {
    /// The node answers only from the committed blobs on its disk.
    Holder,
    /// The node may ask holders, the object store and upstream.
    Root,
    /// The node may ask the root, or ask what a root may ask.
    Relay,
    /// As [`Role::Holder`], for a copy that a keeper makes: it does not count as a use of the blob.
    Copy,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Holder, Self::Root, Self::Relay, Self::Copy];

    /// The role's word in requests between members.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Holder => "holder",
            Self::Root => "root",
            Self::Relay => "relay",
            Self::Copy => "copy",
        }
    }

    /// The role whose word is `word`; see [`Self::as_str`].
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }

    /// The most members that may stand between an answer in this role and the source.
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
