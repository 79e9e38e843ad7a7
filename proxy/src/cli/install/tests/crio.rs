//! The drop-in for CRI-O.

use super::*;

/// A node with CRI-O that reloads by itself, and an empty registries.conf.d.
fn crio_node() -> (tempfile::TempDir, InstallArgs) {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    fs::create_dir_all(at("etc/containers/registries.conf.d")).unwrap();
    fs::create_dir_all(at("etc/crio/crio.conf.d")).unwrap();
    fs::write(
        at("etc/crio/crio.conf.d/10-registries.conf"),
        "[crio.image]\nauto_reload_registries = true\n",
    )
    .unwrap();
    let args = InstallArgs {
        node: NodeArgs {
            preset: Preset::Crio,
            runtime: None,
            node_root: root.path().to_owned(),
            containerd_certs_dir: None,
            crio_conf_dir: CRIO_CONF_DIR.into(),
            crio_reload: false,
        },
        registries: Vec::new(),
        exact: false,
        address: ADDRESS.to_owned(),
        containerd_config: None,
        probe: None,
        watch: false,
        hold: false,
        streaming: None,
        dry_run: false,
    };
    (root, args)
}

fn named(args: &InstallArgs, registries: &[&str]) -> InstallArgs {
    let registries = registries.iter().map(|&name| name.to_owned()).collect();
    InstallArgs {
        registries,
        ..args.clone()
    }
}

const DROP_IN: &str = "etc/containers/registries.conf.d/larder.conf";

/// Prefix, location and mirrors of each table in the drop-in.
fn tables(root: &tempfile::TempDir) -> Vec<(String, String, String)> {
    let text = fs::read_to_string(root.path().join(DROP_IN)).unwrap();
    let conf: toml::Table = text.parse().unwrap();
    let tables = conf["registry"].as_array().unwrap();
    tables
        .iter()
        .map(|table| {
            let said = |key: &str| table[key].as_str().unwrap().to_owned();
            let mirrors = table["mirror"].as_array().unwrap();
            assert_eq!(mirrors.len(), 1);
            assert!(mirrors[0]["insecure"].as_bool().unwrap());
            let mirror = mirrors[0]["location"].as_str().unwrap().to_owned();
            (said("prefix"), said("location"), mirror)
        })
        .collect()
}

#[test]
fn each_registry_has_a_table_and_the_drop_in_goes_again() {
    let (root, args) = crio_node();
    let before = walk(root.path());
    let said = run_install(&named(&args, &["quay.io", "corp.example:5000=corp"])).unwrap();
    assert!(said.contains("auto_reload_registries"), "{said}");
    assert!(!said.contains("warning"), "{said}");
    let row = |name: &str, path: &str| {
        let (name, mirror) = (name.to_owned(), format!("127.0.0.1:7420/{path}"));
        (name.clone(), name, mirror)
    };
    assert_eq!(
        tables(&root),
        [row("corp.example:5000", "corp"), row("quay.io", "quay.io")]
    );
    assert_eq!(mode(&root.path().join(DROP_IN)), 0o644);

    // Each run adds to the registries, unless `exact` is set.
    run_install(&named(&args, &["ghcr.io"])).unwrap();
    assert_eq!(tables(&root).len(), 3);
    let said = run_install(&named(&args, &["ghcr.io"])).unwrap();
    assert!(said.contains("already installed"), "{said}");
    let mut exact = named(&args, &["ghcr.io"]);
    exact.exact = true;
    run_install(&exact).unwrap();
    assert_eq!(tables(&root), [row("ghcr.io", "ghcr.io")]);

    let (code, said) = run_uninstall(args.node.clone(), false);
    assert_eq!(code, 0, "{said}");
    assert_eq!(walk(root.path()), before);
    let (code, said) = run_uninstall(args.node, false);
    assert_eq!((code, said.contains("larder has no lines in")), (0, true));
}

#[test]
fn without_names_the_public_registries_are_meant() {
    let (root, args) = crio_node();
    run_install(&args).unwrap();
    let names: Vec<String> = tables(&root).into_iter().map(|(name, ..)| name).collect();
    for name in ["docker.io", "ghcr.io", "quay.io", "registry.k8s.io"] {
        assert!(names.iter().any(|one| one == name), "{names:?}");
    }
    // A further registry is added to them.
    run_install(&named(&args, &["*", "corp.example"])).unwrap();
    assert_eq!(tables(&root).len(), names.len() + 1);
}

#[test]
fn a_table_in_another_file_stays_and_the_lines_to_add_are_given() {
    let (root, args) = crio_node();
    let main = root.path().join("etc/containers/registries.conf");
    let other = root
        .path()
        .join("etc/containers/registries.conf.d/50-corp.conf");
    fs::write(
        &main,
        "[[registry]]\nlocation = \"docker.io\"\nblocked = true\n",
    )
    .unwrap();
    let ours = "[[registry]]\nprefix = \"ghcr.io\"\nlocation = \"ghcr.io\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:7420/ghcr.io\"\n";
    fs::write(&other, ours).unwrap();
    let before = walk(root.path());
    let said = run_install(&named(&args, &["docker.io", "ghcr.io"])).unwrap();
    assert!(
        said.contains(
            "warning: /etc/containers/registries.conf has a [[registry]] table for docker.io"
        ),
        "{said}"
    );
    assert!(
        said.contains(
            "\n[[registry.mirror]]\nlocation = \"127.0.0.1:7420/docker.io\"\ninsecure = true\n"
        ),
        "{said}"
    );
    assert!(
        said.contains("50-corp.conf: ghcr.io uses larder already"),
        "{said}"
    );
    assert_eq!(walk(root.path()), before, "nothing was left to write");

    // The registry used larder before another file had a table for it.
    fs::rename(&main, root.path().join("aside")).unwrap();
    run_install(&named(&args, &["docker.io"])).unwrap();
    fs::rename(root.path().join("aside"), &main).unwrap();
    run_install(&named(&args, &["docker.io"])).unwrap();
    assert_eq!(walk(root.path()), before, "their word counts");
    run_install(&named(&args, &["docker.io", "quay.io"])).unwrap();
    assert_eq!(tables(&root).len(), 1);
}

#[test]
fn a_drop_in_that_is_not_ours_and_a_port_without_an_alias_are_refused() {
    let (root, args) = crio_node();
    let error = run_install(&named(&args, &["corp.example:5000"]))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("write --registry corp.example:5000=NAME"),
        "{error}"
    );
    let error = run_install(&named(&args, &["corp.example:5000=A/b"]))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("give the alias from larder's configuration"),
        "{error}"
    );
    fs::write(root.path().join(DROP_IN), "# mine\n").unwrap();
    let before = walk(root.path());
    let error = run_install(&args).unwrap_err().to_string();
    assert!(
        error.contains("larder.conf: larder did not write this file"),
        "{error}"
    );
    assert_eq!(walk(root.path()), before);
}

#[test]
fn a_drop_in_changed_since_loses_only_larders_lines() {
    let (root, args) = crio_node();
    run_install(&named(&args, &["docker.io"])).unwrap();
    let file = root.path().join(DROP_IN);
    let theirs = "[[registry]]\nlocation = \"corp.example\"\n";
    fs::write(&file, fs::read_to_string(&file).unwrap() + theirs).unwrap();
    let (code, said) = run_uninstall(args.node.clone(), false);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("changed since the install"), "{said}");
    assert_eq!(fs::read_to_string(&file).unwrap(), theirs);
    assert_eq!(run_uninstall(args.node, false).0, 0);
}

#[test]
fn a_crio_that_does_not_watch_is_said_to_need_a_signal() {
    for text in ["", "[crio.image]\nauto_reload_registries = false\n"] {
        let (root, args) = crio_node();
        // The last value counts.
        fs::write(root.path().join("etc/crio/crio.conf.d/20-later.conf"), text).unwrap();
        let said = run_install(&args).unwrap();
        let warned =
            said.contains("warning: CRI-O reads its drop-ins only when it starts or gets a SIGHUP");
        assert_eq!(warned, !text.is_empty(), "{said}");
        fs::remove_dir_all(root.path().join("etc/crio")).unwrap();
        let said = run_uninstall(args.node, false).1;
        assert!(said.contains("systemctl reload crio"), "{said}");
    }
}

/// CRI-O watches the directory of its drop-ins. larder must not claim that CRI-O has seen a change in a directory that
/// larder itself made or removed.
#[test]
fn a_directory_that_larder_made_or_removed_is_said_to_need_a_signal() {
    let (root, args) = crio_node();
    fs::remove_dir(root.path().join("etc/containers/registries.conf.d")).unwrap();
    let before = walk(root.path());
    let asks = |said: &str| {
        said.contains("systemctl reload crio") && !said.contains("so it reads them now")
    };
    let said = run_install(&args).unwrap();
    assert!(asks(&said), "{said}");
    // Now the directory exists.
    let said = run_install(&named(&args, &["corp.example"])).unwrap();
    assert!(said.contains("so it reads them now"), "{said}");
    let (code, said) = run_uninstall(args.node, false);
    assert_eq!((code, asks(&said)), (0, true), "{said}");
    // The file is removed at its own path, and then the directory, so that CRI-O sees the removal of the file.
    let (file, dir) = (
        "removed /etc/containers/registries.conf.d/larder.conf\n",
        "removed /etc/containers/registries.conf.d\n",
    );
    let at = |line: &str| said.find(line).unwrap_or_else(|| panic!("{line}: {said}"));
    assert!(at(file) < at(dir), "{said}");
    assert_eq!(walk(root.path()), before);
}
