//! What `larder doctor` says of a node that cannot mount ready layers (promise P24).

use std::fs;
use std::path::Path;

use larder_tests::node::Node;
use serde_json::{Value, json};

/// What containerd 2.4 reports with everything in place.
fn report() -> Value {
    let plugin = |kind: &str, id: &str| json!({"kind": kind, "id": id});
    json!({
        "version": 1,
        "at": std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs(),
        "runtime": {"name": "containerd", "version": "v2.4.2"},
        "snapshotter": "erofs",
        "images": [],
        "users": [],
        "snapshots": [],
        "plugins": [
            plugin("io.containerd.snapshotter.v1", "erofs"),
            plugin("io.containerd.differ.v1", "walking"),
            plugin("io.containerd.transfer.v1", "local"),
        ],
        "content": [],
    })
}

/// containerd's configuration, as `larder install --streaming` makes it.
fn containerd(directory: &Path) -> String {
    format!(
        r#"version = 3
[plugins."io.containerd.cri.v1.images"]
snapshotter = "erofs"
[plugins."io.containerd.snapshotter.v1.erofs"]
layer_content_caches = ["{}"]
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux"
snapshotter = "erofs"
differ = "walking"
"#,
        directory.display()
    )
}

struct Setup {
    dir: tempfile::TempDir,
    node: Node,
}

impl Setup {
    async fn new(mode: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = format!(
            "[runtime]\nfile = \"{0}/runtime.json\"\n\n[streaming]\nmode = {mode:?}\ndirectory = \"{0}/layers\"\n",
            dir.path().display(),
        );
        let setup = Self {
            node: Node::builder().config(config).start().await,
            dir,
        };
        fs::write(setup.config(), containerd(&setup.dir.path().join("layers"))).expect("written");
        setup.report(&report());
        setup
    }

    fn config(&self) -> std::path::PathBuf {
        self.dir.path().join("config.toml")
    }

    fn report(&self, report: &Value) {
        let coming = self.dir.path().join("coming");
        fs::write(&coming, report.to_string()).expect("written");
        fs::rename(&coming, self.dir.path().join("runtime.json")).expect("renamed");
    }

    /// The findings of this check, by what each says and how it is fixed.
    async fn findings(&self) -> Vec<(String, String)> {
        let config = self.config();
        let config = config.to_str().expect("UTF-8");
        let arguments = ["doctor", "--json", "--containerd-config", config];
        let output = self.node.cli(&arguments).await;
        let diagnosis: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let all = diagnosis["findings"].as_array().expect("findings").iter();
        let ours = all.filter(|one| one["check"] == "streaming");
        let text = |one: &Value| {
            let said = format!("{} {}", one["found"], one["mend"]);
            (one["severity"].as_str().expect("a word").to_owned(), said)
        };
        ours.map(text).collect()
    }

    /// What is wrong, once it is this many findings.
    async fn wrong(&self, wanted: usize) -> Vec<String> {
        for _ in 0..1_000 {
            let found = self.findings().await.into_iter();
            let wrong: Vec<_> = found
                .filter(|(severity, _)| severity != "ok")
                .map(|(_, said)| said)
                .collect();
            if wrong.len() == wanted {
                return wrong;
            }
            // The daemon looks at the watcher's file every 3 s.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("{:?}", self.findings().await);
    }
}

#[tokio::test]
async fn each_thing_that_a_node_lacks_is_said_with_its_fix() {
    let setup = Setup::new("ready").await;
    assert_eq!(setup.wrong(0).await, [] as [&str; 0]);
    assert!(setup.findings().await.len() >= 10);

    let right = fs::read_to_string(setup.config()).expect("read");
    let lacking = right.replace("snapshotter = \"erofs\"", "snapshotter = \"overlayfs\"");
    fs::write(setup.config(), lacking).expect("written");
    let wrong = setup.wrong(2).await;
    assert!(
        wrong
            .iter()
            .all(|said| said.contains("larder install --streaming")),
        "{wrong:?}"
    );
    fs::write(setup.config(), right).expect("written");

    let mut old = report();
    old["runtime"]["version"] = json!("1.7.28");
    old["snapshotter"] = json!("overlayfs");
    old["plugins"] = json!([{"kind": "io.containerd.snapshotter.v1", "id": "overlayfs"}]);
    setup.report(&old);
    let wrong = setup.wrong(3).await;
    assert!(wrong[0].contains("1.7.28"), "{wrong:?}");
}

#[tokio::test]
async fn a_node_that_offers_nothing_is_not_looked_at() {
    let setup = Setup::new("off").await;
    fs::write(setup.config(), "version = 2\n").expect("written");
    assert_eq!(setup.findings().await, []);
}
