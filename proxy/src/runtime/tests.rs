use std::{fs, path::Path};

use larder_shared::runtime::{LONGEST, Software, VERSION};

use super::*;
use crate::{clock::unix_now, config, drain::Drain};

fn report(at: u64) -> Report {
    Report {
        version: VERSION,
        at,
        boot: None,
        runtime: Software {
            name: "containerd".to_owned(),
            version: "2.1.4".to_owned(),
        },
        images: Vec::new(),
        users: Vec::new(),
        snapshots: Vec::new(),
        plugins: Vec::new(),
        snapshotter: None,
        content: Vec::new(),
    }
}

fn put(path: &Path, text: impl AsRef<[u8]>) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

fn put_report(path: &Path, at: u64) {
    put(path, serde_json::to_vec(&report(at)).unwrap());
}

/// A reader of the file at `path`, with a store beside it.
fn reader(path: &Path) -> Runtime {
    let store = Store::open(&path.with_extension("store")).unwrap();
    store.scan();
    let config = Config {
        runtime: config::Runtime {
            file: Some(path.to_owned()),
            content: None,
        },
        ..Config::default()
    };
    Runtime::new(Arc::new(ArcSwap::from_pointee(config)), store)
}

/// The state after each change of the file, one look after the other, and whether a report is known.
#[tokio::test]
async fn whatever_becomes_of_the_file_the_last_good_report_stays() {
    type Step<'a> = (&'a str, &'a dyn Fn(), &'a str, bool);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runtime.json");
    let runtime = reader(&path);
    let now = unix_now();
    let half = serde_json::to_vec(&report(now)).unwrap();
    let half = &half[..half.len() / 2];
    let steps: &[Step<'_>] = &[
        ("no file yet", &|| {}, "off", false),
        (
            "half a file at first",
            &|| put(&path, half),
            "unreadable",
            false,
        ),
        ("a report", &|| put_report(&path, now), "fresh", true),
        ("the same file", &|| {}, "fresh", true),
        ("half written", &|| put(&path, half), "unreadable", true),
        ("still half written", &|| {}, "unreadable", true),
        (
            "a newer version",
            &|| put(&path, r#"{"version": 2, "images": 5}"#),
            "newer",
            true,
        ),
        ("still newer", &|| {}, "newer", true),
        ("no version", &|| put(&path, "{}"), "unreadable", true),
        (
            "a day old",
            &|| put_report(&path, now - 86_400),
            "old",
            true,
        ),
        (
            "of next year",
            &|| put_report(&path, now + 365 * 86_400),
            "fresh",
            true,
        ),
        (
            "too long",
            &|| put(&path, vec![b' '; LONGEST as usize + 1]),
            "unreadable",
            true,
        ),
        (
            "gone",
            &|| fs::remove_file(&path).unwrap(),
            "unreadable",
            true,
        ),
        ("still gone", &|| {}, "unreadable", true),
        (
            "a directory",
            &|| fs::create_dir(&path).unwrap(),
            "unreadable",
            true,
        ),
        (
            "back",
            &|| {
                fs::remove_dir(&path).unwrap();
                put_report(&path, now);
            },
            "fresh",
            true,
        ),
    ];
    for (what, act, state, known) in steps {
        act();
        runtime.look().await;
        let found = runtime.known();
        assert_eq!(found.state.as_str(), *state, "{what}: {:?}", found.state);
        assert_eq!(found.report().is_some(), *known, "{what}");
    }
}

/// A directory that two nodes share, or that outlives a boot, may contain the wrong file.
#[tokio::test]
async fn a_report_of_another_kernel_is_not_this_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runtime.json");
    let runtime = reader(&path);
    for (boot, state) in [
        (None, State::Fresh),
        (Some("7a4e0c11"), State::Unreadable(Unreadable::Foreign)),
        (Some(&*crate::sys::disk::boot_id()), State::Fresh),
    ] {
        let report = Report {
            boot: boot.map(str::to_owned),
            ..report(unix_now())
        };
        put(&path, serde_json::to_vec(&report).unwrap());
        runtime.look().await;
        assert_eq!(runtime.known().state, state, "{boot:?}");
    }
}

/// A pipe in the file's place would keep a thread that opens it until a process writes.
#[tokio::test]
async fn a_pipe_is_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runtime.json");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let runtime = reader(&path);
    runtime.look().await;
    assert_eq!(runtime.known().state, State::Unreadable(Unreadable::NoFile));
    let opened = crate::sys::disk::open_at_once(&path);
    assert!(opened.is_ok(), "{opened:?}");
}

#[tokio::test]
async fn a_report_gets_old_while_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runtime.json");
    let runtime = reader(&path);
    // The report counts as fresh for one more second.
    put_report(&path, unix_now() + 1 - OLD_AFTER.as_secs());
    runtime.look().await;
    let mut changes = runtime.subscribe();
    let (drain, watch) = Drain::new();
    let running = tokio::spawn(Arc::new(runtime).run(watch));
    let old = changes.wait_for(|known| known.state == State::Old);
    let old = tokio::time::timeout(Duration::from_secs(20), old).await;
    let known = Arc::clone(&old.expect("it gets old").unwrap());
    assert!(known.report().is_some());
    assert!(known.age().unwrap() >= OLD_AFTER);
    drain.drain().await;
    running.await.unwrap();
}

#[tokio::test]
async fn another_file_or_none_by_configuration_makes_the_report_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    for (name, other) in [("a", None), ("b", Some(dir.path().join("other.json")))] {
        let path = dir.path().join(name);
        put_report(&path, unix_now());
        let runtime = reader(&path);
        runtime.look().await;
        assert_eq!(runtime.known().state, State::Fresh);
        let mut config = Config::clone(&runtime.config.load());
        config.runtime.file = other;
        runtime.config.store(Arc::new(config));
        runtime.look().await;
        assert_eq!(runtime.known().state, State::Off);
        assert!(runtime.known().report().is_none());
    }
}

/// Every byte of the file may be missing or wrong.
#[test]
fn what_is_cut_short_or_damaged_is_no_report() {
    let whole = serde_json::to_vec(&report(1)).unwrap();
    for end in 0..whole.len() {
        let found = file::parse(&whole[..end]);
        assert!(matches!(found, Found::Unreadable(_)), "{end}: {found:?}");
    }
    let deep = format!("{{\"version\": 1, \"images\": {}", "[".repeat(100_000));
    assert!(matches!(file::parse(deep.as_bytes()), Found::Unreadable(_)));
}
