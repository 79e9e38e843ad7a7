use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use larder_shared::media::MAX_MANIFEST;

use super::*;
use crate::store::{self, Gone, Store};

struct Scene {
    dir: tempfile::TempDir,
    store: Arc<Store>,
}

/// Older than a tick of the file system, without waiting for one.
const AT_ONCE_RATE: u64 = u64::MAX;

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("content/blobs/sha256")).unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    fn content(&self) -> PathBuf {
        self.dir.path().join("content")
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.content().join("blobs/sha256").join(digest.hex())
    }

    fn write(&self, digest: &Digest, bytes: &[u8]) {
        let new = self.dir.path().join("new");
        fs::write(&new, bytes).unwrap();
        fs::rename(new, self.path(digest)).unwrap();
    }

    fn list(&self, blobs: &[(Digest, u64)]) {
        self.list_used(blobs, 0);
    }

    /// As `list`, with the time since which the runtime has the blobs.
    fn list_used(&self, blobs: &[(Digest, u64)], used: u64) {
        let listed = blobs
            .iter()
            .map(|(digest, size)| (*digest, store::Entry { size: *size, used }));
        self.store.list_adoptable(Some(&self.content()), listed);
    }

    /// Looks until the file is old enough to be remembered.
    async fn hashed(&self, digest: &Digest) -> Looked {
        loop {
            let looked = self.store.look_at_adopted(*digest, AT_ONCE_RATE).await;
            if !matches!(looked, Looked::Young(_)) {
                return looked;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn read(&self, digest: &Digest) -> Option<Vec<u8>> {
        let blob = self.store.find(digest, None).await?;
        blob.read(Range::new(0, blob.size())).ok()
    }
}

fn some(seed: u8, len: usize) -> (Digest, Vec<u8>) {
    let bytes: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8 ^ seed).collect();
    (Digest::sha256(&bytes), bytes)
}

fn names(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[tokio::test]
async fn what_the_runtime_lists_is_found_and_nothing_is_copied() {
    let scene = Scene::new();
    let (digest, bytes) = some(1, 200_000);
    scene.write(&digest, &bytes);
    assert!(scene.read(&digest).await.is_none(), "it is not listed");
    scene.list(&[(digest, 200_000)]);
    assert!(scene.store.may_adopt(&digest) && !scene.store.adopts(&digest));
    // At first use, hashed on the way.
    assert_eq!(scene.read(&digest).await, Some(bytes.clone()));
    assert!(matches!(scene.hashed(&digest).await, Looked::Sound(_)));
    assert!(scene.store.adopts(&digest));
    assert_eq!(scene.store.length(&digest).await, Some(200_000));
    assert!(scene.store.find(&digest, Some(200_000)).await.is_some());
    assert!(scene.store.find(&digest, Some(199_999)).await.is_none());
    assert!(!scene.store.has(&digest), "the tier itself has none");
    // Checksums serve members.
    assert!(!scene.store.lacks_sums(&digest, 200_000));
    scene.store.put(&digest, &bytes.into()).unwrap();
    assert!(
        scene.store.peek(&digest).is_none(),
        "it is not written twice"
    );
    scene.list(&[]);
    assert!(
        scene.read(&digest).await.is_none(),
        "it is listed no longer"
    );
}

#[tokio::test]
async fn what_changes_is_hashed_again_and_what_is_wrong_stays_where_it_is() {
    let scene = Scene::new();
    let (digest, bytes) = some(1, 5000);
    let (_, other) = some(2, 5000);
    let listed = [(digest, 5000)];
    scene.write(&digest, &bytes);
    scene.list(&listed);
    assert!(matches!(scene.hashed(&digest).await, Looked::Sound(_)));
    let open = scene.store.find(&digest, None).await.unwrap();
    // Replaced by a rename: a reader that has it open goes on with the old file.
    scene.write(&digest, &other);
    assert!(scene.read(&digest).await.is_none());
    assert_eq!(open.read(Range::new(0, 5000)).unwrap(), bytes);
    assert!(!scene.store.adopts(&digest) && !scene.store.may_adopt(&digest));
    assert_eq!(scene.store.adopted_view().wrong.blobs, 1);
    assert_eq!(
        fs::read(scene.path(&digest)).unwrap(),
        other,
        "it is not moved"
    );
    assert_eq!(names(&scene.dir.path().join("store/quarantine")), 0);
    // Right again.
    scene.write(&digest, &bytes);
    assert!(matches!(scene.hashed(&digest).await, Looked::Sound(_)));
    assert_eq!(scene.read(&digest).await, Some(bytes.clone()));
    // Written into, and back: the same length, and each time another state.
    let path = scene.path(&digest);
    for (now, served) in [(&other, false), (&bytes, true)] {
        fs::write(&path, now).unwrap();
        assert_eq!(scene.read(&digest).await.is_some(), served);
    }
    // Cut short.
    fs::write(&path, &bytes[..4000]).unwrap();
    assert!(scene.read(&digest).await.is_none());
    // Gone, and back.
    fs::remove_file(&path).unwrap();
    assert!(matches!(scene.hashed(&digest).await, Looked::Gone));
    scene.write(&digest, &bytes);
    scene.list(&listed);
    assert_eq!(scene.read(&digest).await, Some(bytes));
}

#[tokio::test]
async fn what_was_found_damaged_by_a_reader_is_not_served_again() {
    let scene = Scene::new();
    let (digest, bytes) = some(1, 300_000);
    scene.write(&digest, &bytes);
    scene.list(&[(digest, 300_000)]);
    assert!(matches!(scene.hashed(&digest).await, Looked::Sound(_)));
    let blob = scene.store.find(&digest, None).await.unwrap();
    assert!(scene.store.quarantine(&blob));
    assert!(scene.store.find(&digest, None).await.is_none());
    assert!(scene.path(&digest).exists(), "larder only reads there");
}

#[tokio::test]
async fn links_pipes_and_directories_are_no_blobs() {
    let scene = Scene::new();
    let (digest, bytes) = some(1, 100);
    let elsewhere = scene.dir.path().join("elsewhere");
    fs::write(&elsewhere, &bytes).unwrap();
    std::os::unix::fs::symlink(&elsewhere, scene.path(&digest)).unwrap();
    scene.list(&[(digest, 100)]);
    assert!(matches!(scene.hashed(&digest).await, Looked::Gone));
    fs::remove_file(scene.path(&digest)).unwrap();
    fs::create_dir(scene.path(&digest)).unwrap();
    scene.list(&[(digest, 100)]);
    assert!(matches!(scene.hashed(&digest).await, Looked::Gone));
    fs::remove_dir(scene.path(&digest)).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(scene.path(&digest))
        .status();
    assert!(made.unwrap().success());
    scene.list(&[(digest, 100)]);
    assert!(matches!(scene.hashed(&digest).await, Looked::Gone));
    // A store that is not there.
    let entry = store::Entry { size: 100, used: 0 };
    let nowhere = scene.dir.path().join("nowhere");
    scene
        .store
        .list_adoptable(Some(&nowhere), [(digest, entry)]);
    assert!(matches!(scene.hashed(&digest).await, Looked::Gone));
    scene.store.list_adoptable(None, [(digest, entry)]);
    assert!(matches!(scene.hashed(&digest).await, Looked::Unknown));
    assert!(scene.store.adopted_view().dir.is_none());
}

/// A link is kept for as long as the runtime lists what it leads to.
#[tokio::test]
async fn a_sweep_leaves_what_the_runtime_holds() {
    let scene = Scene::new();
    scene.store.scan();
    let (digest, bytes) = some(1, 100);
    scene.write(&digest, &bytes);
    let (registry, repository) = ("a.io".parse().unwrap(), "team/app".parse().unwrap());
    let record = scene.store.repositories().get(&registry, &repository);
    record.add_link(larder_shared::Link {
        digest,
        size: 100,
        media_type: None,
    });
    record.flush();
    for (listed, linked) in [(&[(digest, 100)][..], true), (&[], false)] {
        scene.list(listed);
        scene.store.sweep_names(|_| false, || ());
        assert_eq!(record.link(&digest).is_some(), linked);
    }
}

#[tokio::test]
async fn a_manifest_is_read_into_memory_and_a_large_blob_is_not() {
    let scene = Scene::new();
    let (digest, bytes) = some(1, 1000);
    let size = MAX_MANIFEST as usize + 1;
    let (large, content) = some(2, size);
    scene.write(&digest, &bytes);
    scene.write(&large, &content);
    scene.list(&[(digest, 1000), (large, size as u64)]);
    assert_eq!(
        scene.store.bytes(&digest, MAX_MANIFEST).await.as_deref(),
        Some(&bytes[..])
    );
    assert_eq!(scene.store.bytes(&large, MAX_MANIFEST).await, None);
    assert_eq!(scene.store.read_adopted_unseen(&digest), Some(bytes));
    assert_eq!(scene.store.read_adopted_unseen(&large), None);
    // In memory from now on, whatever becomes of the file.
    fs::set_permissions(scene.path(&digest), fs::Permissions::from_mode(0o0)).unwrap();
    fs::remove_file(scene.path(&digest)).unwrap();
    assert!(scene.store.bytes(&digest, MAX_MANIFEST).await.is_some());
}

/// Other members count on what is hashed and known to be of a repository, and hear when it goes.
#[tokio::test]
async fn what_the_runtime_holds_is_a_holding_once_it_is_hashed_and_proven() {
    let scene = Scene::new();
    let store = &scene.store;
    let gone = |digest| Gone {
        digest,
        expired: false,
    };
    assert!(store.take_gone().is_empty());
    let (one, two) = (some(1, 5000), some(2, 7000));
    let (digest, other) = (one.0, two.0);
    scene.write(&digest, &one.1);
    scene.write(&other, &two.1);
    let both = [(digest, 5000), (other, 7000)];
    let used = store.clock().now() - 1000;
    scene.list_used(&both, used);
    assert!(!store.note_proven(&digest), "it is not hashed");
    assert!(!store.holds(&digest));
    assert!(matches!(scene.hashed(&digest).await, Looked::Sound(_)));
    assert!(matches!(scene.hashed(&other).await, Looked::Sound(_)));
    let held = store::Entry { size: 5000, used };
    assert_eq!(store.holdings(), [(digest, held)]);
    // A look does not count as a use, a client's request does.
    assert!(store.peek_adopted(&digest, None).await.is_some());
    assert_eq!(store.holding(&digest), Some(held));
    assert!(scene.read(&digest).await.is_some());
    assert!(
        store
            .holding(&digest)
            .is_some_and(|entry| entry.used > used)
    );
    assert!(store.note_proven(&other) && !store.note_proven(&other));
    let parts = (0..4).map(|part| store.holdings_part(part, 4).len());
    assert_eq!(parts.sum::<usize>(), 2);
    assert_eq!(store.count_holdings(), 2);
    // A list that says the same changes nothing.
    scene.list(&both);
    assert!(store.holds(&digest) && store.take_gone().is_empty());
    scene.list(&both[1..]);
    assert!(!store.holds(&digest));
    assert_eq!(store.take_gone(), [gone(digest)]);
    // Its file is another one, and its bytes are wrong.
    scene.write(&other, &some(3, 7000).1);
    assert!(scene.read(&other).await.is_none());
    assert!(store.holdings().is_empty());
    assert_eq!(store.take_gone(), [gone(other)]);
}

/// A blob that a container runs is in use on this node, whichever client asked for it last.
#[tokio::test]
async fn a_holding_that_a_container_runs_is_as_young_as_the_report() {
    let scene = Scene::new();
    let store = &scene.store;
    store.scan();
    let (digest, bytes) = some(1, 5000);
    scene.write(&digest, &bytes);
    scene.list(&[(digest, 5000)]);
    store.note_proven(&digest);
    assert!(matches!(scene.hashed(&digest).await, Looked::Sound(_)));
    assert_eq!(store.holding(&digest).map(|entry| entry.used), Some(0));
    let at = store.clock().now();
    store.set_in_use(HashSet::from([digest]), at);
    assert_eq!(store.holding(&digest).map(|entry| entry.used), Some(at));
}

/// larder's own copy goes first, and the runtime's is as young as it was.
#[tokio::test]
async fn a_holding_stays_as_young_as_the_copy_that_was_evicted() {
    let scene = Scene::new();
    let store = &scene.store;
    let (digest, bytes) = some(1, 5000);
    store.put(&digest, &bytes.clone().into()).unwrap();
    scene.write(&digest, &bytes);
    scene.list(&[(digest, 5000)]);
    store.note_proven(&digest);
    assert!(matches!(scene.hashed(&digest).await, Looked::Sound(_)));
    let before = store.holding(&digest).expect("two copies");
    assert!(before.used > 0);
    store.remove(&digest);
    assert!(!store.has(&digest));
    assert_eq!(store.holding(&digest), Some(before));
}

/// A copy for which the runtime has the bytes already makes no second file.
#[tokio::test]
async fn a_copy_of_what_the_runtime_holds_is_checked_and_not_kept() {
    let scene = Scene::new();
    let store = &scene.store;
    let (digest, bytes) = some(1, 5000);
    scene.write(&digest, &bytes);
    scene.list(&[(digest, 5000)]);
    assert!(matches!(scene.hashed(&digest).await, Looked::Sound(_)));
    let take_in = |bytes: &[u8]| {
        let mut incoming = store.receive(digest, 5000).unwrap();
        incoming.write(bytes).unwrap();
        store.take_in(incoming, Duration::ZERO).unwrap()
    };
    assert!(!take_in(&some(2, 5000).1), "other bytes");
    assert!(take_in(&bytes));
    assert!(store.peek(&digest).is_none());
    assert_eq!(names(&scene.dir.path().join("store/tmp")), 0);
}

/// A restart hashes nothing again: a look that had to hash would take a hundred seconds.
#[tokio::test]
async fn what_was_hashed_is_remembered_over_a_restart_and_what_changed_is_not() {
    let scene = Scene::new();
    let (same, changed) = (some(1, 5000), some(2, 5000));
    scene.write(&same.0, &same.1);
    scene.write(&changed.0, &changed.1);
    let both = [(same.0, 5000), (changed.0, 5000)];
    scene.list(&both);
    for (digest, _) in &both {
        assert!(matches!(scene.hashed(digest).await, Looked::Sound(_)));
    }
    scene.store.write_hashed();
    let Scene { dir, store } = scene;
    drop(store);
    let store = Store::open(&dir.path().join("store")).unwrap();
    let scene = Scene { dir, store };
    scene.write(&changed.0, &some(3, 5000).1);
    scene.list(&both);
    assert!(!scene.store.adopts(&same.0), "nothing is believed unseen");
    let looking = scene.store.look_at_adopted(same.0, 50);
    let looked = tokio::time::timeout(Duration::from_secs(20), looking).await;
    assert!(matches!(looked, Ok(Looked::Sound(_))), "{looked:?}");
    assert!(scene.store.adopts(&same.0));
    assert!(matches!(scene.hashed(&changed.0).await, Looked::Wrong));
    // The file is written anew, without the blob that is wrong.
    scene.store.write_hashed();
    let text = fs::read_to_string(scene.dir.path().join("store/adopted")).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with(&same.0.to_string()), "{text}");
}
