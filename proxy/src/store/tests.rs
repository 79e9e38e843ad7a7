mod damage;
mod keeping;
mod partials;

use std::fs;

use super::*;

fn open(dir: &Path) -> Arc<Store> {
    let store = Store::open(dir).unwrap();
    store.scan();
    store
}

fn origin() -> RegistryName {
    "a.io".parse().unwrap()
}

fn sample(size: usize) -> (Vec<u8>, Digest) {
    let bytes: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
    let digest = Digest::sha256(&bytes);
    (bytes, digest)
}

fn feed(partial: &Partial, bytes: &[u8], range: std::ops::Range<usize>) {
    bring(partial, bytes, range);
    partial.hash().unwrap();
}

/// Writes a piece that is hashed some other time.
fn bring(partial: &Partial, bytes: &[u8], range: std::ops::Range<usize>) {
    let chunk = [Bytes::copy_from_slice(&bytes[range.clone()])];
    partial.write(range.start as u64, &chunk).unwrap();
    partial.push(Piece {
        start: range.start as u64,
        chunks: chunk.to_vec(),
        room: None,
    });
}

/// A verified partial of these bytes.
fn verified(store: &Store, bytes: &[u8]) -> Partial {
    let digest = Digest::sha256(bytes);
    let partial = store.begin(digest, bytes.len() as u64, &origin()).unwrap();
    feed(&partial, bytes, 0..bytes.len());
    assert_eq!(partial.verify().unwrap(), Some(true));
    partial
}

#[test]
fn a_partial_becomes_a_blob_that_a_reopened_store_serves() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = sample(3000);
    {
        let store = open(dir.path());
        let partial = store.begin(digest, 3000, &origin()).unwrap();
        assert_eq!(partial.verify().unwrap(), None);
        feed(&partial, &bytes, 1000..3000);
        assert!(store.blob(&digest, None).is_none());
        feed(&partial, &bytes, 0..1000);
        assert_eq!(partial.verify().unwrap(), Some(true));
        store.commit(&partial).unwrap();
    }
    let store = open(dir.path());
    assert_eq!(
        store.totals(),
        Totals {
            blobs: 1,
            bytes: 3000
        }
    );
    let blob = store.blob(&digest, Some(3000)).unwrap();
    assert_eq!(blob.read(Range::new(0, 3000)).unwrap(), bytes);
}

#[test]
fn one_store_one_larder() {
    let dir = tempfile::tempdir().unwrap();
    let first = Store::open(dir.path()).unwrap();
    assert_eq!(Store::open(dir.path()).unwrap().tenure(), Tenure::Waiting);
    drop(first);
    Store::open(dir.path()).unwrap();
}

#[test]
fn another_layout_version_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = sample(10);
    open(dir.path()).put(&digest, &bytes.into()).unwrap();
    fs::write(dir.path().join("version"), "99").unwrap();
    let store = open(dir.path());
    assert!(store.blob(&digest, None).is_none());
    assert_eq!(store.totals().blobs, 0);
    let aside = fs::read_dir(dir.path())
        .unwrap()
        .flatten()
        .any(|e| e.file_name().to_string_lossy().starts_with("set-aside-"));
    assert!(aside, "nothing was set aside");
}

/// A manifest that is put while a fill commits the same digest: the blob that is open then keeps its name on disk.
#[test]
fn what_is_put_twice_at_once_stays_one_file() {
    use std::os::unix::fs::MetadataExt as _;

    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (bytes, digest) = sample(3000);
    store.put(&digest, &Bytes::from(bytes.clone())).unwrap();
    let path = store.layout.blob(&digest);
    let inode = || std::fs::metadata(&path).unwrap().ino();
    let first = inode();
    // The last step of a put that found no blob in place when it began.
    store.layout.write_new(&path, &bytes).unwrap();
    assert_eq!(inode(), first);
    assert_eq!(std::fs::read_dir(store.layout.tmp()).unwrap().count(), 0);
}
