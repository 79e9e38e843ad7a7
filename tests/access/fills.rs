//! One fill with several callers: each needs its own right, and the fill goes on for the callers that still have one
//! (promise P17).

use std::time::Duration;

use larder_tests::fake::{Armed, Content, FakeRegistry, Fault, Gate, Kind, Match};
use larder_tests::http::{Call, Stream};
use larder_tests::scene::{committed, eventually};

use crate::private::{Private, Who, refused};

const MB: u64 = 1_000_000;
const REPOSITORY: &str = "team/app";

struct Place {
    fake: FakeRegistry,
    scene: Private,
    first: Who,
    second: Who,
    content: Content,
    digest: String,
}

impl Place {
    async fn new(size: u64) -> Self {
        let fake = FakeRegistry::start().await;
        let (first, second) = (Who::new("first"), Who::new("second"));
        let content = Content::synthetic(fastrand::u64(..), size);
        let digest = fake.put_content(REPOSITORY, &content);
        fake.require_bearer(REPOSITORY, &[first.pair(), second.pair()]);
        let scene = Private::before(&[&fake]).await;
        Self {
            fake,
            scene,
            first,
            second,
            content,
            digest,
        }
    }

    fn gate(&self, bytes: u64) -> Gate {
        self.fake.gate(Match::blob().method("GET"), bytes)
    }

    /// Answers wait after 2 MB. The first `times` of them break off 1 MB later.
    fn breaks_off(&self, times: u32) -> (Gate, Armed) {
        let broken = Match::blob().method("GET").times(times);
        let broken = self.fake.fault(broken, Fault::ResetAfter(3 * MB));
        (self.gate(2 * MB), broken)
    }

    fn call(&self, who: &Who) -> Call {
        let url = self.scene.blob(&self.fake, REPOSITORY, &self.digest);
        Call::get(url).header("authorization", &who.basic())
    }

    async fn open(&self, who: &Who) -> Stream {
        let stream = self.call(who).open().await.expect("an answer");
        assert_eq!(stream.status, 200);
        stream
    }

    /// Reads the rest of a body of which `read` bytes were read.
    async fn whole(&self, stream: Stream, read: u64) {
        let rest = stream.rest().await;
        assert!(
            rest.complete,
            "{:?} after {} bytes",
            rest.error,
            rest.body.len()
        );
        assert!(
            *rest.body == self.content.read(read..self.content.len()),
            "wrong bytes"
        );
    }

    async fn end(self) {
        self.scene.end(&[&self.fake]).await;
    }
}

#[tokio::test]
async fn of_two_callers_one_is_refused_and_the_other_goes_on() {
    let place = Place::new(3 * MB).await;
    let gate = place.gate(MB);
    let stranger = Who::new("first");
    let mut stream = place.open(&place.first).await;
    stream.read_exactly(500_000).await.expect("500 kB");
    gate.reached(1).await;
    // A caller with a right joins the fill and a caller without one does not, in either order.
    let second = place.open(&place.second).await;
    for call in [
        place.call(&stranger),
        place.call(&stranger).header("range", "bytes=0-99"),
    ] {
        let answer = place.scene.send(call).await;
        refused("the stranger", &answer, &place.content.read(0..32));
        assert_eq!(answer.status, 401);
    }
    gate.open();
    place.whole(stream, 500_000).await;
    place.whole(second, 0).await;
    let sent = place.fake.blob_bytes_sent(&place.digest);
    assert!(sent < 3 * MB + MB / 2, "{sent} bytes for one blob");
    place.end().await;
}

/// A caller without a right asks first, so the fill starts with a source that the registry refuses.
#[tokio::test]
async fn a_reader_without_a_right_spoils_no_other_readers_fill() {
    let place = Place::new(3 * MB).await;
    let stranger = Who::new("first");
    let held = Gate::new(0);
    let armed = place.fake.fault(Match::any(), Fault::Hold(held.clone()));
    let (refused_call, call) = (place.call(&stranger), place.call(&place.first));
    let begun = tokio::spawn(async move { refused_call.send().await.expect("an answer") });
    held.reached(1).await;
    let joined = tokio::spawn(async move { call.open().await.expect("an answer") });
    held.reached(2).await;
    armed.lift();
    held.open();
    let answer = begun.await.expect("no panic");
    place.scene.note(&answer);
    refused("the stranger", &answer, &place.content.read(0..32));
    let joined = joined.await.expect("no panic");
    assert_eq!(joined.status, 200);
    place.whole(joined, 0).await;
    place.end().await;
}

/// Tokens live for two seconds, and besides, the registry revokes them while the fill is under way.
#[tokio::test]
async fn a_token_that_expires_in_the_middle_is_replaced() {
    let place = Place::new(40 * MB).await;
    place.fake.token_lifetime(Duration::from_secs(2));
    let gate = place.gate(2 * MB);
    let mut stream = place.open(&place.first).await;
    stream.read_exactly(MB as usize).await.expect("1 MB");
    gate.reached(1).await;
    let tokens = || {
        place
            .fake
            .count(|seen| seen.kind == Kind::Token && seen.status == 200)
    };
    let before = tokens();
    place.fake.revoke_tokens();
    // Every later range meets a registry that does not know the token.
    gate.open();
    place.whole(stream, MB).await;
    assert!(tokens() > before, "the token was not replaced");
    let refusals = place.fake.count(|seen| {
        seen.kind == Kind::Blob && seen.status == 401 && seen.authorization.is_some()
    });
    assert!(refusals > 0, "the token has never been refused");
    eventually("it is committed", || {
        committed(place.scene.node.store(), &place.digest)
    })
    .await;
    let sent = place.fake.blob_bytes_sent(&place.digest);
    assert!(sent < 44 * MB, "{sent} bytes for one blob");
    place.end().await;
}

/// The first caller's credential is revoked: the fill leaves its source, and goes on with the second caller's.
#[tokio::test]
async fn a_credential_that_is_revoked_in_the_middle_ends_its_own_source() {
    let place = Place::new(40 * MB).await;
    // Whichever source is asked next, the other one gets its turn later.
    let (gate, broken) = place.breaks_off(4);
    let mut first = place.open(&place.first).await;
    first.read_exactly(MB as usize).await.expect("1 MB");
    gate.reached(1).await;
    let second = place.open(&place.second).await;
    place
        .fake
        .require_bearer(REPOSITORY, &[place.second.pair()]);
    place.fake.revoke_tokens();
    place.fake.reset_counts();
    gate.open();
    let reading = tokio::spawn(first.rest());
    place.whole(second, 0).await;
    assert_eq!(broken.hits(), 4);
    // The first caller's bytes are right as far as they go.
    let rest = reading.await.expect("no panic");
    let end = MB + rest.body.len() as u64;
    assert!(*rest.body == place.content.read(MB..end), "wrong bytes");
    let first = place.first.basic();
    let asked = place
        .fake
        .count(|seen| seen.authorization.as_deref() == Some(&*first));
    assert!(asked > 0, "the first was never asked for again");
    let given = place.fake.count(|seen| {
        seen.kind == Kind::Token
            && seen.status == 200
            && seen.authorization.as_deref() == Some(&*first)
    });
    assert_eq!(given, 0);
    let answer = place.scene.send(place.call(&place.first)).await;
    refused("revoked", &answer, &place.content.read(0..32));
    assert_eq!(answer.status, 401);
    place.end().await;
}

/// No caller has a right any more: the body ends short, its bytes are right, and the next attempt is refused.
#[tokio::test]
async fn without_any_right_left_the_body_ends_short() {
    let place = Place::new(40 * MB).await;
    let (gate, _) = place.breaks_off(1);
    let mut stream = place.open(&place.first).await;
    stream.read_exactly(MB as usize).await.expect("1 MB");
    gate.reached(1).await;
    place
        .fake
        .require_bearer(REPOSITORY, &[Who::new("successor").pair()]);
    place.fake.revoke_tokens();
    gate.open();
    let rest = stream.rest().await;
    assert!(!rest.complete, "a whole body without a right");
    let end = MB + rest.body.len() as u64;
    assert!(*rest.body == place.content.read(MB..end), "wrong bytes");
    let answer = place.scene.send(place.call(&place.first)).await;
    refused("revoked", &answer, &place.content.read(0..32));
    assert_eq!(answer.status, 401);
    assert!(!committed(place.scene.node.store(), &place.digest));
    place.end().await;
}

/// The redirect's target asks for no credential, and must receive none.
#[tokio::test]
async fn a_redirect_remembered_opens_nothing_once_the_credential_is_revoked() {
    let place = Place::new(20 * MB).await;
    let cdn = place.fake.cdn_host();
    let config =
        format!("[access]\nttl = \"1s\"\n[upstreams.\"{cdn}\"]\nendpoints = [\"http://{cdn}\"]\n");
    let scene = Private::configured(&[&place.fake], config).await;
    place.fake.fault(
        Match::blob().when(|request| {
            request.method == "GET"
                && request
                    .header("authorization")
                    .is_some_and(|sent| sent.starts_with("Bearer"))
        }),
        Fault::redirect_to_cdn(),
    );
    let url = scene.blob(&place.fake, REPOSITORY, &place.digest);
    let sent = place.first.basic();
    let part = |from: u64| {
        Call::get(&url)
            .header("authorization", &sent)
            .header("range", &format!("bytes={from}-{}", from + 99))
    };
    let answer = scene.send(part(0)).await;
    assert_eq!(
        (answer.status, &*answer.body),
        (206, &*place.content.read(0..100))
    );
    for seen in place
        .fake
        .requests()
        .iter()
        .filter(|seen| seen.kind == Kind::Cdn)
    {
        assert_eq!((seen.status, &seen.authorization), (206, &None));
    }
    // The target would still serve the blob, but the registry would no longer redirect there.
    place
        .fake
        .require_bearer(REPOSITORY, &[Who::new("successor").pair()]);
    place.fake.clear_faults();
    place.fake.revoke_tokens();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let mut from = MB;
    loop {
        let answer = scene.send(part(from)).await;
        if answer.status == 401 {
            break;
        }
        assert_eq!(answer.status, 206);
        assert!(
            std::time::Instant::now() < deadline,
            "a remembered redirect opens it for ever"
        );
        from = (from + MB) % (19 * MB);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Once refused, the caller stays refused, whatever redirect larder remembers.
    for from in [0, MB, 19 * MB] {
        refused(
            "revoked",
            &scene.send(part(from)).await,
            &place.content.read(from..from + 16),
        );
    }
    scene.end(&[&place.fake]).await;
    place.end().await;
}
