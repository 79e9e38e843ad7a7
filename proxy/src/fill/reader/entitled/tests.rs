use super::{
    AnsweredFor::{ItsRepository, ItsSource, Nobody},
    Opening::{FillFailed, Opened, SourceFailed, SourceRefused, Waits, WaitsForWhole},
    Right::{Digest, Member, Repository},
    Stage::{Failed, Running, Verified},
    *,
};

const LARGE: u64 = HELD_BACK + 1;

/// A fill of a large blob whose first source has answered, but not for this reader.
const FACTS: Facts = Facts {
    stage: Running,
    size: Some(LARGE),
    source_failed: false,
    source_refused: false,
    brings: false,
    served: Nobody,
    vouched: Nobody,
    answered: true,
    begun: false,
    trickles: false,
    wrong: false,
};

fn changed(change: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = FACTS;
    change(&mut facts);
    facts
}

/// For each right in the order None, Repository, Member, Digest: whether a reader with it may read.
#[test]
fn a_reader_gets_bytes_that_came_through_what_it_may_read() {
    let rows: [(&str, Facts, [bool; 4]); 8] = [
        ("nothing is known", FACTS, [false, false, false, true]),
        (
            "its source began the fill",
            changed(|f| f.brings = true),
            [false, true, true, true],
        ),
        (
            "the origin answered for its source",
            changed(|f| f.served = ItsSource),
            [true, true, true, true],
        ),
        (
            "the origin answered for another caller of its repository",
            changed(|f| f.served = ItsRepository),
            [false, false, true, true],
        ),
        (
            "a member answered for its source",
            changed(|f| f.vouched = ItsSource),
            [false, true, true, true],
        ),
        (
            "a member answered for another caller of its repository",
            changed(|f| f.vouched = ItsRepository),
            [false, false, true, true],
        ),
        (
            "its source may read, but the bytes are wrong",
            changed(|f| (f.served, f.wrong) = (ItsSource, true)),
            [false, false, false, false],
        ),
        (
            "its source may read, but no source has said the size",
            changed(|f| (f.served, f.size) = (ItsSource, None)),
            [false, false, false, false],
        ),
    ];
    for (case, facts, expected) in rows {
        for (right, may) in [Right::None, Repository, Member, Digest]
            .into_iter()
            .zip(expected)
        {
            let opening = if may { Opened(LARGE) } else { Waits };
            assert_eq!(entitled(right, &facts), opening, "{case}: {right:?}");
        }
    }
}

#[test]
fn a_reader_learns_of_the_failure_that_concerns_it() {
    let failed = |f: &mut Facts| f.source_failed = true;
    let refused = |f: &mut Facts| (f.source_failed, f.source_refused) = (true, true);
    for (case, right, facts, expected) in [
        (
            "the fill is over",
            Digest,
            changed(|f| f.stage = Failed),
            FillFailed,
        ),
        (
            "the fill is over, and its source was refused",
            Repository,
            changed(|f| {
                refused(f);
                f.stage = Failed;
            }),
            FillFailed,
        ),
        (
            "its source failed",
            Repository,
            changed(failed),
            SourceFailed,
        ),
        (
            "its source failed, and other sources bring the bytes of its repository",
            Repository,
            changed(|f| {
                failed(f);
                f.brings = true;
            }),
            SourceFailed,
        ),
        (
            "its source was refused",
            Member,
            changed(refused),
            SourceFailed,
        ),
        (
            "its source failed, and it has a right to the digest",
            Digest,
            changed(failed),
            Opened(LARGE),
        ),
        (
            "its source was refused, and it had a right to the digest",
            Digest,
            changed(refused),
            SourceRefused,
        ),
        (
            "its source failed after the origin had answered for it",
            Right::None,
            changed(|f| {
                failed(f);
                f.served = ItsSource;
            }),
            Opened(LARGE),
        ),
        (
            "its source was refused after the origin had answered for it",
            Repository,
            changed(|f| {
                refused(f);
                f.served = ItsSource;
            }),
            SourceRefused,
        ),
        (
            "its source was refused before the blob was verified",
            Digest,
            changed(|f| {
                refused(f);
                f.stage = Verified;
            }),
            SourceRefused,
        ),
    ] {
        assert_eq!(entitled(right, &facts), expected, "{case}");
    }
}

#[test]
fn headers_leave_with_the_first_answer_and_those_of_small_blobs_with_the_last_byte() {
    for (case, size, (stage, answered, begun, trickles), expected) in [
        (
            "answered",
            LARGE,
            (Running, true, false, false),
            Opened(LARGE),
        ),
        (
            "its first byte is here",
            LARGE,
            (Running, false, true, false),
            Opened(LARGE),
        ),
        (
            "no answer, no byte",
            LARGE,
            (Running, false, false, true),
            Waits,
        ),
        (
            "verified",
            LARGE,
            (Verified, false, false, false),
            Opened(LARGE),
        ),
        (
            "small, answered",
            9,
            (Running, true, true, false),
            WaitsForWhole,
        ),
        (
            "small, trickles",
            9,
            (Running, true, false, true),
            Opened(9),
        ),
        (
            "small, trickled before a failure",
            9,
            (Running, false, true, true),
            WaitsForWhole,
        ),
        (
            "small, verified",
            9,
            (Verified, false, false, false),
            Opened(9),
        ),
        (
            "the largest small one",
            HELD_BACK,
            (Running, true, true, false),
            WaitsForWhole,
        ),
    ] {
        let facts = changed(|f| {
            f.size = Some(size);
            (f.stage, f.answered, f.begun, f.trickles) = (stage, answered, begun, trickles);
        });
        assert_eq!(entitled(Digest, &facts), expected, "{case}");
    }
}
