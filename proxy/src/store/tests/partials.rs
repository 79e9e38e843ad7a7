//! Partials: what is written, hashed, left behind and gone on with.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[test]
fn wrong_bytes_do_not_verify() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (mut bytes, digest) = sample(3000);
    bytes[1500] ^= 1;
    let partial = store.begin(digest, 3000, &origin()).unwrap();
    feed(&partial, &bytes, 0..3000);
    assert_eq!(partial.verify().unwrap(), Some(false));
    partial.discard().unwrap();
    assert!(store.resume(digest, &origin()).unwrap().is_none());
}

#[test]
fn a_partial_goes_on_in_another_process() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = sample(3000);
    {
        let store = open(dir.path());
        let partial = store.begin(digest, 3000, &origin()).unwrap();
        feed(&partial, &bytes, 0..700);
        feed(&partial, &bytes, 2000..2500);
        partial.checkpoint().unwrap();
    }
    let store = open(dir.path());
    let partial = store
        .resume(digest, &origin())
        .unwrap()
        .expect("the partial was left behind");
    assert_eq!(
        partial.present().iter().collect::<Vec<_>>(),
        [Range::new(0, 700), Range::new(2000, 2500)]
    );
    feed(&partial, &bytes, 2500..3000);
    feed(&partial, &bytes, 700..2000);
    assert_eq!(partial.verify().unwrap(), Some(true));
}

#[test]
fn a_partial_of_another_boot_or_length_is_swept_away() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = sample(3000);
    let spans = dir
        .path()
        .join(format!("partial/sha256/{}.spans", digest.hex()));
    for spoil in ["boot", "length", "text"] {
        let store = open(dir.path());
        let partial = store.begin(digest, 3000, &origin()).unwrap();
        feed(&partial, &bytes, 0..700);
        partial.checkpoint().unwrap();
        let text = fs::read_to_string(&spans).unwrap();
        match spoil {
            "boot" => fs::write(&spans, text.replace(&disk::boot_id(), "another")).unwrap(),
            "length" => partial.blob().file().set_len(2999).unwrap(),
            _ => fs::write(&spans, &text[..text.len() / 2]).unwrap(),
        }
        assert!(
            store.resume(digest, &origin()).unwrap().is_none(),
            "{spoil}"
        );
        assert!(!spans.exists());
    }
}

proptest! {
    /// Written in any order and any pieces, hashed now or later, also through a restart, the hash is that of the whole.
    #[test]
    fn any_order_of_writes_verifies(cuts in prop::collection::vec(1usize..5000, 0..8), order in any::<u64>(), restart in any::<prop::sample::Index>()) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (bytes, digest) = sample(5000);
        let mut edges: Vec<usize> = cuts.into_iter().chain([0, 5000]).collect();
        edges.sort_unstable();
        edges.dedup();
        let mut pieces: Vec<_> = edges.windows(2).map(|w| w[0]..w[1]).collect();
        let mut random = fastrand::Rng::with_seed(order);
        random.shuffle(&mut pieces);
        let restart = restart.index(pieces.len());
        let mut partial = store.begin(digest, 5000, &origin()).unwrap();
        for (i, piece) in pieces.into_iter().enumerate() {
            if i == restart {
                partial.checkpoint().unwrap();
                partial = store.resume(digest, &origin()).unwrap().unwrap();
            }
            bring(&partial, &bytes, piece);
            if random.bool() {
                partial.hash().unwrap();
            }
        }
        prop_assert_eq!(partial.verify().unwrap(), Some(true));
    }
}

#[test]
fn what_one_registry_began_another_does_not_go_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (bytes, digest) = sample(3000);
    let partial = store.begin(digest, 3000, &origin()).unwrap();
    feed(&partial, &bytes, 0..700);
    partial.checkpoint().unwrap();
    let other = "b.io".parse().unwrap();
    assert!(store.resume(digest, &other).unwrap().is_none());
    assert!(
        store.resume(digest, &origin()).unwrap().is_none(),
        "it was swept away"
    );
}

#[test]
fn a_byte_is_written_once_whoever_brings_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (bytes, digest) = sample(3000);
    let partial = store.begin(digest, 3000, &origin()).unwrap();
    feed(&partial, &bytes, 0..2000);
    // Another source says something else about what is there, and brings the rest.
    let mut rotten = bytes.clone();
    rotten[..2000].fill(0);
    let piece = [Bytes::copy_from_slice(&rotten[1000..3000])];
    let new = partial.write(1000, &piece).unwrap();
    assert_eq!(new, [Range::new(2000, 3000)], "not all of it was new");
    partial.hash().unwrap();
    assert_eq!(partial.verify().unwrap(), Some(true));
    store.commit(&partial).unwrap();
    let blob = store.blob(&digest, None).unwrap();
    assert_eq!(blob.read(Range::new(0, 3000)).unwrap(), bytes);
}

/// The verdict is asked for while another thread still hashes.
#[test]
fn the_verdict_waits_for_whoever_hashes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // Long enough to be still hashed when it is asked for.
    let bytes = Bytes::from(vec![7; 64 << 20]);
    let size = bytes.len() as u64;
    let partial = store
        .begin(Digest::sha256(&bytes), size, &origin())
        .unwrap();
    partial.write(0, std::slice::from_ref(&bytes)).unwrap();
    let rooms = Arc::new(tokio::sync::Semaphore::new(1));
    let room = Arc::clone(&rooms).try_acquire_owned().ok();
    let piece = |start, chunks, room| Piece {
        start,
        chunks,
        room,
    };
    assert!(partial.push(piece(0, vec![bytes], room)), "nobody hashes");
    std::thread::scope(|scope| {
        scope.spawn(|| partial.hash().unwrap());
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while partial.push(piece(size, Vec::new(), None)) {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert_eq!(partial.verify().unwrap(), Some(true));
    });
    assert_eq!(rooms.available_permits(), 1, "memory was not given back");
}

#[test]
fn what_is_late_after_the_end_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (bytes, digest) = sample(3000);
    let old = store.begin(digest, 3000, &origin()).unwrap();
    feed(&old, &bytes, 0..1000);
    old.close().unwrap();
    let new = store.resume(digest, &origin()).unwrap().unwrap();
    old.write(0, &[Bytes::from_static(&[0; 500])]).unwrap();
    old.checkpoint().unwrap();
    feed(&new, &bytes, 1000..3000);
    assert_eq!(new.verify().unwrap(), Some(true));
    store.commit(&new).unwrap();
    let blob = store.blob(&digest, None).unwrap();
    assert_eq!(blob.read(Range::new(0, 3000)).unwrap(), bytes);
}
