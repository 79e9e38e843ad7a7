//! A node whose directories are mounted below another root, as in an init container.

use super::*;

/// A node's files below a directory, at the node's paths.
struct Mounted {
    root: tempfile::TempDir,
}

impl Mounted {
    fn new(directories: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for dir in directories {
            fs::create_dir_all(root.path().join(&dir[1..])).unwrap();
        }
        Self { root }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(&path[1..])
    }

    fn node(&self, preset: Preset) -> NodeArgs {
        NodeArgs {
            preset,
            runtime: None,
            node_root: self.root.path().to_owned(),
            containerd_certs_dir: None,
            crio_conf_dir: CRIO_CONF_DIR.into(),
            crio_reload: false,
        }
    }

    fn install(&self, preset: Preset, more: impl FnOnce(&mut InstallArgs)) -> Result<String> {
        let mut args = InstallArgs {
            node: self.node(preset),
            registries: Vec::new(),
            exact: true,
            address: ADDRESS.to_owned(),
            containerd_config: None,
            probe: None,
            watch: false,
            hold: false,
            streaming: None,
            dry_run: false,
        };
        more(&mut args);
        run_install(&args)
    }
}

#[test]
fn every_preset_writes_where_its_containerd_reads_and_leaves_no_trace() {
    for preset in Preset::value_variants() {
        if *preset == Preset::Crio {
            continue;
        }
        let (certs, config) = (preset.certs_dir(), preset.containerd_config());
        let node = Mounted::new(&[certs, &config[..config.rfind('/').unwrap()]]);
        let text = format!(
            "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = {certs:?}\n"
        );
        fs::write(node.path(config), text).unwrap();
        let before = walk(node.root.path());
        let said = node.install(*preset, |_| ()).unwrap();
        assert!(!said.contains("warning"), "{preset:?}: {said}");
        // The output names the node's paths, not the container's.
        assert!(
            said.contains(&format!("wrote {certs}/_default/hosts.toml")),
            "{said}"
        );
        assert!(
            !said.contains(&node.root.path().display().to_string()),
            "{said}"
        );
        assert!(node.path(&format!("{certs}/_default/hosts.toml")).exists());
        let (code, said) = run_uninstall(node.node(*preset), false);
        assert_eq!(code, 0, "{said}");
        assert_eq!(walk(node.root.path()), before, "{preset:?}");
        let (code, said) = run_uninstall(node.node(*preset), false);
        assert_eq!(
            (code, said.contains("larder has no lines in ")),
            (0, true),
            "{said}"
        );
    }
}

#[test]
fn a_certs_directory_that_is_not_there_is_made_and_goes_again() {
    let node = Mounted::new(&["/etc/containerd"]);
    let before = walk(node.root.path());
    node.install(Preset::Kubeadm, |_| ()).unwrap();
    assert!(
        node.path("/etc/containerd/certs.d/_default/hosts.toml")
            .exists()
    );
    // An install for other registries inherits the record of directories that were made for the first one.
    node.install(Preset::Kubeadm, |args| {
        args.registries = vec!["ghcr.io".to_owned(), "quay.io".to_owned()];
    })
    .unwrap();
    assert!(!node.path("/etc/containerd/certs.d/_default").exists());
    assert!(
        node.path("/etc/containerd/certs.d/quay.io/hosts.toml")
            .exists()
    );
    let said = node
        .install(Preset::Kubeadm, |args| {
            args.registries = vec!["quay.io".to_owned()];
        })
        .unwrap();
    assert!(
        !node.path("/etc/containerd/certs.d/ghcr.io").exists(),
        "{said}"
    );
    run_uninstall(node.node(Preset::Kubeadm), false);
    assert_eq!(walk(node.root.path()), before);
}

#[test]
fn exact_puts_back_what_it_does_not_name_and_keeps_the_rest() {
    let node = Mounted::new(&["/etc/containerd/certs.d/docker.io"]);
    let file = node.path("/etc/containerd/certs.d/docker.io/hosts.toml");
    fs::write(&file, EXISTING).unwrap();
    let before = walk(node.root.path());
    let choose = |names: &'static [&str]| {
        node.install(Preset::Kubeadm, |args| {
            args.registries = names.iter().map(|&name| name.to_owned()).collect();
        })
        .unwrap()
    };
    choose(&["*", "docker.io"]);
    assert!(fs::read_to_string(&file).unwrap().contains(ADDRESS));
    assert!(
        node.path("/etc/containerd/certs.d/_default/hosts.toml")
            .exists()
    );
    let with_both = walk(node.root.path());
    assert!(choose(&["*", "docker.io"]).contains("already installed"));
    assert_eq!(walk(node.root.path()), with_both);
    let said = choose(&[]);
    assert!(said.contains("which hides _default: docker.io"), "{said}");
    assert_eq!(fs::read_to_string(&file).unwrap(), EXISTING);
    run_uninstall(node.node(Preset::Kubeadm), false);
    assert_eq!(walk(node.root.path()), before);
}

#[test]
fn a_node_that_is_not_mounted_is_refused() {
    let node = Mounted::new(&[]);
    let error = node.install(Preset::K3s, |_| ()).unwrap_err().to_string();
    assert!(
        error.starts_with(
            "no part of /var/lib/rancher/k3s/agent/etc/containerd/certs.d exists below --node-root"
        ),
        "{error}"
    );
    assert_eq!(fs::read_dir(node.root.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_leads_to_what_is_not_mounted_is_refused() {
    let (registry, drop_in) = (
        "/etc/containerd/certs.d/docker.io",
        "/etc/containers/registries.conf.d",
    );
    for (preset, directory, link) in [
        (Preset::Kubeadm, registry, "hosts.toml"),
        (Preset::Kubeadm, registry, ""),
        (Preset::Kubeadm, "/etc/containerd/certs.d", ""),
        (Preset::Crio, drop_in, "larder.conf"),
        (Preset::Crio, drop_in, ""),
    ] {
        let place = Path::new(directory).join(link);
        let place = if link.is_empty() {
            directory
        } else {
            place.to_str().unwrap()
        };
        let above = Path::new(place).parent().unwrap().to_str().unwrap();
        let node = Mounted::new(&[above]);
        std::os::unix::fs::symlink("/srv/elsewhere", node.path(place)).unwrap();
        let before = walk(node.root.path());
        let install = |args: &mut InstallArgs| args.registries = vec!["docker.io".to_owned()];
        let error = node.install(preset, install).unwrap_err().to_string();
        let wanted = format!("{place} is a link to /srv/elsewhere, which is not mounted");
        assert!(error.contains(&wanted), "{error}");
        assert_eq!(walk(node.root.path()), before, "{place}");
    }
}

#[test]
fn auto_finds_the_runtimes_of_the_node() {
    let auto = |args: &mut InstallArgs| args.node.runtime = Some(Runtime::Auto);
    for (directories, containerd, crio) in [
        (&["/etc/containerd/certs.d"][..], true, false),
        (&["/etc/crio", "/etc/containers"], false, true),
        (
            &["/etc/containerd/certs.d", "/etc/crio", "/etc/containers"],
            true,
            true,
        ),
    ] {
        let node = Mounted::new(directories);
        node.install(Preset::Kubeadm, auto).unwrap();
        let there = |path| node.path(path).exists();
        assert_eq!(
            there("/etc/containerd/certs.d/_default/hosts.toml"),
            containerd
        );
        assert_eq!(there("/etc/containers/registries.conf.d/larder.conf"), crio);
    }
    let node = Mounted::new(&["/etc/containers"]);
    let error = node.install(Preset::Kubeadm, auto).unwrap_err().to_string();
    assert!(error.contains("name the runtime with --runtime"), "{error}");
}

/// In a pod the chart runs `larder install`, so a person changes the chart's value.
#[test]
fn a_registry_that_hides_the_default_is_named_for_the_charts_value() {
    let node = Mounted::new(&["/etc/containerd/certs.d/ghcr.io"]);
    let said = node.install(Preset::Kubeadm, |_| {}).unwrap();
    let wanted = "set the chart's value runtime.registries to [\"*\", \"ghcr.io\"]";
    assert!(
        said.contains(wanted) && !said.contains("larder install"),
        "{said}"
    );
}
