//! Grants after a restart, void grants, and bounds.

use std::{os::unix::fs::symlink, path::Path, time::Instant};

use larder_shared::Repository;

use super::*;
use crate::identity::Fingerprint;

fn of(who: Fingerprint) -> Key {
    ("a.io".parse().unwrap(), "b".parse().unwrap(), who)
}

fn who(n: u8) -> Fingerprint {
    Fingerprint::parse(&format!("{n:02x}").repeat(16)).unwrap()
}

async fn lines(path: &Path, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while fs::read_to_string(path).unwrap_or_default().lines().count() < count {
        assert!(Instant::now() < deadline, "the grants were not written");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_grant_survives_a_restart_until_it_is_revoked_or_old() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grants");

    let day = Duration::from_hours(24);
    let grants = Grants::load(path.clone(), day);
    grants.accept(&of(who(1)));
    grants.accept(&of(who(2)));
    grants.refuse(&of(who(2)));
    lines(&path, 3).await;
    let other = ("a.io".parse().unwrap(), "c".parse().unwrap(), who(1));
    let reread = Grants::load(path.clone(), day);
    assert!(reread.age(&of(who(1))).is_some());
    assert!(reread.age(&of(who(2))).is_none());
    assert!(reread.age(&other).is_none());
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let old = Grants::load(path, Duration::ZERO);
    assert!(old.age(&of(who(1))).is_none());
}

/// A client may make up names of repositories and secrets, so their refusals get no line. The end of a grant gets one.
#[tokio::test]
async fn a_refusal_of_what_was_never_held_or_granted_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grants");

    let day = Duration::from_hours(24);
    let grants = Grants::load(path.clone(), day);
    for n in 0..100 {
        grants.refuse_made_up(&of(who(n)));
        assert!(grants.refused_since(&of(who(n))).is_some());
    }
    // A grant that another member heard of before the refusal is void all the same.
    grants.learn(&of(who(1)), unix_now() - 1);
    assert_eq!(grants.age(&of(who(1))), None);
    grants.accept(&of(who(200)));
    grants.refuse_made_up(&of(who(200)));
    grants.flush();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    let reread = Grants::load(path, day);
    assert!(reread.refused_since(&of(who(1))).is_none());
    assert!(reread.refused_since(&of(who(200))).is_some());
}

/// However the writing threads are scheduled, a credential that was refused last must not be granted after a restart.
#[tokio::test]
async fn the_file_tells_the_order_of_acceptance_and_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grants");

    let day = Duration::from_hours(24);
    let grants = Grants::load(path.clone(), day);
    for n in 0..100 {
        grants.accept(&of(who(n)));
        grants.refuse(&of(who(n)));
    }
    lines(&path, 200).await;
    let reread = Grants::load(path, day);
    let granted = (0..100).filter(|n| reread.age(&of(who(*n))).is_some());
    assert_eq!(granted.count(), 0);
}

/// A grant on disk that memory has refused would come back after a restart.
#[tokio::test]
async fn what_the_disk_did_not_take_is_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grants");
    let aside = dir.path().join("aside");

    let day = Duration::from_hours(24);
    let grants = Grants::load(path.clone(), day);
    grants.accept(&of(who(1)));
    lines(&path, 1).await;
    // A link that leads nowhere takes no line.
    fs::rename(&path, &aside).unwrap();
    symlink(dir.path().join("no/where"), &path).unwrap();
    grants.refuse(&of(who(1)));
    grants.flush();
    fs::write(&aside, fs::read_to_string(&aside).unwrap() + "{\"regis").unwrap();
    fs::rename(&aside, &path).unwrap();
    grants.flush();
    let reread = Grants::load(path.clone(), day);
    assert_eq!(reread.age(&of(who(1))), None);
    // The same where the file could not be written anew.
    let waiting = Grants::waiting(path.clone(), day);
    waiting.refuse(&of(who(2)));
    let new = path.with_extension("new");
    fs::create_dir(&new).unwrap();
    waiting.take_over();
    fs::remove_dir(&new).unwrap();
    waiting.flush();
    let reread = Grants::load(path, day);
    assert!(reread.refused_since(&of(who(2))).is_some());
}

/// The clock was ahead when the grant was written.
#[tokio::test]
async fn what_was_accepted_at_a_time_to_come_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grants");

    let day = Duration::from_hours(24);
    let ahead = unix_now() + 8 * 3600;
    fs::write(
        &path,
        file::accepted(&of(who(1)), ahead) + &file::refused(&of(who(2)), ahead),
    )
    .unwrap();
    let grants = Grants::load(path, day);
    assert_eq!(grants.age(&of(who(1))), None);
    assert_eq!(grants.age(&of(who(2))), None);
    for n in [1, 2] {
        grants.accept(&of(who(n)));
        assert!(grants.age(&of(who(n))).is_some());
    }
}

#[tokio::test]
async fn what_is_remembered_is_bounded_in_memory_and_on_disk() {
    let mut known = HashMap::new();
    let (registry, _, _) = of(who(1));
    for n in 0..2 * CROWDED {
        let repository: Repository = format!("r{n}").parse().unwrap();
        known.insert((registry.clone(), repository, who(1)), (n / 1000) as u64);
        bound(&mut known);
        assert!(known.len() < CROWDED);
    }
    let newest: Repository = format!("r{}", 2 * CROWDED - 1).parse().unwrap();
    assert!(known.contains_key(&(registry.clone(), newest, who(1))));
    let mut same: HashMap<Key, u64> = known.into_keys().map(|key| (key, 7)).collect();
    for n in 0..CROWDED {
        let repository: Repository = format!("s{n}").parse().unwrap();
        same.insert((registry.clone(), repository, who(1)), 7);
        bound(&mut same);
        assert!(same.len() < CROWDED);
    }
}

#[tokio::test]
async fn a_refusal_voids_a_grant_until_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let grants = Grants::load(dir.path().join("grants"), Duration::from_hours(1));
    let key = of(who(1));
    grants.accept(&key);
    assert_eq!(grants.refused_since(&key), None);
    grants.refuse(&key);
    assert!(grants.refused_since(&key).is_some());
    assert!(grants.age(&key).is_none());
    grants.accept(&key);
    assert_eq!(grants.refused_since(&key), None);
}

/// A subject that is refused to one caller stays refused after a restart. Other callers and subjects are not affected.
#[tokio::test]
async fn a_single_subject_is_refused_until_it_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grants");
    let day = Duration::from_hours(24);
    let grants = Grants::load(path.clone(), day);
    let [tag, other]: [Reference; 2] = ["v1", "v2"].map(|tag| tag.parse().unwrap());
    let (key, second) = (of(who(1)), of(who(2)));
    grants.accept(&key);
    grants.deny(&key, &[tag.clone(), other.clone()]);
    grants.deny(&key, std::slice::from_ref(&tag));
    grants.serve(&key, std::slice::from_ref(&other));
    grants.serve(&second, std::slice::from_ref(&tag));
    lines(&path, 4).await;
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 4);
    for grants in [Grants::load(path.clone(), day), Grants::load(path, day)] {
        assert!(grants.is_denied(&key, &tag) && !grants.is_denied(&key, &other));
        assert!(!grants.is_denied(&second, &tag));
        assert!(grants.age(&key).is_some());
        grants.serve(&key, std::slice::from_ref(&tag));
        assert!(!grants.is_denied(&key, &tag));
        grants.deny(&key, std::slice::from_ref(&tag));
    }
}

/// Two larders at one store do not undo what the other learned from the origin.
#[tokio::test]
async fn what_was_learned_in_waiting_is_added_to_the_file() {
    // A larder that waits has no records, so every repository seems made up to it.
    for refuse in [Grants::refuse, Grants::refuse_made_up] {
        in_waiting(refuse).await;
    }
}

async fn in_waiting(refuse: fn(&Grants, &Key)) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grants");

    let day = Duration::from_hours(24);
    let before = Grants::load(path.clone(), day);
    for n in [1, 2] {
        before.accept(&of(who(n)));
    }
    lines(&path, 2).await;
    let successor = Grants::waiting(path.clone(), day);
    assert!(successor.age(&of(who(1))).is_none());
    refuse(&successor, &of(who(2)));
    successor.accept(&of(who(3)));
    before.accept(&of(who(4)));
    lines(&path, 3).await;
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);
    successor.take_over();
    for grants in [successor, Grants::load(path, day)] {
        let known = [1, 2, 3, 4].map(|n| grants.age(&of(who(n))).is_some());
        assert_eq!(known, [true, false, true, true]);
    }
}

/// A grant that another member still knows does not come back after the origin has refused it.
#[tokio::test]
async fn peer_records_do_not_undo_a_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grants");

    let day = Duration::from_hours(24);
    let grants = Grants::load(path.clone(), day);
    let before = unix_now() - 10;
    grants.learn(&of(who(1)), before);
    assert!(grants.age(&of(who(1))).is_some());
    grants.refuse(&of(who(1)));
    grants.learn(&of(who(1)), before);
    assert!(grants.age(&of(who(1))).is_none());
    lines(&path, 2).await;
    let reread = Grants::load(path, day);
    reread.learn(&of(who(1)), before);
    assert!(reread.age(&of(who(1))).is_none());
    reread.learn(&of(who(2)), unix_now() + 3600);
    assert!(reread.age(&of(who(2))).is_none(), "not yet");
    reread.accept(&of(who(1)));
    assert!(reread.age(&of(who(1))).is_some());
}
