//! A manifest that anybody may have pushed, and the runtime has: see [`crate::fuzz`].

use super::manifest::{Known, Platform, read};

const OWN: Platform = Platform {
    os: "linux",
    architecture: "amd64",
};

/// What is no index is the same for every platform, and an index has nothing for one that nobody names.
pub(crate) fn platforms(bytes: &[u8]) {
    let none = Platform {
        os: "\u{0}none",
        architecture: "none",
    };
    match (read(bytes, OWN), read(bytes, none)) {
        (Known::Index(_), Known::Index(other)) => assert!(other.is_empty()),
        (own, other) => assert_eq!(own, other),
    }
}
