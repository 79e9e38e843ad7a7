use std::{fs, os::unix::fs::symlink};

use super::{list::LOADED, log::append, *};
use crate::sys::Calls;

fn calls() -> Calls {
    Calls::new(8, Duration::from_secs(20))
}

fn names() -> (RegistryName, Repository) {
    ("a.io".parse().unwrap(), "b/c".parse().unwrap())
}

/// Makes the directory this process's.
fn own(layout: &Layout) {
    layout.create().unwrap();
    let lock = crate::sys::disk::lock(&layout.lock()).unwrap().unwrap();
    layout.claim().hold(lock);
}

async fn written(path: &std::path::Path, lines: usize) {
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while fs::read_to_string(path).unwrap_or_default().lines().count() < lines {
        assert!(
            std::time::Instant::now() < deadline,
            "the log was not written"
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_record_survives_reopening_and_a_torn_line() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Arc::new(Layout::new(dir.path().to_owned()));
    own(&layout);
    let (registry, repository) = names();
    let path = layout.repository_log(&registry, &repository);
    let digest = Digest::sha256(b"x");
    let link = Link {
        digest,
        size: 1,
        media_type: Some("application/x".into()),
    };
    {
        let record = Repositories::new(Arc::clone(&layout), calls()).get(&registry, &repository);
        record.add_link(link.clone());
        record.add_link(link.clone());
        record.set_public();
        record.set_tag(
            "v1".parse().unwrap(),
            TagRecord {
                digest,
                size: 1,
                media_type: "application/x".into(),
                checked: unix_now(),
            },
        );
        written(&path, 3).await;
    }
    append(&path, b"{\"link\":{\"dig").unwrap();
    let repositories = Repositories::new(layout, calls());
    let record = repositories.get(&registry, &repository);
    assert_eq!(record.link(&digest), Some(link));
    assert_eq!(record.tag(&"v1".parse().unwrap()).unwrap().digest, digest);
    assert!(record.public_since().is_some());
    assert!(repositories.held_in(&registry, &digest).await);
    assert!(!repositories.held_in(&registry, &Digest::sha256(b"y")).await);
    assert!(
        !repositories
            .held_in(&"b.io".parse().unwrap(), &digest)
            .await
    );
    // A digest in a media type is no link.
    let named = Digest::sha256(b"named");
    repositories.get(&registry, &repository).add_link(Link {
        digest: Digest::sha256(b"z"),
        size: 1,
        media_type: Some(format!("application/x;y={named}")),
    });
    written(&path, 5).await;
    assert!(!repositories.held_in(&registry, &named).await);
}

/// A repository that is public on disk and refused in memory would be public after a restart.
#[tokio::test]
async fn what_the_disk_did_not_take_is_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Arc::new(Layout::new(dir.path().to_owned()));
    own(&layout);
    let (registry, repository) = names();
    let path = layout.repository_log(&registry, &repository);
    let repositories = Repositories::new(Arc::clone(&layout), calls());
    let record = repositories.get(&registry, &repository);
    record.set_public();
    record.add_link(Link {
        digest: Digest::sha256(b"x"),
        size: 1,
        media_type: None,
    });
    record.flush();
    let text = fs::read_to_string(&path).unwrap();
    // The log is a symlink that leads nowhere, which takes no line.
    fs::remove_file(&path).unwrap();
    symlink(dir.path().join("no/where"), &path).unwrap();
    record.set_not_public();
    record.flush();
    for n in 0..LOADED.get() {
        let other: Repository = format!("other/{n}").parse().unwrap();
        repositories.get(&registry, &other);
    }
    assert!(
        repositories
            .get(&registry, &repository)
            .refused_since()
            .is_some(),
        "it fell out of memory"
    );
    let aside = dir.path().join("aside");
    fs::write(&aside, text + "{\"link\":{\"dig").unwrap();
    fs::rename(&aside, &path).unwrap();
    repositories.flush();
    let again = Repositories::new(layout, calls()).get(&registry, &repository);
    assert_eq!(again.public_since(), None);
    assert!(again.refused_since().is_some());
}

/// The clock was ahead when it was written.
#[tokio::test]
async fn what_was_said_at_a_time_to_come_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Arc::new(Layout::new(dir.path().to_owned()));
    own(&layout);
    let (registry, repository) = names();
    let record = Repositories::new(layout, calls()).get(&registry, &repository);
    let ahead = unix_now() + 8 * 3600;
    let of = |bytes: &[u8], checked| TagRecord {
        digest: Digest::sha256(bytes),
        size: 1,
        media_type: "m".to_owned(),
        checked,
    };
    let tag: Tag = "v1".parse().unwrap();
    record.set_tag(tag.clone(), of(b"old", ahead));
    record.set_tag(tag.clone(), of(b"new", unix_now()));
    assert_eq!(record.tag(&tag).unwrap().digest, Digest::sha256(b"new"));
    record.write(Line::Public(ahead));
    assert_eq!(record.public_since(), Some(Duration::MAX));
    record.write(Line::NotPublic(ahead));
    assert_eq!(record.refused_since(), None);
    record.set_public();
    assert!(record.public_since().is_some());
}

/// A list is newer than an older answer, and older than a newer one.
#[tokio::test]
async fn what_a_list_says_of_a_tag_counts_from_when_it_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Arc::new(Layout::new(dir.path().to_owned()));
    own(&layout);
    let (registry, repository) = names();
    let record = Repositories::new(Arc::clone(&layout), calls()).get(&registry, &repository);
    let now = unix_now();
    let of = |bytes: &[u8], ago: u64| TagRecord {
        digest: Digest::sha256(bytes),
        size: 1,
        media_type: "m".to_owned(),
        checked: now.saturating_sub(ago),
    };
    let tag = |name: &str| name.parse::<Tag>().unwrap();
    let listed = |record: &RepositoryRecord, name: &str| {
        let listed = record.listed_since(&tag(name));
        listed.map(|listed| (listed.digest, now - listed.checked))
    };
    let b = |ago| Some((Digest::sha256(b"b"), ago));
    record.set_tag(tag("v1"), of(b"a", 100));
    record.list_tag(tag("v1"), of(b"b", 200));
    assert_eq!(listed(&record, "v1"), None, "the answer is newer");
    record.list_tag(tag("v1"), of(b"b", 50));
    assert_eq!(listed(&record, "v1"), b(50));
    record.list_tag(tag("v1"), of(b"b", 60));
    assert_eq!(listed(&record, "v1"), b(50), "lists may come late");
    record.set_tag(tag("v1"), of(b"a", 40));
    assert_eq!(listed(&record, "v1"), None);
    record.list_tag(tag("v1"), of(b"a", 30));
    assert_eq!(listed(&record, "v1"), None, "it is the same");
    record.list_tag(tag("v1"), of(b"b", 20));
    assert_eq!(listed(&record, "v1"), b(20));
    // A member's report is older than any list.
    record.set_tag(tag("v2"), of(b"b", now));
    record.list_tag(tag("v2"), of(b"b", 20));
    assert_eq!(listed(&record, "v2"), b(20));
    record.list_tag(
        tag("v3"),
        TagRecord {
            checked: now + 9000,
            ..of(b"b", 0)
        },
    );
    assert_eq!(listed(&record, "v3"), None, "the clock was wrong");
    record.list_tag(tag("v4"), of(b"b", 20));
    record.forget_tag(&tag("v4"));
    assert_eq!(listed(&record, "v4"), None);
    record.flush();
    let again = Repositories::new(layout, calls()).get(&registry, &repository);
    assert_eq!((listed(&again, "v1"), listed(&again, "v2")), (b(20), b(20)));
}

/// While the logs are another larder's nothing is read or written; afterwards both are known, the later word last.
#[tokio::test]
async fn what_was_learned_in_waiting_is_added_to_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    let layout = Arc::new(Layout::new(root.clone()));
    own(&layout);
    let (registry, repository) = names();
    let path = layout.repository_log(&registry, &repository);
    let link = |bytes: &[u8]| Link {
        digest: Digest::sha256(bytes),
        size: bytes.len() as u64,
        media_type: None,
    };
    let before = Repositories::new(Arc::clone(&layout), calls()).get(&registry, &repository);
    before.set_public();
    before.add_link(link(b"before"));
    before.flush();

    let successor = Arc::new(Layout::new(root));
    let repositories = Repositories::new(Arc::clone(&successor), calls());
    let record = repositories.get(&registry, &repository);
    assert_eq!(record.link(&link(b"before").digest), None);
    assert_eq!(record.public_since(), None);
    record.add_link(link(b"meanwhile"));
    record.set_not_public();
    record.flush();
    assert_eq!(repositories.forget(&registry), []);
    before.add_link(link(b"last"));
    before.flush();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);

    drop((before, layout));
    own(&successor);
    repositories.take_over();
    let again = Repositories::new(successor, calls()).get(&registry, &repository);
    for known in [record, again] {
        for bytes in [&b"before"[..], b"meanwhile", b"last"] {
            assert!(known.link(&link(bytes).digest).is_some());
        }
        assert!(known.refused_since().is_some(), "the last word");
        assert_eq!(known.public_since(), None);
    }
}

/// A larder that waits may have heard "public" before its predecessor heard that it is not.
#[tokio::test]
async fn a_refusal_that_the_predecessor_heard_later_stays() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Arc::new(Layout::new(dir.path().to_owned()));
    own(&layout);
    let (registry, repository) = names();
    let successor = Arc::new(Layout::new(dir.path().to_owned()));
    let repositories = Repositories::new(Arc::clone(&successor), calls());
    let record = repositories.get(&registry, &repository);
    record.write(Line::Public(unix_now() - 5));
    let before = Repositories::new(Arc::clone(&layout), calls()).get(&registry, &repository);
    before.set_not_public();
    before.add_link(Link {
        digest: Digest::sha256(b"x"),
        size: 1,
        media_type: None,
    });
    before.flush();
    drop((before, layout));
    own(&successor);
    repositories.take_over();
    let again = Repositories::new(successor, calls()).get(&registry, &repository);
    for known in [record, again] {
        assert!(known.refused_since().is_some());
        assert_eq!(known.public_since(), None);
    }
}

#[tokio::test]
async fn what_is_asked_for_first_is_what_is_most_likely_still_there() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Arc::new(Layout::new(dir.path().to_owned()));
    own(&layout);
    let (registry, repository) = names();
    let record = Repositories::new(layout, calls()).get(&registry, &repository);
    assert!(!record.holds_something());
    let digest = |name: &str| Digest::sha256(name.as_bytes());
    for (name, is_manifest) in [
        ("layer", false),
        ("old", true),
        ("new", true),
        ("none", true),
    ] {
        record.add_link(Link {
            digest: digest(name),
            size: 1,
            media_type: is_manifest.then(|| "m".to_owned()),
        });
    }
    for (tag, name, checked) in [("a", "new", 1), ("b", "new", 9), ("c", "old", 5)] {
        let record_of = TagRecord {
            digest: digest(name),
            size: 1,
            media_type: "m".into(),
            checked,
        };
        record.set_tag(tag.parse().unwrap(), record_of);
    }
    assert!(record.holds_something());
    let held = |count, besides: &str| {
        let held = record.held(count, |found| *found != digest(besides));
        held.into_iter().map(|link| link.digest).collect::<Vec<_>>()
    };
    let all = ["new", "old", "none", "layer"].map(digest);
    assert_eq!(held(9, ""), all);
    assert_eq!(held(2, ""), all[..2]);
    assert_eq!(held(2, "new"), all[1..3]);
    assert_eq!(held(0, ""), []);
}

#[test]
fn the_lines_of_a_log_are_written_as_ever() {
    let digest = Digest::sha256(b"abc");
    for line in [
        r#"{"link":{"digest":"DIGEST","size":3}}"#,
        r#"{"link":{"digest":"DIGEST","size":3,"media_type":"m"}}"#,
        r#"{"tag":{"tag":"v1","record":{"digest":"DIGEST","size":3,"media_type":"m","checked":5}}}"#,
        r#"{"forget":"v1"}"#,
        r#"{"public":5}"#,
        r#"{"not_public":5}"#,
    ] {
        let line = line.replace("DIGEST", &digest.to_string());
        let mut text = Vec::new();
        put_line(&mut text, &serde_json::from_str(&line).unwrap());
        assert_eq!(String::from_utf8(text).unwrap(), format!("{line}\n"));
    }
}
