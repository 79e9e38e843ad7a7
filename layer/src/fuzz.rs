//! Layers and indexes that a stranger may have written. For fuzzers and tests only.

use std::io::Cursor;

use sha2::{Digest as _, Sha256};

use crate::erofs::check::walk;
use crate::format::{FOOTER, Footer, SEAL_AT};
use crate::{Index, build, decode};

/// A layer: either it is refused, or its index is valid and gives back its tar.
pub fn layers(bytes: &[u8]) {
    let mut file = Vec::new();
    let Ok(summary) = build(&mut &bytes[..], &mut file) else {
        return;
    };
    let mut file = Cursor::new(file);
    let index = Index::open(&mut file).expect("an index that was just built");
    assert_eq!(index.diff_id(), summary.diff_id);
    let mut tar = Sha256::new();
    for span in index.spans() {
        let window = Index::window(span, &mut file).expect("a window that was just written");
        let from = span.layer_at as usize;
        let layer = &bytes[from..from + span.layer_length as usize];
        tar.update(decode(span, &window, layer).expect("a span that was just built"));
    }
    assert_eq!(tar.finalize()[..], *summary.diff_id.as_bytes());
}

/// An index: either it is broken, or all its parts can be reached. The seal is corrected first, so that the checks
/// behind it are reached too.
pub fn indexes(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    seal(&mut bytes);
    let mut file = Cursor::new(bytes);
    let Ok(index) = Index::open(&mut file) else {
        return;
    };
    for at in [
        0,
        index.tar_length() / 2,
        index.tar_length().saturating_sub(1),
    ] {
        let span = index.span_of(at).map(|number| index.spans()[number]);
        if let Some(span) = span {
            assert!((span.tar_at..span.tar_at + span.tar_length).contains(&at));
            let window = Index::window(&span, &mut file).expect("a window inside of the index");
            // The span's bytes of the layer are missing, so decoding must fail, whatever the window is.
            assert!(decode(&span, &window, &[]).is_err());
        }
    }
}

/// A tree, with a tar as long as the superblock says: either it has a flaw, or everything that it points to exists.
pub fn trees(bytes: &[u8]) {
    let Some(superblock) = bytes.get(1024..1152) else {
        return;
    };
    let blocks = u32::from_le_bytes(crate::erofs::fields::array(superblock, 36));
    let tar = (u64::from(blocks) * 512).saturating_sub(bytes.len() as u64);
    let uuid = crate::erofs::fields::array(superblock, 48);
    let mut names = 0_u64;
    let facts = walk(bytes, tar, uuid, |_| names += 1);
    if let Ok(facts) = facts {
        assert!(facts.inodes <= names);
    }
}

/// Corrects the seal of an index after a change.
pub fn seal(index: &mut [u8]) -> Option<Footer> {
    let end = index.len().checked_sub(FOOTER)?;
    let seal = Sha256::digest(&index[..end + SEAL_AT]);
    index[end + SEAL_AT..end + SEAL_AT + 32].copy_from_slice(&seal);
    Footer::read(&crate::erofs::fields::array(index, end))
}
