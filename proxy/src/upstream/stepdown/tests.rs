use http::{HeaderValue, header::CONTENT_RANGE};

use std::time::Duration;

use super::{manner::REMEMBERED, *};

fn status(code: u16) -> Seen {
    Seen::Status(StatusCode::from_u16(code).expect("a status"))
}

/// A result, and the next step after a HEAD, a range from the first byte, a later range, and a plain GET.
#[test]
fn what_an_outcome_means() {
    use Step::{Again, Believe, Plain, Take};
    let table = [
        (Seen::Fits, [Take, Take, Take, Take]),
        (Seen::Misfits, [Plain, Plain, Plain, Believe]),
        (Seen::Beyond, [Believe; 4]),
        (Seen::Settled, [Believe; 4]),
        (Seen::Closed, [Again; 4]),
        (status(400), [Plain, Plain, Plain, Believe]),
        (status(401), [Believe; 4]),
        (status(403), [Believe, Plain, Plain, Believe]),
        (status(404), [Plain, Believe, Plain, Believe]),
        (status(405), [Plain, Plain, Plain, Believe]),
        (status(406), [Plain, Plain, Plain, Believe]),
        (status(408), [Again; 4]),
        (status(416), [Plain, Plain, Plain, Believe]),
        (status(429), [Believe; 4]),
        (status(500), [Again; 4]),
        (status(501), [Plain, Plain, Plain, Believe]),
        (status(502), [Again; 4]),
        (status(503), [Again; 4]),
        (status(504), [Again; 4]),
    ];
    let puts = [Put::Head, Put::First, Put::Later, Put::Plain];
    for (seen, steps) in table {
        for (put, step) in puts.into_iter().zip(steps) {
            assert_eq!(next(put, seen, true), step, "{put:?} {seen:?}");
            // In the second attempt, with no other endpoint left, no step is put off.
            let last = match (step, put, seen) {
                (Again, Put::First | Put::Later, _) | (Again, Put::Head, Seen::Closed) => Plain,
                (Again, ..) => Believe,
                (step, ..) => step,
            };
            assert_eq!(next_again(put, seen, true), last, "{put:?} {seen:?} again");
        }
    }
    // A mirror's 404 only means that the mirror does not have it: another endpoint comes after.
    assert_eq!(next(Put::Head, status(404), false), Believe);
}

/// Every chain of steps ends, whatever the results.
#[test]
fn a_plain_get_is_the_last_step() {
    for code in (400..600).map(status).chain([Seen::Misfits, Seen::Closed]) {
        assert_ne!(next(Put::Plain, code, true), Step::Plain, "{code:?}");
        assert_eq!(
            next_again(Put::Plain, code, true),
            Step::Believe,
            "{code:?}"
        );
    }
}

#[test]
fn what_became_of_a_body_decides_how_the_next_is_asked_for() {
    use Manner::{Doubted, Plain, Ranges};
    let broke = |plain| Became::BrokeOff { plain };
    for (before, became, after) in [
        (Ranges, broke(false), Doubted),
        (Doubted, broke(false), Plain),
        (Plain, broke(false), Plain),
        (Ranges, broke(true), Ranges),
        (Doubted, broke(true), Ranges),
        (Plain, broke(true), Ranges),
        (Ranges, Became::SteppedDown, Plain),
        (Doubted, Became::SteppedDown, Plain),
        (Plain, Became::SteppedDown, Plain),
        (Ranges, Became::Wrong, Plain),
        (Doubted, Became::Wrong, Plain),
        (Plain, Became::Wrong, Plain),
        (Ranges, Became::Failed, Ranges),
        (Doubted, Became::Failed, Ranges),
        (Plain, Became::Failed, Ranges),
    ] {
        assert_eq!(before.after(became), after, "{before:?} {became:?}");
    }
}

#[test]
fn what_is_remembered_is_forgotten_after_a_while() {
    let manners = Manners::new();
    let now = Instant::now();
    let (one, other) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
    assert!(manners.note("http://a", &one, Became::SteppedDown, now));
    assert!(!manners.note("http://a", &one, Became::SteppedDown, now));
    let of = |digest, later| manners.of("http://a", digest, now + later);
    assert_eq!(of(&one, Duration::ZERO), Manner::Plain);
    assert_eq!(of(&other, Duration::ZERO), Manner::Ranges);
    manners.note_stepped("http://a", &one, Says::OfEndpoint, now);
    assert_eq!(of(&other, Duration::ZERO), Manner::Plain);
    assert_eq!(manners.of("http://b", &one, now), Manner::Ranges);
    assert_eq!(of(&one, REMEMBERED), Manner::Ranges);
    assert_eq!(of(&other, REMEMBERED), Manner::Ranges);
}

#[test]
fn what_a_refused_range_says_of_the_endpoint() {
    use Says::{Nothing, OfDigest, OfEndpoint};
    for (seen, first, later) in [
        (Seen::Misfits, OfEndpoint, OfEndpoint),
        (Seen::Closed, Nothing, Nothing),
        (status(400), OfEndpoint, OfEndpoint),
        (status(401), Nothing, Nothing),
        (status(403), OfDigest, OfDigest),
        (status(404), Nothing, OfDigest),
        (status(405), OfEndpoint, OfEndpoint),
        (status(416), OfEndpoint, OfEndpoint),
        (status(501), OfEndpoint, OfEndpoint),
        (status(502), Nothing, Nothing),
    ] {
        assert_eq!(says(Put::First, seen, true), first, "{seen:?}");
        assert_eq!(says(Put::Later, seen, true), later, "{seen:?}");
    }
}

/// A CDN that refused one signature, or had one blob too late, is asked by ranges as before.
#[test]
fn a_refused_blob_is_the_endpoints_fault_once_it_is_two() {
    let (manners, now) = (Manners::new(), Instant::now());
    let digests = [b"1", b"2", b"3"].map(|bytes| Digest::sha256(bytes));
    let [one, two, three] = &digests;
    let note = |digest: &Digest, later| {
        manners.note_stepped("http://a", digest, Says::OfDigest, now + later);
    };
    let of = |digest: &Digest, later| manners.of("http://a", digest, now + later);
    note(one, Duration::ZERO);
    note(one, Duration::ZERO);
    assert_eq!(of(one, Duration::ZERO), Manner::Plain);
    assert_eq!(of(two, Duration::ZERO), Manner::Ranges);
    // The endpoint has answered a range of some blob since.
    manners.note_answered("http://a");
    note(two, Duration::ZERO);
    assert_eq!(of(three, Duration::ZERO), Manner::Ranges);
    // A refusal of long ago does not count either.
    note(three, REMEMBERED);
    assert_eq!(of(one, REMEMBERED), Manner::Ranges);
    note(one, REMEMBERED);
    assert_eq!(of(two, REMEMBERED), Manner::Plain);
}

fn ask(subject: Subject, want: Want) -> Ask {
    let (registry, repository) = ("a.io".parse().unwrap(), "b".parse().unwrap());
    Ask::new(&registry, &repository, subject, want)
}

fn headers(pairs: &[(http::HeaderName, &str)]) -> HeaderMap {
    let value = |text: &str| HeaderValue::from_str(text).expect("a value");
    pairs
        .iter()
        .map(|(name, text)| (name.clone(), value(text)))
        .collect()
}

#[test]
fn which_answers_fit() {
    let blob = || Subject::Blob(Digest::sha256(b"x"));
    let nothing = || Subject::Blob(Digest::sha256(b""));
    let part = Want::Part(Range::new(10, 20));
    for (subject, want, partial, told, length, fits) in [
        (
            blob(),
            part,
            true,
            Some("bytes 10-19/100"),
            Some("10"),
            true,
        ),
        (blob(), part, true, Some("bytes 10-19/100"), None, true),
        (blob(), part, true, Some("bytes 10-14/100"), Some("5"), true),
        (blob(), part, true, Some("bytes 10-19/*"), Some("10"), false),
        (blob(), part, true, Some("bytes 0-9/100"), Some("10"), false),
        (
            blob(),
            part,
            true,
            Some("bytes 10-19/15"),
            Some("10"),
            false,
        ),
        (blob(), part, true, None, Some("10"), false),
        (blob(), part, false, None, Some("100"), true),
        (blob(), part, false, None, None, true),
        (blob(), Want::All, false, None, None, true),
        (
            blob(),
            Want::All,
            true,
            Some("bytes 0-99/100"),
            Some("100"),
            true,
        ),
        (
            blob(),
            Want::All,
            true,
            Some("bytes 0-9/100"),
            Some("10"),
            false,
        ),
        (blob(), Want::Head, false, None, Some("100"), true),
        (blob(), Want::Head, false, None, Some("0"), false),
        (blob(), Want::Head, false, None, None, false),
        (nothing(), Want::Head, false, None, Some("0"), true),
    ] {
        let mut pairs = Vec::new();
        pairs.extend(told.map(|told| (CONTENT_RANGE, told)));
        pairs.extend(length.map(|length| (CONTENT_LENGTH, length)));
        let seen = seen(&ask(subject, want), partial, &headers(&pairs));
        let case = format!("{want:?} {partial} {told:?} {length:?}");
        assert_eq!(seen == Seen::Fits, fits, "{case}");
    }
}

#[test]
fn which_labels_of_an_encoding_are_believed() {
    let mut ask = ask(Subject::Blob(Digest::sha256(b"x")), Want::All);
    for (encoding, listed, unchanged) in [
        ("identity", None, true),
        ("Identity", Some(7), true),
        ("x-gzip", None, true),
        ("gzip", Some(100), true),
        ("gzip", Some(300), false),
        ("gzip", None, false),
        ("zstd", None, false),
    ] {
        ask.listed = listed;
        let headers = headers(&[(CONTENT_ENCODING, encoding), (CONTENT_LENGTH, "100")]);
        assert_eq!(
            is_unchanged(&ask, false, &headers),
            unchanged,
            "{encoding} {listed:?}"
        );
    }
}

#[test]
fn a_416_within_the_blob_is_nonsense() {
    let mut later = ask(
        Subject::Blob(Digest::sha256(b"x")),
        Want::Part(Range::new(10, 20)),
    );
    assert_eq!(beyond(&later, Some(10)), Seen::Beyond);
    assert_eq!(beyond(&later, Some(11)), status(416));
    assert_eq!(beyond(&later, None), status(416));
    later.size = Some(100);
    assert_eq!(beyond(&later, Some(10)), status(416));
    later.size = Some(10);
    assert_eq!(beyond(&later, Some(10)), Seen::Beyond);
}
