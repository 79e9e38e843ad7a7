use std::time::SystemTime;

use super::*;

fn tag(checked: u64) -> PeerRecord {
    PeerRecord {
        tag: Some(TagRecord {
            digest: Digest::sha256(&checked.to_le_bytes()),
            size: 1,
            media_type: "m".into(),
            checked,
        }),
        ..PeerRecord::default()
    }
}

#[test]
fn the_newest_word_wins_field_by_field() {
    let mut kept = tag(5);
    kept.merge(tag(3));
    assert_eq!(kept, tag(5));
    kept.merge(PeerRecord {
        public: Some(7),
        ..tag(9)
    });
    assert_eq!(kept.tag, tag(9).tag);
    assert_eq!((kept.public(), kept.refused()), (Some(7), None));
    kept.merge(PeerRecord {
        refused: Some(8),
        ..PeerRecord::default()
    });
    assert_eq!((kept.public(), kept.refused()), (None, Some(8)));
}

const WHO: &str = "00112233445566778899aabbccddeeff";

fn grant(at: u64) -> PeerRecord {
    PeerRecord {
        grants: [(WHO.to_owned(), at)].into(),
        ..PeerRecord::default()
    }
}

/// In whatever order the records arrive, and however late.
#[test]
fn a_refusal_voids_what_was_accepted_before_it() {
    let revoked = |at| PeerRecord {
        revoked: [(WHO.to_owned(), at)].into(),
        ..PeerRecord::default()
    };
    let words = [grant(3), revoked(5), grant(4)];
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0], [1, 2, 0]] {
        let mut kept = PeerRecord::default();
        for at in order {
            kept.merge(PeerRecord::clone(&words[at]));
        }
        assert_eq!(kept.granted(WHO), None, "{order:?}");
        kept.merge(grant(6));
        assert_eq!(kept.granted(WHO), Some(6));
    }
}

#[test]
fn what_was_refused_stays_so_when_its_refusal_is_let_go() {
    let mut kept = grant(3);
    let others = (0..2 * GRANTS as u64).map(|n| (format!("{n:032x}"), 6));
    let revoked = [(WHO.to_owned(), 5)].into_iter().chain(others).collect();
    kept.merge(PeerRecord {
        revoked,
        ..PeerRecord::default()
    });
    assert_eq!(kept.revoked.len(), GRANTS);
    assert_eq!(kept.granted(WHO), None);
}

#[test]
fn what_cannot_be_is_not_kept() {
    let now = 1000;
    let mut news = tag(u64::MAX);
    news.public = Some(now + 3600);
    news.merge(grant(now));
    news.grants.insert("x".repeat(100), now);
    let sane = news.sane(now);
    assert_eq!((sane.tag.clone(), sane.public), (None, None));
    assert_eq!(sane.grants.len(), 1);
}

#[test]
fn records_outlive_a_restart_and_old_ones_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let thing = Digest::sha256(b"a");
    let records = PeerRecords::new(dir.path().join("r"));
    assert_eq!(records.get(&thing), None);
    records.put(&thing, tag(1), 10).unwrap();
    let again = PeerRecords::new(dir.path().join("r"));
    let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let clock = Clock::from(today.unwrap().as_secs());
    again.sweep(clock);
    assert_eq!(again.get(&thing), Some(tag(1)));
    let long_ago = SystemTime::now() - 2 * STAYS;
    fs::File::open(again.path(&thing))
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    // A clock that has just begun, and one that is far behind.
    again.sweep(Clock::from(1));
    assert!(again.path(&thing).exists());
    again.sweep(clock);
    assert_eq!(PeerRecords::new(dir.path().join("r")).get(&thing), None);
}

#[test]
fn what_was_learned_in_waiting_is_added_to_what_lies_there() {
    let dir = tempfile::tempdir().unwrap();
    let thing = Digest::sha256(b"a");
    let before = PeerRecords::new(dir.path().to_owned());
    before.put(&thing, tag(5), 10).unwrap();
    let successor = PeerRecords::waiting(dir.path().to_owned());
    let refused = PeerRecord {
        refused: Some(8),
        ..tag(3)
    };
    successor.put(&thing, refused.clone(), 10).unwrap();
    assert_eq!(successor.get(&thing), Some(refused));
    assert_eq!(
        PeerRecords::new(dir.path().to_owned()).get(&thing),
        Some(tag(5))
    );
    before.put(&thing, tag(6), 10).unwrap();
    successor.take_over(10);
    let both = PeerRecord {
        refused: Some(8),
        ..tag(6)
    };
    assert_eq!(successor.get(&thing), Some(both.clone()));
    assert_eq!(
        PeerRecords::new(dir.path().to_owned()).get(&thing),
        Some(both)
    );
}

#[test]
fn the_same_is_not_told_twice_at_once() {
    let records = PeerRecords::new(PathBuf::from("/nowhere"));
    let (thing, news) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
    assert!(records.is_news(&thing, &news));
    assert!(!records.is_news(&thing, &news));
    assert!(records.is_news(&thing, &thing));
    assert!(
        records.is_news(&thing, &news),
        "something else was told in between"
    );
}

#[test]
fn a_record_is_written_as_ever() {
    let digest = Digest::sha256(b"abc");
    for text in [
        r"{}",
        r#"{"tag":{"digest":"DIGEST","size":3,"media_type":"m","checked":5}}"#,
        r#"{"public":5,"refused":6,"grants":{"WHO":7},"revoked":{"WHO":8}}"#,
    ] {
        let text = text
            .replace("DIGEST", &digest.to_string())
            .replace("WHO", WHO);
        let record: PeerRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
    }
}
