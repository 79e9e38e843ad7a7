//! A client may ask for any name. A request that is refused leaves no record on a keeper, and no object in the store
//! (P27).

use std::time::{Duration, Instant};

use data_encoding::BASE64;
use larder_tests::fake::FakeRegistry;
use larder_tests::image::{Image, build};
use larder_tests::members::{Cluster, Door};
use larder_tests::real::SeaweedFs;
use larder_tests::scene::{eventually, files};

use super::durable::{plan, seaweed, until_written};
use super::{REPOSITORY, beside, doors, layers};

const MADE_UP: usize = 40;

/// Asks a node for names that were never used, without a credential and with a made-up secret.
async fn ask_for_made_up_names(cluster: &Cluster, fake: &FakeRegistry, image: &Image) {
    for n in 0..MADE_UP {
        let repository = format!("made/up/{n}");
        // Some do not exist, and some are private.
        if n % 2 == 0 {
            fake.require_basic(&repository, "user", "password");
        }
        let secret = BASE64.encode(format!("user:{n}").as_bytes());
        let door = cluster.door(0, fake, &repository);
        let showing = door.clone().showing(&format!("Basic {secret}"));
        for door in [&door, &showing] {
            for path in [
                "manifests/v1".to_owned(),
                format!("manifests/{}", image.manifest_digest),
                format!("blobs/{}", image.config_digest),
            ] {
                refused(door, &path).await;
            }
        }
    }
}

async fn refused(door: &Door, path: &str) {
    for method in ["HEAD", "GET"] {
        let answer = door.answer(door.call(method, path)).await;
        let status = answer.expect("an answer").status;
        assert!([401, 404].contains(&status), "{status} for {path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_names_leave_nothing_with_the_keepers() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[1]));
    let cluster = Cluster::of(2).upstream(&fake).start().await;
    ask_for_made_up_names(&cluster, &fake, &image).await;
    // Names that exist reach the keepers, after all of the others: a tag, and the record that its repository is public.
    doors(&cluster, &fake, REPOSITORY)[0]
        .pull("v1", &image)
        .await
        .expect("an image");
    for node in cluster.nodes() {
        let records = node.store().join("cluster");
        eventually("both records are here", || files(&records).len() >= 2).await;
        assert_eq!(files(&records).len(), 2);
    }
}

/// Waits until no node writes any more, and gives the keys that exist.
async fn settled(store: &SeaweedFs, cluster: &Cluster, image: &Image) -> Vec<String> {
    until_written(store, image, cluster).await;
    store.keys("larder/").await.expect("a list")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_names_leave_nothing_in_the_object_store() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let (_dir, store) = seaweed().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[1]));
    let cluster = plan(2, &fake, &store).start().await;
    ask_for_made_up_names(&cluster, &fake, &image).await;
    // The name that exists is written after all of the others.
    let door = cluster.door(0, &fake, REPOSITORY);
    door.pull("v1", &image).await.expect("an image");
    let deadline = Instant::now() + Duration::from_secs(20);
    let named = format!("/{REPOSITORY}/");
    loop {
        let keys = settled(&store, &cluster, &image).await;
        let of_names = |key: &&String| key.starts_with("larder/records/");
        let made_up: Vec<_> = keys.iter().filter(|key| key.contains("made")).collect();
        assert_eq!(made_up, [""; 0]);
        if keys
            .iter()
            .any(|key| of_names(&key) && key.contains(&named))
        {
            // Every key that exists belongs to the image.
            let others = |key: &&String| of_names(key) && !key.contains(&named);
            assert_eq!(keys.iter().filter(others).count(), 0, "{keys:?}");
            break;
        }
        assert!(Instant::now() < deadline, "{keys:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
