use std::fs;

use tempfile::TempDir;

use super::*;

const DIRECTORY: &str = "/var/lib/larder-layers";
const CONFIG: &str = "/etc/containerd/config.toml";

struct Node {
    dir: TempDir,
    root: Root,
}

impl Node {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = Root::new(dir.path()).unwrap();
        Self { dir, root }
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn said(&self) -> Said {
        said(&self.root, Path::new(CONFIG)).unwrap()
    }

    fn lines(&self) -> String {
        let before = said::read(&self.root, Path::new(CONFIG), FILE).unwrap();
        drop_in(&before, Path::new(DIRECTORY))
    }

    fn place(&self) -> DropIn {
        said::drop_in(&self.root, Path::new(CONFIG), FILE).unwrap()
    }
}

const IMPORTS: &str = "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n";
const DROP_IN: &str = "/etc/containerd/conf.d/larder-streaming.toml";

fn snapshotters(said: &Said) -> Vec<&str> {
    let unpack = said.unpack.as_deref().unwrap_or_default();
    unpack.iter().map(|one| one.snapshotter.as_str()).collect()
}

#[test]
fn with_the_drop_in_containerd_mounts_ready_files_and_keeps_what_the_other_files_say() {
    let others = "version = 3
[plugins.\"io.containerd.cri.v1.images\"]
snapshotter = \"overlayfs\"
[plugins.\"io.containerd.cri.v1.images\".registry]
config_path = \"/etc/containerd/certs.d\"
[plugins.\"io.containerd.snapshotter.v1.erofs\"]
layer_content_caches = [\"/srv/base\"]
[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]
platform = \"linux/amd64\"
snapshotter = \"stargz\"
layer_types = [\"a\"]
";
    for (files, directories, unpacked) in [
        // Without a configuration, containerd has its defaults, and imports conf.d.
        (vec![], vec![DIRECTORY], vec!["overlayfs", "erofs"]),
        (
            vec![(CONFIG, IMPORTS)],
            vec![DIRECTORY],
            vec!["overlayfs", "erofs"],
        ),
        (
            vec![(CONFIG, IMPORTS), ("/etc/containerd/conf.d/a.toml", others)],
            vec!["/srv/base", DIRECTORY],
            vec!["stargz", "erofs"],
        ),
    ] {
        let node = Node::new(&files);
        assert_eq!(node.place(), DropIn::Read(DROP_IN.into()));
        node.put(DROP_IN, &node.lines());
        let said = node.said();
        assert_eq!(said.directories, directories);
        assert_eq!(snapshotters(&said), unpacked);
        assert_eq!(said.snapshotter.as_deref(), Some("erofs"));
        assert!(
            said.unpack
                .as_ref()
                .unwrap()
                .iter()
                .any(Unpack::is_for_ready_files)
        );
        assert_eq!(said.hindrances(), []);
        // A second run writes the same lines.
        let again = node.lines();
        node.put(DROP_IN, &again);
        assert_eq!(node.said(), said);
    }
}

#[test]
fn an_entry_for_images_that_are_erofs_already_is_not_one_for_ready_files() {
    let entry = |platform: &str| {
        format!(
            "{IMPORTS}[[plugins.\"{TRANSFER}\".unpack_config]]\nplatform = \"{platform}\"\nsnapshotter = \"erofs\"\ndiffer = \"erofs\"\n"
        )
    };
    let node = Node::new(&[(CONFIG, &entry("linux(+erofs)/amd64"))]);
    assert!(node.lines().contains("differ = \"walking\""));
    // An entry of the operator's stays as it is.
    node.put(CONFIG, &entry("linux/amd64"));
    assert!(!node.lines().contains("walking"), "{}", node.lines());
}

#[test]
fn a_configuration_without_imports_is_told_the_line() {
    let line = |text: &str| match Node::new(&[(CONFIG, text)]).place() {
        DropIn::Import { file, line } => {
            assert_eq!(file, Path::new(DROP_IN));
            line
        }
        read @ DropIn::Read(_) => panic!("{read:?}"),
    };
    let own = "\"/etc/containerd/conf.d/*.toml\"";
    assert_eq!(line("version = 3\n"), format!("imports = [{own}]"));
    assert_eq!(
        line("version = 3\nimports = [\"one.toml\"]\n"),
        format!("imports = [\"/etc/containerd/one.toml\", {own}]")
    );
    // The pattern must match the drop-in's name.
    line("imports = [\"/etc/containerd/conf.d/*.conf\"]\n");
}

#[test]
fn the_last_file_counts_in_every_version_of_the_format() {
    let old = "version = 2\nimports = [\"conf.d/*.toml\"]\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"erofs\"\n";
    let node = Node::new(&[(CONFIG, old)]);
    assert_eq!(node.said().snapshotter.as_deref(), Some("erofs"));
    let images =
        "version = 3\n[plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"native\"\n";
    node.put("/etc/containerd/conf.d/a.toml", images);
    assert_eq!(node.said().snapshotter.as_deref(), Some("native"));
    // Files that import each other are read once.
    let circle = format!("imports = [\"../config.toml\"]\n{images}");
    node.put("/etc/containerd/conf.d/a.toml", &circle);
    assert_eq!(node.said().snapshotter.as_deref(), Some("native"));
    node.put("/etc/containerd/conf.d/b.toml", "not TOML");
    let why = said(&node.root, Path::new(CONFIG)).unwrap_err();
    assert!(
        why.contains("/etc/containerd/conf.d/b.toml is not TOML"),
        "{why}"
    );
}

#[test]
fn what_keeps_the_snapshotter_from_mounting_is_said() {
    let node = Node::new(&[]);
    for (line, words) in [
        ("set_immutable = true", "set_immutable"),
        ("enable_fsverity = true", "enable_fsverity"),
        ("dmverity_mode = \"on\"", "dmverity_mode"),
    ] {
        node.put(CONFIG, &format!("{IMPORTS}[plugins.\"{EROFS}\"]\n{line}\n"));
        let found = node.said().hindrances();
        assert_eq!(found.len(), 1, "{line}");
        assert!(found[0].0.contains(words), "{line}");
    }
    node.put(
        CONFIG,
        &format!("{IMPORTS}disabled_plugins = [\"{EROFS}\"]\n"),
    );
    assert!(node.said().hindrances()[0].0.contains("disabled_plugins"));
    node.put(
        CONFIG,
        &format!(
            "{IMPORTS}[plugins.\"{EROFS}\"]\nset_immutable = false\ndmverity_mode = \"auto\"\n"
        ),
    );
    assert_eq!(node.said().hindrances(), []);
}

#[test]
fn from_a_container_nothing_is_written() {
    let node = Node::new(&[(CONFIG, IMPORTS)]);
    let mut plan = Plan::default();
    let refused = install(
        &mut plan,
        &node.root,
        Path::new(CONFIG),
        Path::new(DIRECTORY),
    );
    let why = refused.unwrap_err().to_string();
    assert!(why.contains(DROP_IN) && why.contains(DIRECTORY), "{why}");
    assert!(plan.steps.is_empty());
    // The drop-in is not removed either.
    node.put(DROP_IN, &block::marked("version = 3\n", 0));
    uninstall(&mut plan, &node.root, Path::new(CONFIG)).unwrap();
    assert!(plan.steps.is_empty());
}
