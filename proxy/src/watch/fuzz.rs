//! A manifest in the runtime, which anybody may have pushed: see [`crate::fuzz`].

use super::manifest::{Known, Platform, read};

const OWN: Platform = Platform {
    os: "linux",
    architecture: "amd64",
};

/// A document that is no index reads the same for every platform. An index has no manifest for an unknown platform.
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
