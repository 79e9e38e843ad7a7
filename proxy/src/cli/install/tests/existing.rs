//! Files that another program or a person wrote, before the install or after it.

use proptest::prelude::*;

use super::*;

#[test]
fn an_existing_file_is_kept_and_larder_goes_first() {
    let node = Node::new();
    node.put("docker.io", "hosts.toml", EXISTING);
    fs::set_permissions(node.hosts("docker.io"), Permissions::from_mode(0o640)).unwrap();
    let inode = fs::metadata(node.hosts("docker.io")).unwrap().ino();
    let before = node.tree();

    let said = node.install(&["docker.io"]);
    assert!(said.contains("hosts.toml.before-larder"), "{said}");
    let text = node.read("docker.io");
    assert_eq!(
        hosts::hosts_in_order(&text).unwrap(),
        [
            ADDRESS,
            "https://mirror.example.com",
            "https://far.example.com"
        ]
    );
    let block = block::find(&text).unwrap().unwrap();
    assert_eq!(block::strip(&text, &block), EXISTING);
    assert!(text[block.end..].starts_with("\n# the near one\n[host."));
    assert_eq!(
        fs::read_to_string(node.certs().join("docker.io/hosts.toml.before-larder")).unwrap(),
        EXISTING
    );
    // A header may hold a secret, so a file that was closed to others stays closed.
    assert_eq!(mode(&node.hosts("docker.io")), 0o640);

    node.uninstall();
    assert_eq!(node.tree(), before);
    assert_eq!(fs::metadata(node.hosts("docker.io")).unwrap().ino(), inode);
}

#[test]
fn a_link_is_put_back_as_a_link() {
    let node = Node::new();
    node.put("docker.io", "mine.toml", EXISTING);
    std::os::unix::fs::symlink("mine.toml", node.hosts("docker.io")).unwrap();
    let before = node.tree();
    node.install(&["docker.io"]);
    assert!(node.read("docker.io").contains(ADDRESS));
    node.uninstall();
    assert_eq!(node.tree(), before);
}

#[test]
fn an_existing_file_may_be_written_in_any_way_that_leaves_a_place() {
    for text in [
        "",
        "\n\n",
        "# only a comment",
        "server = \"https://a.example.com\"",
        "server = \"https://a.example.com\"\r\n\r\n[host.\"https://b.example.com\"]\r\n",
        "[host]\n[host.\"https://b.example.com\"]\n",
        "[ 'host' . \"https://b.example.com\" ]\nskip_verify = true\n",
        "[header]\nx = '''\n[host.\"https://fake\"]\n''' # y\n[host.\"https://b.example.com\"]\n",
    ] {
        let node = Node::new();
        node.put("docker.io", "hosts.toml", text);
        let before = node.tree();
        node.install(&["docker.io"]);
        let first = hosts::hosts_in_order(&node.read("docker.io"))
            .unwrap()
            .remove(0);
        assert_eq!(first, ADDRESS, "{text}");
        node.uninstall();
        assert_eq!(node.tree(), before, "{text}");
    }
}

#[test]
fn a_file_without_a_place_is_refused_and_nothing_touched() {
    for (text, why) in [
        (
            "[host.\"https://b\"",
            "it is not TOML (line 1: unclosed table, expected `]`)",
        ),
        ("host = 5", "`host` is not a table in it"),
        (
            "[host]\n\"https://b\" = { skip_verify = true }\n",
            "larder cannot put its section before the hosts: write each host as its own [host.\"URL\"] section",
        ),
        (
            "host.\"https://b\".skip_verify = true\n",
            "larder cannot put its section before the hosts: write each host as its own [host.\"URL\"] section",
        ),
        // A line of a string that looks like a comment above the host.
        (
            "[header]\nx = '''\n# ''' # y\n[host.\"https://b\"]\n",
            "larder cannot put its section before the hosts: write each host as its own [host.\"URL\"] section",
        ),
        (
            "host = { \"https://b\" = {} }\n",
            "larder cannot put its section before the hosts: write each host as its own [host.\"URL\"] section",
        ),
        (
            "# >>> larder\n",
            "larder's marks are damaged: remove its lines by hand, from `# >>> larder` to `# <<< larder`",
        ),
    ] {
        let node = Node::new();
        node.put("docker.io", "hosts.toml", text);
        let before = node.tree();
        // The valid file comes first. It must not be changed either.
        let error = node.refused(&["ghcr.io", "docker.io"]);
        let file = node.hosts("docker.io");
        assert_eq!(
            error,
            format!("{}: {why}; no file was changed", file.display())
        );
        assert_eq!(node.tree(), before);
    }
}

#[test]
fn a_file_that_is_not_text_is_refused_and_nothing_touched() {
    let node = Node::new();
    node.put("docker.io", "hosts.toml", "");
    fs::write(node.hosts("docker.io"), b"# \xff\n").unwrap();
    let before = node.tree();
    let error = node.refused(&["docker.io"]);
    assert!(
        error.ends_with("hosts.toml: it is not UTF-8 text"),
        "{error}"
    );
    assert_eq!(node.tree(), before);
}

#[test]
fn another_address_replaces_the_block_and_the_first_file_still_comes_back() {
    let node = Node::bare();
    fs::create_dir(node.certs()).unwrap();
    node.put("docker.io", "hosts.toml", EXISTING);
    let before = node.tree();
    node.install(&["docker.io", "ghcr.io"]);
    let mut args = node.args(&["docker.io", "ghcr.io"]);
    args.address = "http://127.0.0.1:9999/".to_owned();
    run_install(&args).unwrap();
    for dir in ["docker.io", "ghcr.io"] {
        assert!(!node.read(dir).contains(ADDRESS));
        assert!(node.read(dir).contains("[host.\"http://127.0.0.1:9999\"]"));
    }
    node.uninstall();
    assert_eq!(node.tree(), before);
}

#[test]
fn a_host_that_someone_wrote_by_hand_is_left_alone() {
    let node = Node::new();
    let by_hand = format!("[host.\"https://a.example.com\"]\n[host.\"{ADDRESS}\"]\n");
    node.put("docker.io", "hosts.toml", &by_hand);
    let before = node.tree();
    let said = node.install(&["docker.io"]);
    assert!(
        said.contains("containerd asks another host before larder"),
        "{said}"
    );
    assert!(
        said.contains("without larder's marks, so larder did not change it"),
        "{said}"
    );
    let said = node.uninstall();
    assert!(said.contains("larder has no lines in"), "{said}");
    assert_eq!(node.tree(), before);
}

#[test]
fn a_file_changed_since_the_install_loses_only_larders_lines() {
    let node = Node::new();
    node.put("docker.io", "hosts.toml", EXISTING);
    node.install(&["docker.io", "ghcr.io"]);
    for dir in ["docker.io", "ghcr.io"] {
        let changed = node.read(dir) + "\n[host.\"https://added.example.com\"]\n";
        fs::write(node.hosts(dir), changed).unwrap();
    }
    let (code, said) = node.try_uninstall(false);
    assert_eq!(code, 1, "a person has to look");
    assert!(said.contains("changed since the install"), "{said}");
    assert!(said.contains("the copy from before the install"), "{said}");
    let added = "\n[host.\"https://added.example.com\"]\n";
    assert_eq!(node.read("docker.io"), format!("{EXISTING}{added}"));
    assert!(added.ends_with(&node.read("ghcr.io")));

    // No file names larder any more, so the next uninstall succeeds, and only mentions the copy.
    let said = node.uninstall();
    assert!(said.contains("the copy from before the install"), "{said}");

    // A new install keeps the newer file, and uninstall restores it.
    let before = node.read("docker.io");
    node.install(&["docker.io"]);
    node.uninstall();
    assert_eq!(node.read("docker.io"), before);
}

proptest! {
    /// If a file can take the block, removing the block gives the file back unchanged.
    #[test]
    fn the_rest_of_a_file_is_never_changed(lines in prop::collection::vec(prop::sample::select(vec![
        "", "# note", "server = \"https://s\"", "[host]", "[host.\"https://a\"]", "[host.\"https://b\".header]",
        "  capabilities = [\"pull\"]", "x = '''", "'''", "[header]", "\"https://c\" = {}",
    ]), 0..8)) {
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<Vec<_>>().concat();
        let block = hosts::Block { address: ADDRESS, made: 2 }.render();
        if let Ok(woven) = hosts::weave(&text, &block) {
            let place = block::find(&woven).unwrap().unwrap();
            prop_assert_eq!(block::strip(&woven, &place), text);
            prop_assert_eq!(&hosts::hosts_in_order(&woven).unwrap()[0], ADDRESS);
            prop_assert_eq!(block::made(&woven), 2);
        }
    }
}

/// A file of another version of larder: the text between the marks may differ.
#[test]
fn an_upgrade_in_between_leaves_no_trace_either() {
    let node = Node::bare();
    fs::create_dir(node.certs()).unwrap();
    node.put("docker.io", "hosts.toml", EXISTING);
    let before = node.tree();
    node.install(&["docker.io", "ghcr.io"]);
    let older = |dir: &str| {
        let words = "# containerd asks larder on this node first.";
        let text = node.read(dir);
        assert!(text.contains(words), "{text}");
        fs::write(
            node.hosts(dir),
            text.replace(words, "# Words of another time."),
        )
        .unwrap();
    };
    for dir in ["docker.io", "ghcr.io"] {
        older(dir);
    }
    // The newer version uninstalls at once, or after it has installed anew.
    let between = node.tree();
    node.uninstall();
    assert_eq!(node.tree(), before);
    for (path, (mode, _, _, content)) in between {
        if mode & 0o170_000 == 0o040_000 {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::write(path, content).unwrap();
        }
    }
    let said = node.install(&["docker.io", "ghcr.io"]);
    assert!(said.contains("changed "), "{said}");
    assert!(!node.read("ghcr.io").contains("another time"));
    let (code, said) = node.try_uninstall(false);
    assert_eq!(code, 0, "{said}");
    assert_eq!(node.read("docker.io"), EXISTING);
    assert!(!node.certs().join("ghcr.io").exists());
}

#[test]
fn what_a_run_that_was_cut_off_left_is_cleared() {
    let node = Node::bare();
    let before = node.tree();
    let leave = || {
        let at = |path: &str| node.root.path().join(path);
        fs::create_dir_all(at(".certs.d.larder-0123456789abcdef/_default")).unwrap();
        fs::create_dir_all(at("certs.d/.ghcr.io.larder-00000000000000a5")).unwrap();
        fs::create_dir_all(at("certs.d/ghcr.io")).unwrap();
        fs::write(
            at("certs.d/ghcr.io/.hosts.toml.larder-fedcba9876543210"),
            "half",
        )
        .unwrap();
    };
    let gone = || {
        fs::remove_dir(node.certs().join("ghcr.io")).unwrap();
        fs::remove_dir(node.certs()).unwrap();
    };
    leave();
    let said = node.uninstall();
    assert!(said.contains("cleared "), "{said}");
    gone();
    assert_eq!(node.tree(), before);
    leave();
    node.install(&["ghcr.io"]);
    assert_eq!(fs::read_dir(node.certs()).unwrap().count(), 1);
    assert_eq!(
        fs::read_dir(node.certs().join("ghcr.io")).unwrap().count(),
        1
    );
    node.uninstall();
    gone();
    assert_eq!(node.tree(), before);
}

#[test]
fn what_only_looks_like_larders_stays() {
    let node = Node::new();
    for path in [
        ".larder-backup",
        ".certs.d.larder-before-2026",
        ".other.larder-0123456789abcdef",
        "certs.d/.ghcr.io.larder-0123456789ABCDEF",
        "certs.d/.larder-0123456789abcdef",
        "certs.d/ghcr.io/.larder-backup",
        "certs.d/ghcr.io/.ca.crt.larder-0123456789abcdef",
    ] {
        let dir = node.root.path().join(path);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("hosts.toml"), EXISTING).unwrap();
    }
    let before = node.tree();
    node.install(&["ghcr.io"]);
    node.uninstall();
    assert_eq!(node.tree(), before);
}
