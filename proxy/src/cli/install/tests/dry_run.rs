//! What a dry run shows, word by word.

use super::*;

/// The output of a dry run with `args`. NODE stands for the node's directory.
fn shown(node: &Node, args: &InstallArgs) -> String {
    let args = InstallArgs {
        dry_run: true,
        ..args.clone()
    };
    let before = node.tree();
    let said = run_install(&args).unwrap();
    assert_eq!(node.tree(), before, "a dry run changes nothing");
    said.replace(&node.root.path().display().to_string(), "NODE")
}

#[test]
fn a_dry_run_says_the_same_as_ever() {
    let node = Node::bare();
    assert_eq!(
        shown(&node, &node.args(&[])),
        include_str!("golden/fresh.txt")
    );
    node.put("docker.io", "hosts.toml", EXISTING);
    assert_eq!(
        shown(&node, &node.args(&["docker.io"])),
        include_str!("golden/existing.txt")
    );
    node.install(&["docker.io"]);
    let (_, said) = node.try_uninstall(true);
    assert_eq!(
        said.replace(&node.root.path().display().to_string(), "NODE"),
        include_str!("golden/uninstall.txt")
    );

    let mut crio = node.args(&["docker.io", "corp.example:5000=corp"]);
    crio.node.runtime = Some(Runtime::Crio);
    crio.node.node_root = node.root.path().to_owned();
    crio.node.crio_conf_dir = CRIO_CONF_DIR.into();
    fs::create_dir(node.root.path().join("etc")).unwrap();
    assert_eq!(shown(&node, &crio), include_str!("golden/crio.txt"));
}

#[test]
fn a_dry_run_shows_a_diff_and_writes_nothing() {
    let node = Node::bare();
    let before = node.tree();
    let mut args = node.args(&[]);
    args.dry_run = true;
    let said = run_install(&args).unwrap();
    let file = node.hosts("_default");
    assert!(
        said.contains(&format!("--- /dev/null\n+++ {}\n@@ ", file.display())),
        "{said}"
    );
    assert!(
        said.contains("\n+[host.\"http://127.0.0.1:7420\"]\n"),
        "{said}"
    );
    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(node.tree(), before);

    fs::create_dir(node.certs()).unwrap();
    node.put("docker.io", "hosts.toml", EXISTING);
    let before = node.tree();
    args.registries = vec!["docker.io".to_owned()];
    let said = run_install(&args).unwrap();
    assert!(said.contains("would keep "), "{said}");
    assert!(said.contains("\n # the near one\n"), "{said}");
    assert_eq!(node.tree(), before);

    args.dry_run = false;
    args.registries.push("ghcr.io".to_owned());
    run_install(&args).unwrap();
    let before = node.tree();
    let (_, said) = node.try_uninstall(true);
    assert!(said.contains("+++ /dev/null\n"), "{said}");
    assert!(
        said.contains("\n-[host.\"http://127.0.0.1:7420\"]\n"),
        "{said}"
    );
    assert_eq!(node.tree(), before);
}
