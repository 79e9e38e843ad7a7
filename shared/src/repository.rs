//! What is known of a repository, as larder writes it: in the repository's log on disk, among members, and in the
//! object store.
//!
//! Other versions of larder read these types. An added field must have a default, and no field may be renamed.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// A digest that a repository holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Link {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// The `Content-Type` that the registry gave, for a manifest; blobs have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
}

/// The target of a tag when its registry was last asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TagRecord {
    /// The manifest's digest.
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
    pub media_type: String,
    /// When the registry was asked, in Unix seconds; 0 if another member told the target.
    pub checked: u64,
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::de::DeserializeOwned;

    use super::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn is_written_as<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, text: &str) {
        let text = text.replace("DIGEST", DIGEST);
        assert_eq!(serde_json::to_string(value).unwrap(), text);
        assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value);
    }

    #[test]
    fn what_is_known_of_a_repository_is_written_as_ever() {
        let digest = Digest::sha256(b"abc");
        let blob = Link {
            digest,
            size: 3,
            media_type: None,
        };
        is_written_as(&blob, r#"{"digest":"DIGEST","size":3}"#);
        let manifest = Link {
            media_type: Some("m".to_owned()),
            ..blob
        };
        is_written_as(
            &manifest,
            r#"{"digest":"DIGEST","size":3,"media_type":"m"}"#,
        );
        let tag = TagRecord {
            digest,
            size: 3,
            media_type: "m".to_owned(),
            checked: 1_790_000_000,
        };
        is_written_as(
            &tag,
            r#"{"digest":"DIGEST","size":3,"media_type":"m","checked":1790000000}"#,
        );
    }
}
