//! A directory as the store.

use super::*;

fn at(dir: &std::path::Path) -> Arc<ObjectStore> {
    opened(&config(&format!("file://{}", dir.display()), &[]), limits())
}

#[tokio::test]
async fn blobs_lie_where_the_documentation_says_and_come_back_in_any_range() {
    let dir = tempfile::tempdir().unwrap();
    let store = at(dir.path());
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (digest, file, size) = blob(&bytes);
    assert_eq!(store.head(&digest).await, Ok(None));
    assert_eq!(read(&store, &digest, ALL).await, None);
    store.write_blob(digest, file, size, Duration::ZERO);
    let view = written(&store).await;
    assert_eq!((view.written, view.failed, view.dropped), (1, 0, 0));

    let hex = digest.hex();
    let path = dir.path().join("blobs/sha256").join(&hex[..2]).join(&hex);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(store.head(&digest).await, Ok(Some(size)));
    for (range, start, end) in [
        (ALL, 0, bytes.len()),
        (Range::new(0, 10), 0, 10),
        (Range::new(1_048_570, 2_100_000), 1_048_570, 2_100_000),
        (Range::new(2_999_999, u64::MAX), 2_999_999, bytes.len()),
        (Range::new(2_999_990, 9_000_000), 2_999_990, bytes.len()),
    ] {
        let object = store.get(&digest, range).await.unwrap().unwrap();
        assert_eq!(
            (object.size, object.start),
            (size, start as u64),
            "{range:?}"
        );
        assert_eq!(object.end, end as u64, "{range:?}");
        assert_eq!(body(object).await.unwrap(), bytes[start..end], "{range:?}");
    }
}

#[tokio::test]
async fn empty_and_large_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..20_000_001_u32).map(|n| (n >> 3) as u8).collect();
    for bytes in [&large[..], b""] {
        written_once(dir.path(), bytes).await;
    }
}

async fn written_once(dir: &std::path::Path, bytes: &[u8]) {
    let store = at(dir);
    let (digest, file, size) = blob(bytes);
    store.write_blob(digest, file, size, Duration::ZERO);
    let view = written(&store).await;
    assert_eq!(view.written, 1, "{view:?}");
    assert!(read(&store, &digest, ALL).await.unwrap() == bytes);
    let (_, file, size) = blob(bytes);
    let store = at(dir);
    store.write_blob(digest, file, size, Duration::ZERO);
    let view = written(&store).await;
    assert_eq!((view.written, view.already_there), (0, 1), "another node");
}

#[tokio::test]
async fn the_last_record_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = at(dir.path());
    let path = "127.0.0.1:5000/team/app/_tags/v1";
    assert_eq!(store.read_record(path).await, Ok(None));
    for text in ["one", "two"] {
        store.write_record(path, Bytes::from_static(text.as_bytes()), None);
    }
    let view = written(&store).await;
    assert_eq!(view.written, 1, "the first one was not worth writing");
    let found = store.read_record(path).await.unwrap().unwrap();
    assert_eq!(found, "two");
    let file = dir.path().join("records").join(path);
    assert_eq!(std::fs::read(file).unwrap(), b"two");
    // Another node's record may be the later one.
    let longer = |there: &[u8], ours: &[u8]| there.len() > ours.len();
    for (text, expected) in [("1", "two"), ("three", "three")] {
        let other = at(dir.path());
        other.write_record(path, Bytes::from_static(text.as_bytes()), Some(longer));
        let view = written(&other).await;
        assert_eq!(view.written, u64::from(text == expected), "{view:?}");
        let found = store.read_record(path).await.unwrap().unwrap();
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn paths_that_lead_elsewhere_are_no_paths() {
    let dir = tempfile::tempdir().unwrap();
    let store = at(dir.path());
    for path in [
        "",
        "alone",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../../b",
        "a/./b",
    ] {
        let failure = store.read_record(path).await.unwrap_err();
        assert_eq!(failure, ObjectFailure::Path(path.to_owned()));
        store.write_record(path, Bytes::from_static(b"x"), None);
    }
    store.write_record(
        "a/b",
        Bytes::from(vec![0; LARGEST_RECORD as usize + 1]),
        None,
    );
    assert_eq!(store.view().dropped, 9);
    assert_eq!(store.view().queue, 0);
}
