use proptest::prelude::*;

use super::*;

fn name(n: u8) -> Digest {
    Digest::sha256(&[n])
}

fn candidate(n: u8, size: u64, used: u64, class: Class) -> Candidate {
    Candidate {
        digest: name(n),
        entry: Entry { size, used },
        class,
    }
}

#[test]
fn excess_is_what_hurts_more() {
    let bounds = Bounds {
        max: 100,
        min_free: 50,
    };
    for (used, free, over, may_take) in [
        (100, 50, 0, 100),
        (130, 50, 30, 100),
        (130, 10, 40, 90),
        (10, 10, 40, 0),
        (10, 90, 0, 50),
    ] {
        assert_eq!(excess(bounds, used, free), over, "{used} {free}");
        assert_eq!(allowed(bounds, used, free), may_take, "{used} {free}");
    }
}

/// The order that docs/eviction.md has.
#[test]
fn the_class_of_a_blob_is_what_is_known_of_it() {
    use Class::{Expired, Idle, InUse, Spare, Stays, Warm};

    // pinned, in use, expired, in the runtime's store, more copies than needed, warm, whole elsewhere
    let rows = [
        ("nothing is known of it", "", Idle),
        ("not used for its time", "expired", Expired),
        ("another member has it", "elsewhere", Idle),
        ("the runtime has it too", "runtime", Spare),
        (
            "more members have it than need to",
            "surplus elsewhere",
            Spare,
        ),
        (
            "old, and the runtime has it too",
            "expired runtime",
            Expired,
        ),
        ("a warm set holds it", "warm", Warm),
        ("a warm set holds it, and it is old", "warm expired", Warm),
        (
            "a warm set holds it, and others have it",
            "warm surplus elsewhere",
            Warm,
        ),
        (
            "a warm set holds it, and the runtime has it too",
            "warm runtime",
            Spare,
        ),
        (
            "a warm set holds it, it is old, and the runtime has it too",
            "warm expired runtime",
            Spare,
        ),
        ("in use, and whole nowhere else", "in-use", Stays),
        ("in use by a warm set's image", "in-use warm", Stays),
        ("in use, and whole elsewhere", "in-use elsewhere", InUse),
        (
            "in use, and more members have it than need to",
            "in-use surplus elsewhere",
            InUse,
        ),
        (
            "in use, and the runtime has it too",
            "in-use runtime",
            Spare,
        ),
        (
            "in use, and its last use is not renewed yet",
            "in-use expired",
            Stays,
        ),
        ("pinned", "pinned", Stays),
        ("pinned, and old", "pinned expired", Stays),
        (
            "pinned, and had by all",
            "pinned runtime surplus elsewhere",
            Stays,
        ),
        (
            "pinned, in use, and whole elsewhere",
            "pinned in-use elsewhere",
            Stays,
        ),
    ];
    for (what, words, class) in rows {
        let is = |word: &str| words.split(' ').any(|said| said == word);
        let facts = Facts {
            pinned: is("pinned"),
            in_use: is("in-use"),
            expired: is("expired"),
            around: Around {
                in_runtime: is("runtime"),
                surplus: is("surplus"),
                warm: is("warm"),
                whole_elsewhere: is("elsewhere"),
            },
        };
        assert_eq!(Class::of(facts), class, "{what}");
    }
}

/// One blob of each class, ten bytes each: how many go when so much room is wanted.
#[test]
fn one_class_goes_after_the_other_and_what_stays_stays() {
    use Class::{Expired, Idle, InUse, Spare, Stays, Warm};

    let all = [
        candidate(1, 10, 900, Stays),
        candidate(2, 10, 100, InUse),
        candidate(3, 10, 200, Warm),
        candidate(4, 10, 800, Idle),
        candidate(5, 10, 300, Idle),
        candidate(6, 10, 950, Spare),
        candidate(7, 10, 990, Expired),
    ];
    let order = [7, 6, 5, 4, 3, 2].map(name);
    for (wanted, count) in [
        (0, 1),
        (10, 1),
        (11, 2),
        (35, 4),
        (41, 5),
        (60, 6),
        (1000, 6),
    ] {
        let gone = victims(&mut all.clone(), wanted, |_| false);
        assert_eq!(gone, order[..count], "{wanted}");
    }
    // A blob that a client reads stays, and the next one goes in its place.
    let gone = victims(&mut all.clone(), 25, |digest| *digest == name(6));
    assert_eq!(gone, [7, 5, 4].map(name));
}

fn class() -> impl Strategy<Value = Class> {
    prop::sample::select(vec![
        Class::Expired,
        Class::Spare,
        Class::Idle,
        Class::Warm,
        Class::InUse,
        Class::Stays,
    ])
}

proptest! {
    /// Enough goes if enough may go. No blob goes while another that comes before it in the order, and may go, stays.
    #[test]
    fn just_enough_in_order(
        blobs in prop::collection::vec((1u64..100, 0u64..1000, class(), prop::bool::weighted(0.2)), 1..40),
        excess in 0u64..2000,
    ) {
        let all: Vec<Candidate> = blobs
            .iter()
            .enumerate()
            .map(|(i, (size, used, class, _))| candidate(i as u8, *size, *used, *class))
            .collect();
        let read = |digest: &Digest| blobs.iter().enumerate().any(|(i, blob)| blob.3 && name(i as u8) == *digest);
        let gone = victims(&mut all.clone(), excess, read);
        let (went, stayed): (Vec<&Candidate>, Vec<&Candidate>) = all.iter().partition(|c| gone.contains(&c.digest));
        let may_go = |c: &&&Candidate| c.class != Class::Stays && !read(&c.digest);
        prop_assert_eq!(went.len(), gone.len());
        prop_assert!(went.iter().all(|c| c.class != Class::Stays && !read(&c.digest)));
        prop_assert!(stayed.iter().filter(may_go).all(|c| c.class != Class::Expired));
        let freed: u64 = went.iter().map(|c| c.entry.size).sum();
        let rest: u64 = stayed.iter().filter(may_go).map(|c| c.entry.size).sum();
        prop_assert!(freed >= excess || rest == 0);
        // The last one was needed, unless it had expired.
        if let Some(last) = all.iter().find(|c| Some(&c.digest) == gone.last()) {
            prop_assert!(last.class == Class::Expired || freed - last.entry.size < excess);
        }
        let rank = |c: &&Candidate| (c.class, c.entry.used);
        let last_to_go = went.iter().map(rank).max();
        let first_to_stay = stayed.iter().filter(may_go).map(rank).min();
        if let (Some(went), Some(stayed)) = (last_to_go, first_to_stay) {
            prop_assert!(went <= stayed);
        }
    }

    /// Whatever else is known, a blob that is pinned, or in use with no other copy, is never chosen.
    #[test]
    fn what_has_no_other_copy_is_never_chosen(in_use: bool, pinned: bool, expired: bool, surplus: bool, warm: bool) {
        let facts = Facts {
            pinned,
            in_use,
            expired,
            around: Around { in_runtime: false, surplus, warm, whole_elsewhere: false },
        };
        prop_assert_eq!(Class::of(facts) == Class::Stays, pinned || in_use);
    }
}
