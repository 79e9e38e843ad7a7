//! CRI-O, or a stand-in for it: a runtime that has the CRI alone.

use larder_tests::fake::digest_of;

use crate::fake::{Fake, Fields, Reply, UNIMPLEMENTED};
use larder_tests::watcher::{Watcher, directory, entries};

fn digest(text: &str) -> String {
    digest_of(text.as_bytes())
}

/// CRI-O writes ids without the algorithm.
fn bare(text: &str) -> String {
    digest(text).trim_start_matches("sha256:").to_owned()
}

/// One image, a pod with one container of it, which mounts another as a volume.
fn crio(question: &str) -> Reply {
    let fields = Fields::default;
    let reference = format!("registry.example/app@{}", digest("index"));
    match question {
        "RuntimeService/Version" => {
            let version = fields().text(1, "0.1.0").text(2, "cri-o").text(3, "1.33.0");
            Reply::All(vec![version.bytes()])
        }
        "ImageService/ListImages" => {
            let image = fields()
                .text(1, &bare("config"))
                .text(2, "registry.example/app:v1")
                .text(3, &reference)
                .text(3, &format!("registry.example/app@{}", digest("manifest")));
            Reply::All(vec![fields().message(1, &image).bytes()])
        }
        "RuntimeService/ListContainers" => {
            let spec = fields()
                .text(1, &bare("config"))
                .text(18, "registry.example/app:v1");
            let container = fields()
                .text(1, "c1")
                .message(4, &spec)
                .text(5, &reference)
                .number(7, 1_700_000_000_000_000_000)
                .text(10, &bare("config"));
            Reply::All(vec![fields().message(1, &container).bytes()])
        }
        "RuntimeService/ContainerStatus" => {
            let volume = fields()
                .text(1, &bare("data"))
                .text(18, "registry.example/data:v1");
            let mount = fields().text(1, "/data").message(9, &volume);
            let plain = fields().text(1, "/etc/hosts").text(2, "/run/hosts");
            let status = fields().message(14, &mount).message(14, &plain);
            Reply::All(vec![fields().message(1, &status).bytes()])
        }
        "RuntimeService/ListPodSandbox" => {
            let sandbox = fields().text(1, "p1").number(4, 1_700_000_000_000_000_000);
            Reply::All(vec![fields().message(1, &sandbox).bytes()])
        }
        "RuntimeService/PodSandboxStatus" => {
            let info = r#"{"image":"registry.example/pause:3.10","pid":7}"#;
            Reply::All(vec![fields().entry(2, "info", info).bytes()])
        }
        _ => Reply::Code(UNIMPLEMENTED),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_has_the_cri_alone_is_told_of_in_the_same_words() {
    let dir = directory();
    let socket = dir.path().join("crio.sock");
    let _fake = Fake::start(&socket, crio);
    let mut watcher = Watcher::start(&socket, &["--every", "1s"]);
    let report = watcher.until("a file", |_| true).await;
    assert_eq!(report["runtime"]["name"], "cri-o");
    assert_eq!(report["runtime"]["version"], "1.33.0");
    let image = &report["images"][0];
    assert_eq!(
        (&image["target"], &image["config"]),
        (&digest("config").into(), &digest("config").into())
    );
    let mut digests = [digest("index"), digest("manifest")];
    digests.sort();
    assert_eq!(image["digests"], serde_json::json!(digests));
    assert!(
        image["names"]
            .as_array()
            .expect("names")
            .contains(&"registry.example/app:v1".into())
    );
    for (kind, id, name, of) in [
        ("container", "c1", "registry.example/app:v1", Some("config")),
        (
            "image-volume",
            "c1",
            "registry.example/data:v1",
            Some("data"),
        ),
        ("sandbox", "p1", "registry.example/pause:3.10", None),
    ] {
        let users = entries(&report, "users", "kind", kind);
        assert_eq!(users.len(), 1, "{report:#}");
        assert_eq!(
            (&users[0]["id"], &users[0]["image"]),
            (&id.into(), &name.into())
        );
        assert_eq!(
            users[0]["digest"].as_str(),
            of.map(digest).as_deref(),
            "{kind}"
        );
        assert!(users[0]["created"].is_u64(), "{kind}");
    }
    assert_eq!(report["snapshots"], serde_json::json!([]));
    assert_eq!(report["content"], serde_json::json!([]));
    // The watcher's earlier knowledge is in the next file too.
    let at = report["at"].as_u64();
    let next = watcher
        .until("another", |report| report["at"].as_u64() > at)
        .await;
    assert_eq!(
        (&next["users"], &next["images"]),
        (&report["users"], &report["images"])
    );
}
