//! The node itself: its configuration, its store, its limits.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use larder_tests::fake::FakeRegistry;
use larder_tests::http::Call;
use larder_tests::node::Node;
use larder_tests::scene::eventually;
use larder_tests::tmpfs::Tmpfs;
use serde_json::Value;

use super::{checks, doctor, finds};

#[tokio::test]
async fn a_configuration_that_is_not_in_force_is_found() {
    let fake = FakeRegistry::start().await;
    let node = Node::builder()
        .upstream(&fake)
        .config("[tags]\ntimeout = \"1s\"\n")
        .start()
        .await;
    assert_eq!(doctor(&node).await, Vec::<Value>::new());
    fs::write(node.config_file(), "[tags]\ntimeuot = \"1s\"\n").unwrap();
    eventually("it is read again", || node.log().contains("timeuot")).await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["config"], "{wrong:#?}");
    finds(&wrong, "config", "timeuot", "larder config check");
}

/// As in an emptyDir: every user may write into the volume's top directory, and larder cannot change that. In a
/// directory of larder's own there is nothing to find.
#[tokio::test]
async fn a_directory_in_a_volume_that_all_may_write_to_is_larders_own() {
    let fake = FakeRegistry::start().await;
    let volume = tempfile::tempdir().unwrap();
    fs::set_permissions(volume.path(), fs::Permissions::from_mode(0o2777)).unwrap();
    let node = Node::builder()
        .upstream(&fake)
        .store(volume.path())
        .start()
        .await;
    finds(&doctor(&node).await, "permissions", "every user", "chmod");
    drop(node);
    let own = volume.path().join("store");
    let node = Node::builder().upstream(&fake).store(own).start().await;
    assert_eq!(doctor(&node).await, Vec::<Value>::new());
}

#[tokio::test]
async fn faults_of_the_machine_are_found() {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_blob("team/app", vec![7; 100_000]);
    let node = Node::builder()
        .upstream(&fake)
        .config("[store]\nmin_free = \"1000TiB\"\n")
        .start()
        .await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["disk"], "{wrong:#?}");
    finds(&wrong, "disk", "min_free", "make room");

    let node = Node::builder().upstream(&fake).start().await;
    let pid = node.pid().to_string();
    let limited = Command::new("prlimit")
        .args(["--pid", &pid, "--nofile=512:512"])
        .status();
    assert!(limited.unwrap().success());
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["limits"], "{wrong:#?}");
    finds(&wrong, "limits", "512 files", "LimitNOFILE");

    let node = Node::builder().upstream(&fake).start().await;
    let key = node.store().join("grants.key");
    fs::set_permissions(node.store(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(
        key.parent().unwrap().parent().unwrap(),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    fs::set_permissions(key, fs::Permissions::from_mode(0o644)).unwrap();
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["permissions"], "{wrong:#?}");
    finds(&wrong, "permissions", "grants.key", "0600");

    let node = Node::builder().upstream(&fake).start().await;
    let blob = format!(
        "{}/v2/team/app/blobs/{digest}?ns={}",
        node.url(),
        fake.host()
    );
    Call::get(blob).send().await.unwrap();
    until_listed(&node, &digest).await;
    let (_, hex) = digest.split_once(':').unwrap();
    let file = node.store().join("blobs/sha256").join(&hex[..2]).join(hex);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, vec![8; 100_000]).unwrap();
    node.cli(&["verify"]).await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["rot"], "{wrong:#?}");
    finds(&wrong, "rot", "damaged", "replace it");
}

/// Waits until the node lists this blob, which is a moment after its file exists.
async fn until_listed(node: &Node, digest: &str) {
    for _ in 0..1000 {
        if node.admin("/blobs").await.to_string().contains(digest) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{digest} is not listed");
}

#[tokio::test]
async fn a_store_that_cannot_be_written_is_found() {
    let Some(tmpfs) = Tmpfs::mount("a_store_that_cannot_be_written_is_found", 64) else {
        return;
    };
    let fake = FakeRegistry::start().await;
    let digest = fake.put_blob("team/app", vec![7; 1_000_000]);
    let node = Node::builder()
        .upstream(&fake)
        .store(tmpfs.path().join("store"))
        .start()
        .await;
    let foreign = tmpfs.fill_up();
    let blob = format!(
        "{}/v2/team/app/blobs/{digest}?ns={}",
        node.url(),
        fake.host()
    );
    assert_eq!(Call::get(&blob).send().await.unwrap().status, 200);
    let wrong = doctor(&node).await;
    finds(&wrong, "store", "cannot be written", "free space");
    fs::remove_file(foreign).unwrap();
    // A request whose content larder wants to keep makes it try the disk again.
    for _ in 0..200 {
        assert_eq!(Call::get(&blob).send().await.unwrap().status, 200);
        if !checks(&doctor(&node).await).contains(&"store") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the store is not tried again");
}
