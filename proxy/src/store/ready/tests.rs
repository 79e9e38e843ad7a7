//! The directory of ready files, with reports of a runtime that the tests make up.

use super::*;
use crate::clock::unix_now;

const MB: u64 = 1 << 20;

struct Scene {
    _dir: tempfile::TempDir,
    ready: Option<Ready>,
    path: PathBuf,
    clock: Clock,
}

fn diff_id(name: &str) -> Digest {
    Digest::sha256(name.as_bytes())
}

fn origin(name: &str) -> Origin {
    Origin {
        layer: Digest::sha256(format!("layer of {name}").as_bytes()),
        registry: "r.io".parse().unwrap(),
        repository: "a/b".parse().unwrap(),
        manifest: Digest::sha256(b"manifest"),
        ground: Ground::Public,
        mounted: None,
    }
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (path, clock) = (dir.path().join("layers"), Clock::from(unix_now()));
        let ready = Ready::open(&path, clock).unwrap();
        Self {
            _dir: dir,
            ready,
            path,
            clock,
        }
    }

    fn ready(&self) -> &Ready {
        self.ready.as_ref().unwrap()
    }

    fn again(&mut self) {
        self.ready = None;
        self.ready = Ready::open(&self.path, self.clock).unwrap();
    }

    fn offer(&self, name: &str) {
        let made = self.ready().new_tmp();
        fs::write(&made, vec![7; MB as usize]).unwrap();
        self.ready()
            .offer(&made, &diff_id(name), origin(name))
            .unwrap();
    }

    fn is_offered(&self, name: &str) -> bool {
        self.ready().path(&diff_id(name), OFFERED).exists()
    }

    fn is_aside(&self, name: &str) -> bool {
        self.ready().path(&diff_id(name), ASIDE).exists()
    }

    /// A report that was begun `ahead` seconds from now.
    fn told(&self, ahead: u64, references: &[&str]) {
        let told = Told {
            at: unix_now() + ahead,
            fresh: true,
        };
        let references = references.iter().map(|name| (diff_id(name), 1)).collect();
        self.ready().told(Some(told), Some(&references));
    }

    /// Makes every file that is aside older.
    fn later(&self) {
        for file in lock(&self.ready().state).files.values_mut() {
            if let Phase::Aside { since } = &mut file.phase {
                *since -= 15;
            }
        }
    }
}

#[test]
fn a_file_that_nothing_refers_to_goes_when_a_newer_report_says_so() {
    let scene = Scene::new();
    scene.offer("a");
    assert!(scene.is_offered("a"));
    // Without a report the file stays, whatever room is wanted.
    assert_eq!(scene.ready().round(1, None), 0);
    assert!(scene.is_offered("a"));
    scene.told(0, &[]);
    assert!(scene.ready().round(1, None) >= MB, "it is on its way");
    assert!(scene.is_aside("a") && !scene.is_offered("a"));
    scene.ready().round(1, None);
    assert!(scene.is_aside("a"), "the report is from before");
    scene.later();
    scene.told(0, &[]);
    scene.ready().round(0, None);
    assert!(!scene.is_aside("a") && !scene.is_offered("a"));
    assert_eq!(scene.ready().totals(), ReadyTotals::default());
    assert_eq!(scene.ready().take_removed().len(), 1);
    assert!(!scene.ready().path(&diff_id("a"), ORIGIN).exists());
}

#[test]
fn a_file_that_a_snapshot_began_to_refer_to_comes_back() {
    let scene = Scene::new();
    scene.offer("a");
    scene.told(0, &[]);
    scene.ready().round(1, None);
    assert!(scene.is_aside("a"));
    scene.later();
    scene.told(0, &["a"]);
    scene.ready().round(1, None);
    assert!(scene.is_offered("a"));
    assert_eq!(scene.ready().totals().kept, scene.ready().totals().bytes);
    // A file stays while a snapshot refers to it, even if it may not be offered any more.
    scene.ready().withdraw(&diff_id("a"), true);
    scene.ready().round(u64::MAX, Some(Duration::ZERO));
    assert!(scene.is_offered("a"));
}

#[test]
fn the_least_recently_used_goes_first_and_only_as_much_as_is_needed() {
    let scene = Scene::new();
    for (name, age) in [("old", 30), ("older", 60), ("new", 0)] {
        scene.offer(name);
        let mut state = lock(&scene.ready().state);
        let file = state.files.get_mut(&diff_id(name)).unwrap();
        file.used -= age;
    }
    scene.told(0, &[]);
    scene.ready().round(MB / 2, None);
    assert!(scene.is_aside("older") && scene.is_offered("old") && scene.is_offered("new"));
    scene.ready().round(MB + MB / 2, None);
    assert!(scene.is_aside("old") && scene.is_offered("new"));
}

#[test]
fn a_start_finds_what_is_there_and_clears_what_was_being_made() {
    let mut scene = Scene::new();
    scene.offer("a");
    scene.offer("b");
    scene.told(0, &[]);
    scene.ready().withdraw(&diff_id("b"), true);
    scene.ready().round(0, None);
    let half = scene.ready().new_tmp();
    fs::write(&half, "half").unwrap();
    let alone = scene
        .path
        .join("sha256/ab")
        .join(format!("{}.json", "ab".repeat(32)));
    fs::create_dir_all(alone.parent().unwrap()).unwrap();
    fs::write(&alone, "{}").unwrap();
    scene.again();
    assert!(!half.exists() && !alone.exists());
    let files = scene.ready().files();
    assert_eq!(files.len(), 2);
    assert_eq!(files[&diff_id("a")].phase, Phase::Offered);
    assert_eq!(files[&diff_id("a")].origin, Some(origin("a")));
    assert!(matches!(files[&diff_id("b")].phase, Phase::Aside { .. }));
    // A second larder is let in when the first has ended.
    assert!(Ready::open(&scene.path, scene.clock).unwrap().is_none());
}

#[test]
fn what_went_is_not_made_again_for_the_same_use() {
    let scene = Scene::new();
    scene.offer("a");
    let used = scene.clock.now();
    assert!(scene.ready().has_or_had(&diff_id("a"), used));
    scene.told(0, &[]);
    scene.ready().round(1, None);
    scene.later();
    scene.told(0, &[]);
    scene.ready().round(1, None);
    assert!(scene.ready().has_or_had(&diff_id("a"), used));
    assert!(
        !scene
            .ready()
            .has_or_had(&diff_id("a"), scene.clock.now() + 1)
    );
}

#[test]
fn the_names_of_a_file_are_changed_by_one_at_a_time() {
    let scene = Scene::new();
    let ready = scene.ready();
    let (one, other) = (diff_id("one"), diff_id("other"));
    let moving = ready.moving(&one);
    assert!(moving.is_some() && ready.moving(&one).is_none());
    assert!(ready.moving(&one).is_none() && ready.moving(&other).is_some());
    drop(moving);
    assert!(ready.moving(&one).is_some());
}

/// A link counts as offered and not as made. A whole file takes its place, and the file's origin says that it was a
/// link.
#[test]
fn a_link_is_offered_until_its_file_is_made() {
    let mut scene = Scene::new();
    let one = diff_id("one");
    let target = Path::new("/run/nowhere/one.erofs");
    let tree = Tree::of(&[1; 4096]);
    let from = |tree: &Tree| Origin {
        mounted: Some(tree.clone()),
        ..origin("one")
    };
    assert!(
        scene
            .ready()
            .stream(target, &one, from(&tree), (5, 9))
            .unwrap()
    );
    assert!(
        !scene
            .ready()
            .stream(target, &one, from(&tree), (5, 9))
            .unwrap()
    );
    let path = scene.ready().path(&one, OFFERED);
    assert_eq!(fs::read_link(&path).unwrap(), target);
    assert!(scene.ready().offers(&one) && !scene.ready().has_or_had(&one, 0));
    assert_eq!(scene.ready().of_layer(&origin("one").layer), None);
    scene.ready().has_grown(&one, 7, 9);
    assert_eq!(scene.ready().totals().bytes, 7);
    // Another process finds it again, without following it.
    scene.ready = None;
    scene.ready = Ready::open(&scene.path, scene.clock).unwrap();
    let streaming = scene.ready().streaming();
    assert_eq!(streaming.len(), 1);
    assert_eq!(streaming[0].1.origin, Some(from(&tree)));
    let made = scene.ready().new_tmp();
    fs::write(&made, vec![1; 1 << 20]).unwrap();
    scene.ready().offer(&made, &one, origin("one")).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert!(scene.ready().streaming().is_empty() && scene.ready().has_or_had(&one, 0));
    let known = scene.ready().files()[&one].origin.clone().unwrap();
    assert_eq!(known.mounted.as_ref(), Some(&tree));
    let file = scene.ready().open_whole(&one).unwrap();
    assert!(tree.begins(&file).unwrap());
    assert!(!Tree::of(&[2; 4096]).begins(&file).unwrap());
    assert!(!Tree::of(&vec![1; 2 << 20]).begins(&file).unwrap());
    // Another image that speaks for it next does not change that.
    scene.ready().set_origin(&one, origin("another"));
    let known = scene.ready().files()[&one].origin.clone().unwrap();
    assert!(known.mounted == Some(tree) && known.layer == origin("another").layer);
}

/// No report can tell yet what the runtime makes of a layer that it is about to look for.
#[test]
fn what_the_runtime_is_about_to_look_for_makes_no_room() {
    let scene = Scene::new();
    let (one, two) = (diff_id("one"), diff_id("two"));
    for name in ["one", "two"] {
        let made = scene.ready().new_tmp();
        fs::write(&made, vec![1; 1 << 20]).unwrap();
        let ready = scene.ready();
        ready.offer(&made, &diff_id(name), origin(name)).unwrap();
    }
    scene.ready().is_looked_for(&[one]);
    let nothing = HashMap::new();
    let told = Told {
        at: unix_now(),
        fresh: true,
    };
    scene.ready().told(Some(told), Some(&nothing));
    scene.ready().round(10 * MB, None);
    assert!(scene.ready().offers(&one) && !scene.ready().offers(&two));
}
