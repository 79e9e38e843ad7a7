//! When the watcher is lost, its last report still counts: content that was in use then stays for one more ttl.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use futures_util::future::join_all;
use larder_tests::scene::eventually;
use serde_json::{Value, json};

use super::{DAY, MB, Watched, now};

/// What happens to the watcher's file.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// The watcher was killed.
    Old,
    Half,
    Newer,
    Gone,
    /// The file is missing when larder starts again.
    GoneAtTheStart,
    /// The file is half written when larder starts again.
    HalfAtTheStart,
    /// The file belongs to another node.
    Foreign,
}

impl Fate {
    const ALL: [Self; 7] = [
        Self::Old,
        Self::Half,
        Self::Newer,
        Self::Gone,
        Self::GoneAtTheStart,
        Self::HalfAtTheStart,
        Self::Foreign,
    ];

    fn state(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::Newer => "newer",
            _ => "unreadable",
        }
    }

    async fn befalls(self, node: &mut Watched) {
        let text = fs::read_to_string(node.file()).expect("a report");
        let half = &text[..text.len() / 2];
        match self {
            Self::Old => {}
            Self::Half => node.write(half),
            Self::Newer => node.write(r#"{"version": 2, "containers": "of another shape"}"#),
            Self::Gone => fs::remove_file(node.file()).expect("the file"),
            Self::GoneAtTheStart => {
                node.scene.node.kill9().await;
                fs::remove_file(node.file()).expect("the file");
                node.scene.node.restart().await;
            }
            Self::HalfAtTheStart => {
                node.scene.node.terminate();
                node.scene.node.wait().await;
                node.write(half);
                node.scene.node.restart().await;
            }
            Self::Foreign => {
                let mut other = node.report(&[]);
                other["boot"] = "0c5b3d9e-0000-0000-0000-000000000000".into();
                node.write(&other.to_string());
            }
        }
    }
}

async fn nothing_goes(fate: Fate) {
    let mut node = Watched::with("").await;
    let used = node.pull("team/used", 1, MB).await;
    let unused = node.pull("team/unused", 2, MB).await;
    node.uses(&[&used]).await;
    node.machine.pass(5 * DAY);
    node.uses(&[&used]).await;
    // The store writes its records within a minute. From then on they survive a kill, and so does their time.
    let store = node.scene.node.store().to_owned();
    let listed = || {
        let written = fs::metadata(store.join("in-use")).expect("a list");
        written.mtime() as u64
    };
    let before = listed();
    node.machine.pass(DAY / 24);
    node.uses(&[&used]).await;
    eventually("it is written down", || {
        let clock = fs::read_to_string(store.join("clock")).unwrap_or_default();
        let clock = clock.trim().parse::<u64>().unwrap_or(0);
        listed() > before && clock + 60 >= listed()
    })
    .await;
    fate.befalls(&mut node).await;
    node.machine.pass(3 * DAY);
    let status = node
        .until(&format!("{fate:?}"), |status| {
            status["runtime"]["state"] == fate.state()
                && status["runtime"]["unknown_seconds"].as_u64() >= Some(3 * DAY.as_secs() - 120)
        })
        .await;
    let unknown = status["runtime"]["unknown_seconds"].as_u64();
    assert!(unknown < Some(4 * DAY.as_secs()), "{fate:?}: {status}");
    assert!(status["runtime"]["why"].is_string(), "{fate:?}: {status}");
    node.round().await;
    assert!(node.is_whole(&used), "{fate:?}: {}", node.scene.node.log());
    node.until_gone(&unused).await;
    // The content does not stay for ever: its container may have ended long ago.
    node.machine.pass(5 * DAY);
    node.until_gone(&used).await;
}

#[tokio::test]
async fn content_last_in_use_stays_for_its_ttl_without_a_watcher() {
    join_all(Fate::ALL.map(nothing_goes)).await;
}

/// A file that is a day old when larder first reads it says what was in use a day ago.
#[tokio::test]
async fn a_file_that_was_old_at_the_start_counts_from_its_own_time() {
    let mut node = Watched::with("").await;
    let used = node.pull("team/used", 1, MB).await;
    node.scene.node.terminate();
    node.scene.node.wait().await;
    let mut report = node.report(&[&used]);
    report["at"] = json!(now() - DAY.as_secs());
    node.write(&report.to_string());
    node.scene.node.restart().await;
    let old = |status: &Value| status["runtime"]["state"] == "old";
    let status = node.until("the file is old", old).await;
    let unknown = status["runtime"]["unknown_seconds"].as_u64();
    assert!(unknown >= Some(DAY.as_secs()), "{status}");
    node.until_in_use(&[&used.manifest_digest]).await;
    node.machine.pass(143 * (DAY / 24));
    node.round().await;
    assert!(node.is_whole(&used), "{}", node.scene.node.log());
    node.machine.pass(2 * DAY);
    node.until_gone(&used).await;
}

/// The same under pressure: content in use by the last report is not evicted first.
#[tokio::test]
async fn what_was_last_in_use_stays_also_when_room_is_wanted() {
    let node = Watched::with("max_size = \"20MB\"").await;
    let used = node.pull("team/used", 1, 8 * MB).await;
    let unused = node.pull("team/unused", 2, 8 * MB).await;
    node.uses(&[&used]).await;
    fs::remove_file(node.file()).expect("the file");
    node.until("the file is gone", |status| {
        status["runtime"]["state"] == "unreadable"
    })
    .await;
    // The image that was used last is the one without a container.
    node.machine.pass(DAY / 24);
    node.pull_again("team/unused", &unused).await;
    let new = node.pull("team/new", 3, 8 * MB).await;
    node.round().await;
    assert!(node.is_whole(&used) && node.is_whole(&new));
    assert!(!node.is_whole(&unused));
}

/// Without a file larder evicts by age alone, and shows nothing of a runtime.
#[tokio::test]
async fn without_a_watcher_nothing_is_said_of_the_runtime() {
    let node = Watched::with("").await;
    let image = node.pull("team/app", 1, MB).await;
    let status = node.scene.node.admin("/status").await;
    assert_eq!(status.get("runtime"), None, "{status}");
    assert!(!node.scene.node.store().join("in-use").exists());
    node.machine.pass(8 * DAY);
    node.until_gone(&image).await;
}

/// An operator switches the watcher off: larder then keeps nothing on its account.
#[tokio::test]
async fn a_watcher_that_is_switched_off_is_forgotten() {
    let node = Watched::with("").await;
    let used = node.pull("team/used", 1, MB).await;
    node.uses(&[&used]).await;
    assert!(node.scene.node.store().join("in-use").exists());
    let config = "[store]\nmin_free = \"0\"\n[runtime]\nfile = \"off\"\n";
    fs::write(node.scene.node.config_file(), config).expect("a file");
    node.until("it is forgotten", |status| {
        status.get("runtime").is_none() && status["store"]["in_use_blobs"] == 0
    })
    .await;
    assert!(!node.scene.node.store().join("in-use").exists());
    node.until_in_use(&[]).await;
}
