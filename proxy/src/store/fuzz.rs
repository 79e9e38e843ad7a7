//! Manifests, and the store's own files as a broken disk, another version or another program leaves them: see
//! [`crate::fuzz`].

use data_encoding::BASE64;
use http::HeaderValue;
use larder_shared::media::{self, Kind};
use larder_shared::{Digest, Hasher};

use super::partial;
use super::repositories::Known;
use super::{Names, sizes};

/// A manifest or an index.
pub(crate) fn manifests(bytes: &[u8]) {
    let names = Names::of(bytes);
    assert!(names.leaves().count() <= names.all().count());
    assert!(sizes(bytes).len() <= names.all().count());
    for told in [None, Some(media::OCI_INDEX), Some("text/html\r\nx: y")] {
        if let Kind::Is(media_type) = media::kind(bytes, told) {
            assert!(HeaderValue::from_str(&media_type).is_ok(), "{media_type:?}");
            assert!(!media::is_schema1(&media_type), "{media_type}");
        }
    }
}

/// A partial's checkpoint. `MIDSTATE` in the text stands for a valid state of a hasher.
pub(crate) fn checkpoints(text: &str) {
    let digest = Digest::sha256(b"anything");
    let state = BASE64.encode(&Hasher::new(digest.algorithm()).save());
    let text = text.replace("MIDSTATE", &state);
    let Some((checkpoint, _)) = partial::checkpoint(text.as_bytes(), &digest, "this") else {
        return;
    };
    let present = checkpoint.present();
    assert!(
        present <= checkpoint.size,
        "{present} of {}",
        checkpoint.size
    );
    assert!(checkpoint.hashed <= present);
}

/// A repository's log.
pub(crate) fn logs(bytes: &[u8]) {
    let (known, lines) = Known::read(bytes);
    assert!(lines <= bytes.len());
    let written = known.text();
    let (again, _) = Known::read(&written);
    // A rewritten log says the same.
    let sorted = |known: &Known| {
        let text = String::from_utf8(known.text()).expect("JSON");
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&again), sorted(&known));
    // A merge gives back nothing that the log did not have.
    let mut merged = Known::default();
    let counts = merged.merge(bytes);
    assert!(counts.len() <= bytes.len());
}
