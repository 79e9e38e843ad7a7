//! A registry that answers HEAD badly and GET well: no client learns less, or an older digest, than a GET would tell it
//! (P14, P26).

use bytes::Bytes;
use futures_util::future::join_all;
use larder_tests::fake::{Fault, Match, Odd};
use larder_tests::http::{self, Call};
use larder_tests::image::OCI_MANIFEST;
use larder_tests::scene::Scene;

use super::{NEW, REPOSITORY, Tagged, is_stale};

fn page() -> Fault {
    Fault::Status {
        code: 200,
        headers: vec![("Content-Type".to_owned(), "text/html".to_owned())],
        body: Bytes::from_static(b"<p>Welcome</p>"),
    }
}

fn faults() -> Vec<Fault> {
    let mut faults: Vec<Fault> = [400, 404, 405, 406, 410, 501]
        .map(Fault::status)
        .into_iter()
        .collect();
    faults.extend([
        page(),
        Fault::status(200),
        Fault::Odd(Odd::HeadLength(Some(0))),
        Fault::Odd(Odd::HeadLength(None)),
    ]);
    faults
}

/// Clients that begin with HEAD, and clients that know GET alone.
#[tokio::test]
async fn a_tag_is_as_new_as_a_get_says() {
    join_all(faults().into_iter().map(|fault| async move {
        for begins_with_head in [true, false] {
            let tagged = Tagged::new("").await;
            let which = Match::manifest().method("HEAD");
            tagged.fake.fault(which, fault.clone());
            let new = tagged
                .fake
                .put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, NEW);
            let case = format!("{fault:?}, HEAD first: {begins_with_head}");
            if begins_with_head {
                let head = tagged.head("v1").await;
                let told = head.header("docker-content-digest");
                assert_eq!((head.status, told), (200, Some(&*new)), "{case}");
                let length = NEW.len().to_string();
                assert_eq!(head.header("content-length"), Some(&*length), "{case}");
                assert!(!is_stale(&head), "{case}");
                let manifest = tagged.get(&new).await;
                assert_eq!((manifest.status, manifest.text()), (200, NEW.to_owned()));
            }
            let answer = tagged.get("v1").await;
            let told = (answer.status, answer.text(), is_stale(&answer));
            assert_eq!(told, (200, NEW.to_owned(), false), "{case}");
            // A tag that was really deleted gets a 404 to GET as well.
            tagged.fake.delete_tag(REPOSITORY, "v1");
            let answer = tagged.get("v1").await;
            let told = (answer.status, answer.text(), is_stale(&answer));
            assert_eq!(told, (200, NEW.to_owned(), true), "{case}");
        }
    }))
    .await;
}

/// A HEAD gives the length of a blob as a GET does.
#[tokio::test]
async fn a_blob_is_there_if_a_get_says_so() {
    let mut all = faults();
    all.push(Fault::HangUp);
    all.push(Fault::status(403));
    join_all(all.into_iter().map(|fault| async move {
        let scene = Scene::new().await;
        let digest = scene.fake.put_blob(REPOSITORY, "some bytes");
        let empty = scene.fake.put_blob(REPOSITORY, "");
        let which = Match::blob().method("HEAD");
        scene.fake.fault(which, fault.clone());
        for (digest, length) in [(&digest, "10"), (&empty, "0")] {
            let head = Call::new("HEAD", scene.blob(REPOSITORY, digest));
            let head = head.send().await.expect("an answer");
            let told = (head.status, head.header("content-length"));
            assert_eq!(told, (200, Some(length)), "{fault:?}");
        }
        let missing = format!("sha256:{}", "ab".repeat(32));
        let head = http::head(&scene.blob(REPOSITORY, &missing), &[]).await;
        assert_eq!(head.expect("an answer").status, 404, "{fault:?}");
    }))
    .await;
}

/// A slow answer is better than none: `timeout` applies only where an old answer can stand in.
#[tokio::test]
async fn a_check_that_nothing_can_bridge_has_all_the_time_that_there_is() {
    let slow = || Fault::Delay(std::time::Duration::from_millis(2600));
    let head = || Match::manifest().method("HEAD");
    let unbridged = async {
        let tagged = Tagged::new("[tags]\nwhen_unreachable = \"fail\"\n").await;
        tagged.fake.fault(head(), slow());
        let answer = tagged.get("v1").await;
        assert_eq!((answer.status, is_stale(&answer)), (200, false));
    };
    let unknown = async {
        let scene = Scene::new().await;
        let new = scene
            .fake
            .put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, NEW);
        scene.fake.fault(head(), slow());
        let call = Call::new("HEAD", scene.manifest(REPOSITORY, "v1"));
        let answer = call.send().await.expect("an answer");
        let told = answer.header("docker-content-digest");
        assert_eq!((answer.status, told), (200, Some(&*new)));
    };
    let bridged = async {
        let tagged = Tagged::new("").await;
        tagged.fake.fault(head(), slow());
        assert!(is_stale(&tagged.get("v1").await));
    };
    tokio::join!(unbridged, unknown, bridged);
}
