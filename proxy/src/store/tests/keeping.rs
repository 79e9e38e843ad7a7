//! Uses, pins, and what grows old.

use std::{
    fs::{File, FileTimes},
    time::{Duration, SystemTime},
};

use super::*;

/// No other part of larder knows anything of any blob.
fn alone(_: &Digest) -> Around {
    Around::default()
}

/// Promise P21: a use before the scan has ended survives a restart, too.
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

/// The times of last use are written while the disk takes its time: a question to the index does not wait for that.
#[test]
fn writing_uses_does_not_hold_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = sample(1000);
    let store = open(dir.path());
    store.put(&digest, &bytes.into()).unwrap();
    assert!(store.blob(&digest, None).is_some());
    // Opening this takes until the test opens the other end.
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

/// Promise P21: between the choice of what goes and its end, an operator may pin it.
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
    // Whichever blob is looked at last, the other one was chosen by then.
    let seen = Mutex::new(Vec::new());
    let active = |digest: &Digest| {
        let mut seen = lock(&seen);
        if let [chosen] = seen[..] {
            store.pin(&[chosen], true).unwrap();
        }
        seen.push(*digest);
        false
    };
    let evicted = store
        .enforce(&limits, &Counts::default(), active, alone)
        .unwrap();
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

/// A node that is off more often than it runs: its own time lies far behind the kernel's.
#[test]
fn what_is_set_aside_gets_old_however_often_the_node_restarts() {
    const HOUR: u64 = 3600;

    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = sample(3000);
    let begun = crate::clock::unix_now() - 1000 * HOUR;
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
        store
            .enforce(&limits, &Counts::default(), none, alone)
            .unwrap();
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
