//! Blobs that are damaged, replaced, or that hang.

use std::time::Instant;

use super::*;

#[test]
fn a_blob_of_the_wrong_length_is_a_miss_and_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = sample(3000);
    open(dir.path()).put(&digest, &bytes.into()).unwrap();
    let path = dir
        .path()
        .join("blobs/sha256")
        .join(&digest.hex()[..2])
        .join(digest.hex());
    fs::write(&path, b"short").unwrap();
    let store = open(dir.path());
    assert!(store.blob(&digest, Some(3000)).is_none());
    assert!(!path.exists());
}

#[test]
fn a_rotted_small_blob_is_a_miss_and_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = sample(3000);
    open(dir.path())
        .put(&digest, &bytes.clone().into())
        .unwrap();
    let path = dir
        .path()
        .join("blobs/sha256")
        .join(&digest.hex()[..2])
        .join(digest.hex());
    let mut rotten = bytes;
    rotten[7] ^= 4;
    fs::write(&path, rotten).unwrap();
    let store = open(dir.path());
    assert!(store.read(&digest, 4096).is_none());
    assert!(!path.exists());
}

/// A blob may be committed a second time. A reader that still has the first file open does not read rot.
#[test]
fn a_blob_that_was_replaced_is_not_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (bytes, digest) = sample(3000);
    store.put(&digest, &bytes.clone().into()).unwrap();
    let first = store.blob(&digest, None).unwrap();
    let partial = verified(&store, &bytes);
    // The steps of a commit that come before the index knows the file.
    partial.seal().unwrap();
    partial.put_in_place().unwrap();
    let second = store.blob(&digest, Some(3000)).expect("it is here");
    assert!(second.is_at(&store.layout.blob(&digest)) && !first.is_at(&store.layout.blob(&digest)));
    assert_eq!(store.rotten(), 0);
    assert_eq!(store.totals().blobs, 1);
}

/// Damage that is found in one file, after seconds of hashing, is not held against another that has its place by then.
#[test]
fn a_right_blob_is_not_taken_out_for_the_wrong_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (bytes, digest) = sample(3000);
    store.put(&digest, &bytes.clone().into()).unwrap();
    let path = store.layout.blob(&digest);
    fs::write(&path, vec![0; 3000]).unwrap();
    let wrong = store.peek(&digest).unwrap();
    store.commit(&verified(&store, &bytes)).unwrap();
    assert!(!store.check(&wrong));
    let right = store.blob(&digest, Some(3000)).expect("it is here");
    assert_eq!(right.read(Range::new(0, 3000)).unwrap(), bytes);
    assert_eq!(store.rotten(), 0);
}

/// A directory that takes no changes, not even from root; undone when dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(dir: &Path) -> Option<Self> {
        let frozen = Self(dir.to_owned());
        frozen.chattr("+i").then_some(frozen)
    }

    fn chattr(&self, flag: &str) -> bool {
        let mut command = std::process::Command::new("chattr");
        let command = command.arg(flag).arg(&self.0);
        let done = command.stderr(std::process::Stdio::null()).status();
        done.is_ok_and(|status| status.success())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.chattr("-i");
    }
}

/// Rot is found on a disk that has gone read-only: the file stays where it is, and no client is served it again.
#[test]
fn what_is_damaged_and_cannot_be_taken_away_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (bytes, digest) = sample(3000);
    store.put(&digest, &bytes.clone().into()).unwrap();
    let path = store.layout.blob(&digest);
    fs::write(&path, vec![0; 3000]).unwrap();
    let Some(frozen) = Frozen::new(path.parent().unwrap()) else {
        eprintln!("skipped: directories cannot be made immutable here");
        return;
    };
    assert!(!store.check(&store.peek(&digest).unwrap()));
    for _ in 0..2 {
        assert!(store.blob(&digest, None).is_none());
        assert!(store.peek(&digest).is_none());
    }
    assert!(path.exists(), "the disk takes changes");
    assert_eq!(store.rotten(), 1);
    drop(frozen);
    assert!(store.blob(&digest, None).is_none());
    assert!(!path.exists(), "it could have been taken away by now");
    store.commit(&verified(&store, &bytes)).unwrap();
    assert!(store.blob(&digest, None).is_some());
}

/// Many files are open. A file that hangs must not be opened again because others were opened after it.
#[test]
fn a_blob_that_hangs_is_known_to_however_many_others_are_opened() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let blob = |size: usize| {
        let (bytes, digest) = sample(size);
        store.put(&digest, &bytes.into()).unwrap();
        store.blob(&digest, None).unwrap()
    };
    let hangs = blob(3000);
    let long_ago = Instant::now().checked_sub(2 * HANGS).unwrap();
    let read = hangs.reads().begin_at(long_ago);
    assert!(store.blob(hangs.digest(), None).is_none());
    for size in 1..300 {
        blob(size);
    }
    assert!(store.blob(hangs.digest(), None).is_none());
    assert!(!store.hanging.is_empty() && lock(&store.index).is_being_read(hangs.digest()));
    drop(read);
    let again = store.blob(hangs.digest(), None).unwrap();
    assert!(Arc::ptr_eq(&again, &hangs));
    assert!(store.hanging.is_empty());
}
