//! A store that is slow, denies, breaks or is gone: each is a miss in bounded time.

use tokio::time::Instant;

use super::*;

const SHORT: Duration = Duration::from_millis(100);

/// Far above what a bound needs on a busy machine, far below what hanging would take.
const BOUNDED: Duration = Duration::from_secs(4);

fn impatient() -> Limits {
    Limits {
        first_byte: SHORT,
        stall: SHORT,
        ..limits()
    }
}

#[tokio::test]
async fn ranges_and_what_is_asked_for_them() {
    let fake = Fake::start().await;
    let store = in_bucket(&fake, limits());
    let digest = Digest::sha256(b"0123456789");
    fake.put(&key(&digest), b"0123456789");
    for (range, header, expected) in [
        (ALL, None, &b"0123456789"[..]),
        (Range::new(2, 5), Some("bytes=2-4"), b"234"),
        (Range::new(7, u64::MAX), Some("bytes=7-"), b"789"),
        (Range::new(8, 99), Some("bytes=8-98"), b"89"),
    ] {
        let object = store.get(&digest, range).await.unwrap().unwrap();
        assert_eq!((object.size, object.start), (10, range.start));
        assert_eq!(body(object).await.unwrap(), expected);
        let asked = fake.last();
        assert_eq!(asked.headers.get("range").map(String::as_str), header);
        assert!(asked.headers["user-agent"].starts_with("larder/"));
    }
    assert_eq!(store.metrics.read.get(), 18);
    fake.put(&key(&digest), b"");
    assert_eq!(read(&store, &digest, ALL).await.unwrap(), b"");
    fake.put(&key(&digest), b"0123456789");
    let beyond = store.get(&digest, Range::new(10, 20)).await.unwrap_err();
    assert!(matches!(beyond, ObjectFailure::Answered(answer) if answer.status == 416));
    assert_eq!(store.head(&digest).await, Ok(Some(10)));
    assert_eq!(store.head(&Digest::sha256(b"no")).await, Ok(None));
    assert_eq!(count(&store, ObjectOperation::Get, ObjectOutcome::Done), 5);
    assert_eq!(
        count(&store, ObjectOperation::Head, ObjectOutcome::NotFound),
        1
    );
}

#[tokio::test]
async fn no_answer_costs_a_bounded_time_and_then_nothing() {
    let fake = Fake::start().await;
    let store = in_bucket(&fake, impatient());
    let digest = Digest::sha256(b"x");
    fake.put(&key(&digest), b"x");
    fake.fail(|_| Some(Fault::Hang));
    for _ in 0..3 {
        let began = Instant::now();
        let failure = store.get(&digest, ALL).await.unwrap_err();
        assert_eq!(failure, ObjectFailure::Timeout(SHORT));
        assert!(began.elapsed() < BOUNDED);
    }
    fake.heal();
    for _ in 0..5 {
        let failure = store.get(&digest, ALL).await.unwrap_err();
        assert!(matches!(failure, ObjectFailure::Skipped(_)), "{failure}");
    }
    assert_eq!(fake.asked().len(), 3, "it is left alone");
    assert!(store.view().resting.is_some());
    assert_eq!(
        count(&store, ObjectOperation::Get, ObjectOutcome::TimedOut),
        3
    );
    assert_eq!(
        count(&store, ObjectOperation::Get, ObjectOutcome::Skipped),
        5
    );
}

#[tokio::test]
async fn a_store_that_is_healed_is_asked_again() {
    let fake = Fake::start().await;
    let rest = Duration::from_millis(300);
    let store = in_bucket(&fake, Limits { rest, ..limits() });
    let digest = Digest::sha256(b"x");
    fake.put(&key(&digest), b"x");
    fake.fail(|_| Some(Fault::Status(503, "SlowDown")));
    for _ in 0..3 {
        let failure = store.head(&digest).await.unwrap_err();
        assert!(matches!(failure, ObjectFailure::Answered(_)), "{failure}");
    }
    fake.heal();
    let failure = store.head(&digest).await.unwrap_err();
    assert!(matches!(failure, ObjectFailure::Skipped(_)), "{failure}");
    while store.view().resting.is_some_and(|left| !left.is_zero()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(store.head(&digest).await, Ok(Some(1)));
    assert_eq!(store.view().resting, None);
}

#[tokio::test]
async fn a_head_without_a_body_is_no_first_byte() {
    let fake = Fake::start().await;
    let store = in_bucket(&fake, impatient());
    let digest = Digest::sha256(b"x");
    fake.put(&key(&digest), &[7; 1000]);
    fake.fail(|_| Some(Fault::StallAfter(0)));
    let failure = store.get(&digest, ALL).await.unwrap_err();
    assert_eq!(failure, ObjectFailure::Timeout(SHORT));
}

#[tokio::test]
async fn a_body_that_stalls_or_breaks_ends_in_an_error() {
    let fake = Fake::start().await;
    let store = in_bucket(&fake, impatient());
    let digest = Digest::sha256(b"x");
    fake.put(&key(&digest), &[7; 1000]);
    for (fault, outcome) in [
        (Fault::StallAfter(10), ObjectOutcome::TimedOut),
        (Fault::CutAfter(10), ObjectOutcome::Unreachable),
        (Fault::CutAfter(999), ObjectOutcome::Unreachable),
    ] {
        fake.fail(move |_| Some(fault.clone()));
        let object = store.get(&digest, ALL).await.unwrap().unwrap();
        assert_eq!(object.size, 1000);
        let began = Instant::now();
        assert_eq!(body(object).await.unwrap_err().outcome(), outcome);
        assert!(began.elapsed() < BOUNDED);
    }
    fake.heal();
    let failure = store.get(&digest, ALL).await.unwrap_err();
    assert!(
        matches!(failure, ObjectFailure::Skipped(_)),
        "good first bytes do not make up for three broken bodies: {failure}"
    );
}

#[tokio::test]
async fn a_refusal_is_told_in_words_without_secrets() {
    let fake = Fake::start().await;
    let store = in_bucket(&fake, limits());
    let digest = Digest::sha256(b"x");
    fake.fail(|_| Some(Fault::Status(403, "SignatureDoesNotMatch")));
    let failure = store.get(&digest, ALL).await.unwrap_err();
    assert_eq!(
        failure.to_string(),
        "the object store refuses: 403 SignatureDoesNotMatch"
    );
    assert_eq!(failure.outcome(), ObjectOutcome::Denied);
    // Without a body there is no error code.
    let failure = store.head(&digest).await.unwrap_err();
    assert_eq!(failure.to_string(), "the object store refuses: 403");
    fake.fail(|_| Some(Fault::Status(404, "NoSuchBucket")));
    let failure = store.get(&digest, ALL).await.unwrap_err();
    assert_eq!(
        store.view().last_error.unwrap(),
        "the object store answered 404 NoSuchBucket"
    );
    assert!(matches!(failure, ObjectFailure::Answered(_)));
    fake.fail(|_| Some(Fault::Status(404, "NoSuchKey")));
    assert!(store.view().resting.is_some(), "three failures");
}

#[tokio::test]
async fn nobody_there() {
    let mut fake = Fake::start().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    fake.addr = listener.local_addr().unwrap();
    drop(listener);
    let store = in_bucket(&fake, limits());
    let failure = store.head(&Digest::sha256(b"x")).await.unwrap_err();
    assert_eq!(failure.outcome(), ObjectOutcome::Unreachable, "{failure}");
    assert!(!failure.to_string().contains("bucket"), "{failure}");
}

#[tokio::test]
async fn records_are_read_whole_or_not_at_all() {
    let fake = Fake::start().await;
    let store = in_bucket(&fake, limits());
    fake.put("p/records/r/a/_n", b"{}");
    assert_eq!(store.read_record("r/a/_n").await.unwrap().unwrap(), "{}");
    fake.put("p/records/r/a/_n", &vec![0; LARGEST_RECORD as usize + 1]);
    let failure = store.read_record("r/a/_n").await.unwrap_err();
    assert!(matches!(failure, ObjectFailure::Damaged(_)), "{failure}");
    fake.put("p/records/r/a/_n", b"{\"a\":1}");
    fake.fail(|_| Some(Fault::CutAfter(3)));
    assert!(store.read_record("r/a/_n").await.is_err());
}
