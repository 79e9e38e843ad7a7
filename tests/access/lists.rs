//! The right to a list and the right to content are separate: neither one gives or takes the other (promises P16, P17).

use bytes::Bytes;
use larder_tests::fake::{FakeRegistry, Fault, Match};
use larder_tests::http::Call;
use larder_tests::image::{LayerSpec, build};
use larder_tests::node::Node;
use larder_tests::scene::{committed, eventually};

use crate::private::{Private, Who, refused};

const REPOSITORY: &str = "team/app";

/// Some registries serve a list to a token for metadata alone.
#[tokio::test]
async fn a_right_to_lists_is_none_to_cached_content() {
    let fake = FakeRegistry::start().await;
    let owner = Who::new("owner");
    let image = build(&fake, REPOSITORY, "v1", &[LayerSpec::new(1, 1000)]);
    fake.require_basic(REPOSITORY, owner.pair().0, owner.pair().1);
    let list = Fault::Status {
        code: 200,
        headers: vec![("content-type".into(), "application/json".into())],
        body: Bytes::from_static(br#"{"name":"team/app","tags":["v1"]}"#),
    };
    fake.fault(Match::tags(), list.clone());
    fake.fault(Match::referrers(), list);
    let scene = Private::before(&[&fake]).await;
    let path = |path: &str| scene.path(&fake, &format!("{REPOSITORY}/{path}"));
    let manifest = format!("manifests/{}", image.manifest_digest);
    let blob = format!("blobs/{}", image.config_digest);
    for what in ["manifests/v1", &blob] {
        assert_eq!(scene.get(&owner, &path(what)).await.status, 200);
    }
    eventually("it is committed", || {
        committed(scene.node.store(), &image.config_digest)
    })
    .await;
    let referrers = format!("referrers/{}", image.manifest_digest);
    for lister in [Who::Nobody, Who::Sends(Who::new("lister").basic())] {
        for list in ["tags/list", &referrers] {
            assert_eq!(scene.get(&lister, &path(list)).await.status, 200);
            for what in [&manifest, &blob] {
                let answer = scene.get(&lister, &path(what)).await;
                refused(what, &answer, b"schemaVersion");
            }
        }
    }
    scene.end(&[&fake]).await;
}

/// A public repository and a private one.
#[tokio::test]
async fn a_refused_list_takes_no_right_to_content() {
    let fake = FakeRegistry::start().await;
    let owner = Who::new("owner");
    let sent = Who::Sends(owner.basic());
    let public = build(&fake, "public/app", "v1", &[LayerSpec::new(1, 1000)]);
    let private = build(&fake, REPOSITORY, "v1", &[LayerSpec::new(2, 1000)]);
    fake.require_basic(REPOSITORY, owner.pair().0, owner.pair().1);
    fake.fault(Match::tags(), Fault::denied(403));
    fake.fault(Match::referrers(), Fault::denied(403));
    let scene = Private::before(&[&fake]).await;
    let images = [
        ("public/app", &public, Who::Nobody),
        (REPOSITORY, &private, sent),
    ];
    for (repository, image, who) in &images {
        let by_digest = scene.manifest(&fake, repository, &image.manifest_digest);
        let by_tag = scene.manifest(&fake, repository, "v1");
        for url in [&by_tag, &by_digest] {
            assert_eq!(scene.get(who, url).await.status, 200);
        }
        let referrers = format!("{repository}/referrers/{}", image.manifest_digest);
        for list in [format!("{repository}/tags/list"), referrers] {
            let answer = scene.get(who, &scene.path(&fake, &list)).await;
            refused(&list, &answer, b"tags");
            for url in [&by_tag, &by_digest] {
                assert_eq!(scene.get(who, url).await.status, 200, "{list}");
            }
        }
    }
    // An outage is bridged for a caller that was served before it.
    fake.stop().await;
    for (repository, image, who) in &images {
        let by_digest = scene.manifest(&fake, repository, &image.manifest_digest);
        assert_eq!(scene.get(who, &by_digest).await.status, 200);
    }
    scene.end(&[&fake]).await;
}

/// When a mirror gives a list, larder asks the origin for it by GET: some registries answer a HEAD of a list with 405.
#[tokio::test]
async fn a_mirrors_list_goes_only_to_callers_that_the_origin_allows() {
    let (mirror, origin) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let owner = Who::new("owner");
    for fake in [&mirror, &origin] {
        build(fake, REPOSITORY, "v1", &[LayerSpec::new(1, 1000)]);
    }
    origin.require_basic(REPOSITORY, owner.pair().0, owner.pair().1);
    origin.fault(Match::tags().method("HEAD"), Fault::status(405));
    let config = format!(
        "[upstreams.\"registry.test\"]\nendpoints = [\"{}\", \"{}\"]\n",
        mirror.url(),
        origin.url()
    );
    let scene = Private::start(Node::builder().config(config)).await;
    let list = format!(
        "{}/v2/{REPOSITORY}/tags/list?ns=registry.test",
        scene.node.url()
    );
    let sent = Who::Sends(owner.basic());
    let answer = scene.get(&sent, &list).await;
    assert_eq!(answer.json()["tags"], serde_json::json!(["v1"]));
    for stranger in [Who::Nobody, Who::Sends(Who::new("owner").basic())] {
        let answer = scene.ask(&stranger, Call::get(&list)).await;
        refused("the list", &answer, b"\"tags\"");
    }
    scene.end(&[&mirror, &origin]).await;
}
