//! Every fault, as a client sees it.

use std::time::{Duration, Instant};

use larder_tests::fake::{FakeRegistry, Fault, Gate, Match, Odd, digest_of, expected};
use larder_tests::http::{self, Broken, Response};

const LEN: u64 = 3_000_000;

struct Scene {
    fake: FakeRegistry,
    digest: String,
    url: String,
}

impl Scene {
    async fn new() -> Self {
        let fake = FakeRegistry::start().await;
        let digest = fake.put_blob_of("a/b", 5, LEN);
        let url = format!("{}/v2/a/b/blobs/{digest}", fake.url());
        Self { fake, digest, url }
    }

    async fn get(&self) -> Response {
        http::get(&self.url, &[]).await.expect("an answer")
    }

    async fn get_range(&self, range: &str) -> Response {
        let response = http::get(&self.url, &[("range", range)]).await;
        response.expect("an answer")
    }

    /// After the fault the fake serves as before.
    async fn assert_sound(&self) {
        let response = self.get().await;
        assert_eq!((response.status, &response.error), (200, &None));
        assert_eq!(digest_of(&response.body), self.digest);
    }
}

#[tokio::test]
async fn truncation_ends_by_fin_at_the_very_byte() {
    let scene = Scene::new().await;
    for at in [0, 1, 1_234_567, LEN - 1] {
        let fault = Fault::TruncateAfter(at);
        let armed = scene.fake.fault(Match::blob().times(1), fault);
        let response = scene.get().await;
        assert_eq!(response.header("content-length"), Some("3000000"));
        assert_eq!(response.error, Some(Broken::Fin), "{at}");
        assert!(!response.complete && response.body == expected(5, 0..at));
        assert_eq!(armed.hits(), 1);
        scene.assert_sound().await;
    }
    // A chunked body is cut between its chunks.
    scene.fake.fault(Match::blob().times(1), Fault::NoLength);
    scene
        .fake
        .fault(Match::blob().times(1), Fault::TruncateAfter(100_000));
    let response = scene.get().await;
    assert_eq!(
        (response.error, response.body.len()),
        (Some(Broken::Fin), 100_000)
    );
}

#[tokio::test]
async fn reset_comes_after_the_bytes_before_it() {
    let scene = Scene::new().await;
    for at in [0, 1, 70_000, LEN - 1] {
        scene
            .fake
            .fault(Match::blob().times(1), Fault::ResetAfter(at));
        let response = scene.get().await;
        assert_eq!(response.error, Some(Broken::Reset), "{at}");
        assert!(response.body == expected(5, 0..at), "{at}");
        scene.assert_sound().await;
    }
}

#[tokio::test]
async fn stall_keeps_the_connection_open() {
    let scene = Scene::new().await;
    scene
        .fake
        .fault(Match::blob().times(1), Fault::StallAfter(50_000));
    let mut stream = http::open(&scene.url, &[]).await.expect("an answer");
    let bytes = stream.read_exactly(50_000).await.expect("50,000 bytes");
    assert!(bytes == expected(5, 0..50_000));
    let more = tokio::time::timeout(Duration::from_millis(50), stream.next_chunk());
    assert!(more.await.is_err(), "neither a byte nor an end");
    assert_eq!(scene.fake.blob_bytes_sent(&scene.digest), 50_000);
    assert_eq!(scene.fake.count(|seen| seen.finished), 0);
    stream.close();
    finished(&scene.fake, 1).await;
}

/// Waits until so many answers have ended.
async fn finished(fake: &FakeRegistry, answers: usize) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while fake.count(|seen| seen.finished) < answers {
        assert!(Instant::now() < deadline, "{:?}", fake.requests());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn gate_holds_until_it_is_opened() {
    let scene = Scene::new().await;
    let gate = scene.fake.gate(Match::blob(), 1_000_000);
    let mut first = http::open(&scene.url, &[]).await.expect("an answer");
    let mut second = http::open(&scene.url, &[("range", "bytes=500000-")])
        .await
        .expect("an answer");
    first.read_exactly(1_000_000).await.expect("the first MB");
    second
        .read_exactly(1_000_000)
        .await
        .expect("1 MB of its own");
    gate.reached(2).await;
    assert_eq!(scene.fake.blob_bytes_sent(&scene.digest), 2_000_000);

    gate.let_through(1_000_001);
    let byte = first.read_exactly(1).await.expect("one more");
    assert_eq!(*byte, expected(5, 1_000_000..1_000_001));
    gate.reached(2).await;
    assert_eq!(scene.fake.blob_bytes_sent(&scene.digest), 2_000_002);

    second.close();
    finished(&scene.fake, 1).await;
    assert_eq!(gate.waiting(), 1);
    gate.open();
    let rest = first.rest().await;
    assert!(rest.complete && rest.body == expected(5, 1_000_001..LEN));
    assert_eq!(scene.fake.blob_bytes_sent(&scene.digest), LEN + 1_000_001);
    scene.assert_sound().await;
}

#[tokio::test]
async fn held_requests_get_no_head() {
    let scene = Scene::new().await;
    let gate = Gate::new(0);
    scene
        .fake
        .fault(Match::blob().method("HEAD"), Fault::Hold(gate.clone()));
    let url = scene.url.clone();
    let head = tokio::spawn(async move { http::head(&url, &[]).await });
    gate.reached(1).await;
    assert_eq!(scene.fake.requests()[0].status, 0);
    scene.assert_sound().await;
    assert!(!head.is_finished());
    gate.open();
    let head = head.await.expect("no panic").expect("an answer");
    assert_eq!(head.status, 200);
}

#[tokio::test]
async fn wrong_bytes_are_at_their_place_in_every_range() {
    let scene = Scene::new().await;
    let at = 1_500_000;
    scene.fake.fault(Match::blob(), Fault::WrongBytes { at });
    let mut wrong = expected(5, 0..LEN);
    wrong[at as usize] ^= 0xff;
    let response = scene.get().await;
    assert!(response.complete && response.body == wrong);
    let response = scene.get_range("bytes=1499990-1500010").await;
    assert!(response.body == wrong[1_499_990..=1_500_010]);
    let response = scene.get_range("bytes=1500001-").await;
    assert!(response.body == expected(5, 1_500_001..LEN));
    scene.fake.clear_faults();
    scene.assert_sound().await;
}

#[tokio::test]
async fn wrong_lengths() {
    let scene = Scene::new().await;
    scene
        .fake
        .fault(Match::blob().times(1), Fault::WrongLength(10));
    let response = scene.get().await;
    assert_eq!(response.header("content-length"), Some("3000010"));
    assert_eq!(
        (response.error, response.body.len() as u64),
        (Some(Broken::Fin), LEN)
    );

    scene
        .fake
        .fault(Match::blob().times(1), Fault::WrongLength(-10));
    let response = scene.get().await;
    assert_eq!(response.header("content-length"), Some("2999990"));
    assert_eq!((response.error, response.body.len()), (None, 2_999_990));

    scene.fake.fault(Match::blob().times(1), Fault::NoLength);
    let response = scene.get().await;
    assert_eq!(response.header("content-length"), None);
    assert_eq!(response.header("transfer-encoding"), Some("chunked"));
    assert!(response.complete && digest_of(&response.body) == scene.digest);
}

#[tokio::test]
async fn digest_headers() {
    let scene = Scene::new().await;
    let header = "docker-content-digest";
    scene
        .fake
        .fault(Match::blob().times(1), Fault::NoDigestHeader);
    assert_eq!(scene.get().await.header(header), None);
    scene
        .fake
        .fault(Match::blob().times(1), Fault::WrongDigestHeader);
    let wrong = scene.get().await;
    let value = wrong.header(header).expect("a digest");
    assert!(value != scene.digest && value.len() == scene.digest.len());
    assert_eq!(scene.get().await.header(header), Some(&*scene.digest));
}

#[tokio::test]
async fn a_range_may_be_ignored() {
    let scene = Scene::new().await;
    scene.fake.fault(Match::blob().times(1), Fault::IgnoreRange);
    let response = scene.get_range("bytes=100-200").await;
    assert_eq!(
        (response.status, response.header("content-range")),
        (200, None)
    );
    assert_eq!(digest_of(&response.body), scene.digest);
    assert_eq!(scene.get_range("bytes=100-200").await.status, 206);
}

#[tokio::test]
async fn a_status_takes_the_place_of_the_answer() {
    let scene = Scene::new().await;
    let fault = Fault::Status {
        code: 429,
        headers: vec![("Retry-After".to_owned(), "7".to_owned())],
        body: "slow down".into(),
    };
    let which = Match::blob().reference(&scene.digest).times(2);
    let armed = scene.fake.fault(which, fault);
    for _ in 0..2 {
        let response = scene.get().await;
        assert_eq!((response.status, &*response.body), (429, &b"slow down"[..]));
        assert_eq!(response.header("retry-after"), Some("7"));
    }
    scene.assert_sound().await;
    assert_eq!(armed.hits(), 2);
    let armed = scene.fake.fault(Match::any(), Fault::status(503));
    assert_eq!(scene.get().await.status, 503);
    armed.lift();
    scene.assert_sound().await;
}

#[tokio::test]
async fn delay_and_throttle_take_their_time() {
    let scene = Scene::new().await;
    scene.fake.fault(
        Match::blob().times(1),
        Fault::Delay(Duration::from_millis(60)),
    );
    let start = Instant::now();
    let stream = http::open(&scene.url, &[]).await.expect("an answer");
    assert!(start.elapsed() >= Duration::from_millis(60));
    stream.close();

    let which = Match::blob().when(|request| request.header("range").is_some());
    scene
        .fake
        .fault(which, Fault::ThrottleBytesPerSecond(2_000_000));
    let start = Instant::now();
    let slow = scene.get_range("bytes=0-399999").await;
    let took = start.elapsed();
    assert!(slow.body == expected(5, 0..400_000));
    assert!(
        took >= Duration::from_millis(150) && took < Duration::from_secs(2),
        "{took:?}"
    );
    scene.assert_sound().await;
}

#[tokio::test]
async fn faults_strike_only_what_they_match() {
    let scene = Scene::new().await;
    let other = scene.fake.put_blob("c", "text");
    let other_url = format!("{}/v2/c/blobs/{other}", scene.fake.url());
    let get_other = async || http::get(&other_url, &[]).await.expect("an answer");
    scene.fake.fault(Match::manifest(), Fault::status(500));
    scene
        .fake
        .fault(Match::blob().repository("a/b"), Fault::status(501));
    scene
        .fake
        .fault(Match::any().method("HEAD"), Fault::status(502));
    assert_eq!(get_other().await.status, 200);
    assert_eq!(scene.get().await.status, 501);
    assert_eq!(
        http::head(&other_url, &[]).await.expect("an answer").status,
        502
    );
    // A fault of the body waits for a GET that succeeds.
    scene.fake.clear_faults();
    let armed = scene
        .fake
        .fault(Match::blob().times(1), Fault::TruncateAfter(1));
    http::head(&other_url, &[]).await.expect("an answer");
    scene.get_range("bytes=9999999-").await;
    assert_eq!(armed.hits(), 0);
    assert_eq!(get_other().await.error, Some(Broken::Fin));
}

#[tokio::test]
async fn a_stopped_registry_refuses_connections_until_it_starts_again() {
    let scene = Scene::new().await;
    let gate = scene.fake.gate(Match::blob().times(1), 1000);
    let mut stream = http::open(&scene.url, &[]).await.expect("an answer");
    stream.read_exactly(1000).await.expect("1000 bytes");
    gate.reached(1).await;
    scene.fake.stop().await;
    let end = stream.next_chunk().await;
    assert!(matches!(end, Err(Broken::Fin | Broken::Reset)), "{end:?}");
    let refused = http::get(&scene.url, &[])
        .await
        .expect_err("nobody listens");
    let cause = refused.root_cause().downcast_ref::<std::io::Error>();
    let kind = cause.expect("an I/O error").kind();
    assert_eq!(kind, std::io::ErrorKind::ConnectionRefused);
    scene.fake.start_again().await;
    scene.assert_sound().await;
}

#[tokio::test]
async fn good_answers_in_odd_forms() {
    let scene = Scene::new().await;
    let odd = |odd: Odd| scene.fake.fault(Match::blob().times(1), Fault::Odd(odd));
    odd(Odd::NoTotal);
    let response = scene.get_range("bytes=10-19").await;
    assert_eq!(response.header("content-range"), Some("bytes 10-19/*"));
    odd(Odd::NoContentRange);
    let response = scene.get_range("bytes=10-19").await;
    assert_eq!(
        (response.status, response.header("content-range")),
        (206, None)
    );
    odd(Odd::FromStart);
    let response = scene.get_range("bytes=10-19").await;
    let told = format!("bytes 0-9/{LEN}");
    assert_eq!(response.header("content-range"), Some(&*told));
    assert!(response.body == expected(5, 0..10));
    odd(Odd::OtherTotal);
    let response = scene.get_range("bytes=10-19").await;
    let told = format!("bytes 10-19/{}", LEN + 7);
    assert_eq!(response.header("content-range"), Some(&*told));
    odd(Odd::Multipart);
    let response = scene.get_range("bytes=10-19").await;
    let media_type = response.header("content-type").expect("a type");
    assert!(media_type.starts_with("multipart/byteranges"));
    assert_eq!(response.header("content-range"), None);
    odd(Odd::UntilClose);
    let response = scene.get().await;
    assert_eq!(response.header("content-length"), None);
    assert!(response.complete && digest_of(&response.body) == scene.digest);
    odd(Odd::HeadLength(Some(0)));
    let head = http::head(&scene.url, &[]).await.expect("an answer");
    assert_eq!(head.header("content-length"), Some("0"));
    odd(Odd::HeadLength(None));
    let head = http::head(&scene.url, &[]).await.expect("an answer");
    assert_eq!((head.status, head.header("content-length")), (200, None));
    odd(Odd::Headers(vec![("X-Odd".to_owned(), "1".to_owned())]));
    assert_eq!(scene.get().await.header("x-odd"), Some("1"));
    scene.fake.fault(Match::blob().times(1), Fault::HangUp);
    assert!(http::get(&scene.url, &[]).await.is_err());
    scene.assert_sound().await;
}
