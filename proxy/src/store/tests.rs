use std::{
    fs::{File, FileTimes},
    time::{Duration, Instant, SystemTime},
};

use proptest::prelude::*;

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

/// Promise P21: the scan may take its time, and the use must survive a restart all the same.
#[test]
fn a_use_before_the_scan_is_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = sample(1000);
    let path = {
        let store = open(dir.path());
        store.put(&digest, &bytes.into()).unwrap();
        store.write_uses();
        store.layout.blob(&digest)
    };
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let times = FileTimes::new()
        .set_accessed(long_ago)
        .set_modified(long_ago);
    File::open(&path).unwrap().set_times(times).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert!(store.blob(&digest, None).is_some());
    store.write_uses();
    let used = fs::metadata(&path).unwrap().accessed().unwrap();
    assert!(
        used > SystemTime::now() - Duration::from_mins(1),
        "{used:?}"
    );
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
    // As far as this had come when the other was not there yet.
    store.layout.write_new(&path, &bytes).unwrap();
    assert_eq!(inode(), first);
    assert_eq!(std::fs::read_dir(store.layout.tmp()).unwrap().count(), 0);
}

/// The times of last use are written while the disk takes its time: whoever asks the index does not wait for that.
#[test]
fn writing_uses_does_not_hold_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = sample(1000);
    let store = open(dir.path());
    store.put(&digest, &bytes.into()).unwrap();
    assert!(store.blob(&digest, None).is_some());
    // To open this takes until somebody opens the other end.
    let path = store.layout.blob(&digest);
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| store.write_uses());
        std::thread::sleep(Duration::from_millis(100));
        let (asked, answered) = std::sync::mpsc::channel();
        let asking = Arc::clone(&store);
        std::thread::spawn(move || asked.send(asking.totals()));
        let totals = answered.recv_timeout(Duration::from_secs(1));
        assert!(!writing.is_finished(), "nothing was held up");
        File::options().write(true).open(&path).unwrap();
        assert_eq!(totals.map(|totals| totals.blobs), Ok(1));
    });
}

/// Promise P21: between the choice of what goes and its end somebody may pin it.
#[test]
fn what_is_pinned_while_others_are_looked_at_stays() {
    use crate::config::Amount;

    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let [first, second] = [1000, 1001].map(|size| {
        let (bytes, digest) = sample(size);
        store.put(&digest, &bytes.into()).unwrap();
        digest
    });
    let limits = Limits {
        max_size: Amount::Bytes(0),
        min_free: Amount::Bytes(0),
        ttl: None,
        ttl_of: Vec::new(),
    };
    // Whichever is looked at last, the other one was chosen by then.
    let seen = Mutex::new(Vec::new());
    let active = |digest: &Digest| {
        let mut seen = lock(&seen);
        if let [chosen] = seen[..] {
            store.pin(&[chosen], true).unwrap();
        }
        seen.push(*digest);
        false
    };
    let evicted = store.enforce(&limits, &Counts::default(), active).unwrap();
    let pinned = lock(&seen)[0];
    assert!([first, second].contains(&pinned));
    assert!(store.blob(&pinned, None).is_some(), "it is pinned");
    assert_eq!(evicted.blobs, 1);
}

#[test]
fn pins_that_are_made_at_once_are_all_written_down() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..50 {
        let pins = [2 * round, 2 * round + 1].map(|name: u8| Digest::sha256(&[name]));
        let store = open(dir.path());
        std::thread::scope(|scope| {
            for pin in &pins {
                let store = &store;
                scope.spawn(move || store.pin(&[*pin], true).unwrap());
            }
        });
        drop(store);
        let kept = open(dir.path()).pins();
        assert!(pins.iter().all(|pin| kept.contains(pin)), "round {round}");
    }
}

/// A verified partial of what `bytes` are.
fn verified(store: &Store, bytes: &[u8]) -> Partial {
    let digest = Digest::sha256(bytes);
    let partial = store.begin(digest, bytes.len() as u64, &origin()).unwrap();
    feed(&partial, bytes, 0..bytes.len());
    assert_eq!(partial.verify().unwrap(), Some(true));
    partial
}

/// A blob may be committed a second time. Whoever still has the first file open has no rot before him.
#[test]
fn a_blob_that_was_replaced_is_not_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (bytes, digest) = sample(3000);
    store.put(&digest, &bytes.clone().into()).unwrap();
    let first = store.blob(&digest, None).unwrap();
    let partial = verified(&store, &bytes);
    // As far as a commit has come when the index does not know yet.
    partial.seal().unwrap();
    partial.put_in_place().unwrap();
    let second = store.blob(&digest, Some(3000)).expect("it is here");
    assert!(second.is_at(&store.layout.blob(&digest)) && !first.is_at(&store.layout.blob(&digest)));
    assert_eq!(store.rotten(), 0);
    assert_eq!(store.totals().blobs, 1);
}

/// What is found in one file, after it was hashed for seconds, is not held against the one that has its place by then.
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

/// Rot is found on a disk that has gone read-only: the file stays where it is, and nobody is served it again.
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

/// A node that is off more often than it runs: its own time lies far behind the kernel's.
#[test]
fn what_is_set_aside_gets_old_however_often_the_node_restarts() {
    const HOUR: u64 = 3600;

    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = sample(3000);
    let begun = unix_now() - 1000 * HOUR;
    let after = |hours: u64| {
        let _ = fs::create_dir_all(dir.path());
        let passed = begun + hours * HOUR;
        fs::write(dir.path().join("clock"), passed.to_string()).unwrap();
        let store = open(dir.path());
        let limits = Limits {
            max_size: crate::config::Amount::Bytes(u64::MAX),
            min_free: crate::config::Amount::Bytes(0),
            ttl: Some(Duration::from_hours(30)),
            ttl_of: Vec::new(),
        };
        let none = |_: &Digest| false;
        store.enforce(&limits, &Counts::default(), none).unwrap();
        store
    };
    let partial = sample(2000).1;
    {
        let store = after(0);
        store.put(&digest, &bytes.clone().into()).unwrap();
        let blob = store.blob(&digest, None).unwrap();
        assert!(store.quarantine(&blob));
        let partial = store.begin(partial, 2000, &origin()).unwrap();
        feed(&partial, &bytes, 0..1000);
    }
    let there = |store: &Store| {
        let aside = fs::read_dir(store.layout.quarantine()).unwrap().count();
        (aside == 1, store.layout.partial(&partial).exists())
    };
    for (hours, expected) in [
        (1, (true, true)),
        (12, (true, true)),
        (23, (true, true)),
        (25, (false, true)),
        (32, (false, false)),
    ] {
        assert_eq!(there(&after(hours)), expected, "after {hours} hours");
    }
}

/// Files that are open are many, and one that hangs must not be opened again because others came after it.
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
    assert!(!store.hanging.is_empty() && lock(&store.index).in_use(hangs.digest()));
    drop(read);
    let again = store.blob(hangs.digest(), None).unwrap();
    assert!(Arc::ptr_eq(&again, &hangs));
    assert!(store.hanging.is_empty());
}
