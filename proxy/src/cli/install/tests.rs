//! Installing and uninstalling in a temporary directory.

mod checks;
mod crio;
mod dry_run;
mod existing;
mod mounted;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use clap::ValueEnum as _;

use super::*;

const ADDRESS: &str = "http://127.0.0.1:7420";

/// The /etc/containerd of a node.
struct Node {
    root: tempfile::TempDir,
}

impl Node {
    /// A node with a configuration that needs no warning, and an empty certs.d.
    fn new() -> Self {
        let node = Self::bare();
        fs::create_dir(node.certs()).unwrap();
        node
    }

    /// A node without certs.d.
    fn bare() -> Self {
        let root = tempfile::tempdir().unwrap();
        let node = Self { root };
        let config = format!(
            "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = {:?}\n",
            node.certs()
        );
        fs::write(node.config(), config).unwrap();
        node
    }

    fn certs(&self) -> PathBuf {
        self.root.path().join("certs.d")
    }

    fn config(&self) -> PathBuf {
        self.root.path().join("config.toml")
    }

    fn hosts(&self, dir: &str) -> PathBuf {
        self.certs().join(dir).join("hosts.toml")
    }

    fn put(&self, dir: &str, name: &str, text: &str) {
        fs::create_dir_all(self.certs().join(dir)).unwrap();
        fs::write(self.certs().join(dir).join(name), text).unwrap();
    }

    fn read(&self, dir: &str) -> String {
        fs::read_to_string(self.hosts(dir)).unwrap()
    }

    fn args(&self, registries: &[&str]) -> InstallArgs {
        InstallArgs {
            node: self.node_args(),
            registries: registries.iter().map(|&name| name.to_owned()).collect(),
            exact: false,
            address: ADDRESS.to_owned(),
            containerd_config: Some(self.config()),
            probe: None,
            watch: false,
            hold: false,
            streaming: None,
            dry_run: false,
        }
    }

    fn node_args(&self) -> NodeArgs {
        NodeArgs {
            preset: Preset::Kubeadm,
            runtime: None,
            node_root: "/".into(),
            containerd_certs_dir: Some(self.certs()),
            crio_conf_dir: self.root.path().join("registries.conf.d"),
            crio_reload: false,
        }
    }

    fn install(&self, registries: &[&str]) -> String {
        run_install(&self.args(registries)).unwrap()
    }

    fn refused(&self, registries: &[&str]) -> String {
        format!("{:#}", run_install(&self.args(registries)).unwrap_err())
    }

    fn uninstall(&self) -> String {
        let (code, said) = self.try_uninstall(false);
        assert_eq!(code, 0, "{said}");
        said
    }

    fn try_uninstall(&self, dry_run: bool) -> (u8, String) {
        run_uninstall(self.node_args(), dry_run)
    }

    fn tree(&self) -> BTreeMap<PathBuf, Entry> {
        walk(self.root.path())
    }
}

/// A file's kind and mode, its owner, the time of its last change, and its content.
type Entry = (u32, (u32, u32), Option<(i64, i64)>, Vec<u8>);

/// `root` and everything below it.
fn walk(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut tree = BTreeMap::new();
    let mut rest = vec![root.to_owned()];
    while let Some(path) = rest.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            target.into_os_string().into_encoded_bytes()
        } else if metadata.is_file() {
            fs::read(&path).unwrap()
        } else {
            rest.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            Vec::new()
        };
        let changed = (!metadata.is_dir()).then(|| (metadata.mtime(), metadata.mtime_nsec()));
        let owner = (metadata.uid(), metadata.gid());
        tree.insert(path, (metadata.mode(), owner, changed, content));
    }
    tree
}

/// The output of an install, warnings last.
fn run_install(args: &InstallArgs) -> Result<String> {
    let (mut out, mut complaints) = (Vec::new(), Vec::new());
    let code = install(args, &mut out, &mut complaints)?;
    assert_eq!(code, 0);
    out.extend(complaints);
    Ok(String::from_utf8(out).unwrap())
}

fn run_uninstall(node: NodeArgs, dry_run: bool) -> (u8, String) {
    let args = UninstallArgs {
        node,
        stay: false,
        containerd_config: None,
        dry_run,
    };
    let (mut out, mut complaints) = (Vec::new(), Vec::new());
    let code = uninstall(&args, &mut out, &mut complaints).unwrap();
    out.extend(complaints);
    (code, String::from_utf8(out).unwrap())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_fresh_node_gets_a_default_and_loses_it_again() {
    let node = Node::bare();
    let before = node.tree();
    let said = node.install(&[]);
    assert!(!said.contains("warning"), "{said}");

    let file: toml::Table = node.read("_default").parse().unwrap();
    let expected: toml::Table =
        format!("[host.\"{ADDRESS}\"]\ncapabilities = [\"pull\", \"resolve\"]")
            .parse()
            .unwrap();
    assert_eq!(file, expected);
    assert_eq!(mode(&node.hosts("_default")), 0o644);
    assert_eq!(mode(&node.certs()), 0o755);
    assert_eq!(mode(&node.certs().join("_default")), 0o755);
    assert_eq!(
        fs::read_dir(node.certs().join("_default")).unwrap().count(),
        1
    );

    node.uninstall();
    assert_eq!(node.tree(), before);
}

#[test]
fn directories_that_were_there_stay() {
    let node = Node::new();
    node.put("_default", "note", "x");
    fs::remove_file(node.certs().join("_default/note")).unwrap();
    let before = node.tree();
    node.install(&[]);
    node.uninstall();
    assert_eq!(node.tree(), before);
}

#[test]
fn a_directory_that_someone_else_uses_by_now_stays() {
    let node = Node::bare();
    node.install(&["ghcr.io", "quay.io"]);
    node.put("ghcr.io", "ca.crt", "x");
    node.uninstall();
    assert!(node.certs().join("ghcr.io/ca.crt").exists());
    assert!(!node.hosts("ghcr.io").exists());
    assert!(!node.certs().join("quay.io").exists());
}

#[test]
fn a_registry_gets_the_directory_that_containerd_finds() {
    for (existing, registry, expected) in [
        (None, "docker.io", "docker.io"),
        (None, "index.docker.io", "docker.io"),
        (None, "127.0.0.1:5000", "127.0.0.1_5000_"),
        (Some("127.0.0.1:5000"), "127.0.0.1:5000", "127.0.0.1:5000"),
        (Some("127.0.0.1_5000_"), "127.0.0.1:5000", "127.0.0.1_5000_"),
    ] {
        let node = Node::new();
        if let Some(existing) = existing {
            fs::create_dir(node.certs().join(existing)).unwrap();
        }
        let before = node.tree();
        node.install(&[registry]);
        assert!(node.read(expected).contains(ADDRESS), "{registry}");
        node.uninstall();
        assert_eq!(node.tree(), before, "{registry}");
    }
}

const EXISTING: &str = "# Company mirrors\nserver = \"https://registry-1.docker.io\"\nheader.x-team = \"a\"\n\n\
    # the near one\n[host.\"https://mirror.example.com\"]\n  capabilities = [\"pull\"]\n  ca = \"/etc/ca.pem\"\n\n\
    [host.\"https://far.example.com\".header]\n  x = [\"y\"]";

#[test]
fn a_second_install_changes_nothing_and_says_so() {
    let node = Node::new();
    node.put("docker.io", "hosts.toml", EXISTING);
    for registries in [&[][..], &["docker.io", "docker.io"]] {
        node.install(registries);
        let before = node.tree();
        let said = node.install(registries);
        assert!(
            said.contains("already installed, nothing to change"),
            "{said}"
        );
        assert_eq!(node.tree(), before);
    }
}

#[test]
fn damaged_marks_leave_the_file_and_the_exit_code_says_so() {
    let node = Node::new();
    node.install(&["docker.io", "ghcr.io"]);
    let damaged = node.read("docker.io").replace("# <<< larder", "# ");
    fs::write(node.hosts("docker.io"), &damaged).unwrap();
    let (code, said) = node.try_uninstall(false);
    assert_eq!(code, 1);
    assert!(said.contains("larder's marks are damaged"), "{said}");
    assert_eq!(node.read("docker.io"), damaged);
    assert!(!node.hosts("ghcr.io").exists());
}

#[test]
fn an_install_cut_off_between_its_steps_leaves_no_trace_after_uninstall() {
    let node = Node::new();
    node.put("docker.io", "hosts.toml", EXISTING);
    let before = node.tree();
    let kept = node.certs().join("docker.io/hosts.toml.before-larder");
    fs::hard_link(node.hosts("docker.io"), &kept).unwrap();
    node.install(&["docker.io"]);
    node.uninstall();
    assert_eq!(node.tree(), before);
    fs::hard_link(node.hosts("docker.io"), &kept).unwrap();
    node.uninstall();
    assert_eq!(node.tree(), before);
}

#[test]
fn bad_arguments_are_refused_with_their_fix() {
    let node = Node::new();
    assert_eq!(
        node.refused(&["../x"]),
        "--registry \"../x\": leave out the path, the registry's name is enough: \"ghcr.io\""
    );
    for (address, expected) in [
        (
            "127.0.0.1:7420",
            "--address: the scheme is missing: write \"http://127.0.0.1:7420\"",
        ),
        (
            "http://127.0.0.1:7420/v2",
            "--address: leave out the path: the runtime adds /v2 itself",
        ),
    ] {
        let mut args = node.args(&[]);
        args.address = address.to_owned();
        assert_eq!(run_install(&args).unwrap_err().to_string(), expected);
    }
    let mut args = node.args(&[]);
    args.node.containerd_certs_dir = Some("/a:/b".into());
    assert_eq!(
        run_install(&args).unwrap_err().to_string(),
        "--containerd-certs-dir /a:/b: give one directory, not a list"
    );
}
