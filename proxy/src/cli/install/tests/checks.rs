//! The warnings of install about directories beside its own, and about containerd's configuration.

use super::*;

#[test]
fn registries_that_hide_the_default_are_named() {
    let node = Node::new();
    node.put("ghcr.io", "hosts.toml", "");
    fs::create_dir(node.certs().join("127.0.0.1_5000_")).unwrap();
    node.install(&["quay.io"]);
    let said = node.install(&[]);
    assert!(
        said.contains("which hides _default: 127.0.0.1:5000, ghcr.io. To pull them through larder too: larder install --registry '*' --registry 127.0.0.1:5000 --registry ghcr.io"),
        "{said}"
    );
    assert!(!said.contains("quay.io"), "{said}");
}

#[test]
fn certificates_that_a_hosts_file_would_hide_are_named() {
    let node = Node::new();
    node.put("a.example.com", "ca.crt", "x");
    let said = node.install(&["a.example.com"]);
    assert!(said.contains("no longer loads ca.crt by itself"), "{said}");
    assert!(
        said.contains("server = \"https://a.example.com\""),
        "{said}"
    );
    // A directory with a hosts.toml: containerd did not use its loose certificates before either.
    node.put("b.example.com", "ca.crt", "x");
    node.put(
        "b.example.com",
        "hosts.toml",
        "server = \"https://b.example.com\"\n",
    );
    let said = node.install(&["b.example.com"]);
    assert!(!said.contains("warning"), "{said}");
}

const LINES_2: &str =
    "[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"CERTS\"\n";
const LINES_3: &str =
    "[plugins.\"io.containerd.cri.v1.images\".registry]\n  config_path = \"CERTS\"\n";
const LINES_1: &str = "[plugins.cri.registry]\n  config_path = \"CERTS\"\n";

#[test]
fn containerds_configuration_is_checked_and_the_lines_to_put_are_given() {
    // The file's text, and the words that every warning must have, in order. CERTS stands for the directory.
    let rows: &[(&str, &[&[&str]])] = &[
        // Right, in each version
        (&format!("version = 3\n{LINES_3}"), &[]),
        (&format!("version = 2\n{LINES_2}"), &[]),
        (&format!("version = 1\n{LINES_1}"), &[]),
        (LINES_1, &[]),
        (
            "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = 'CERTS/'\n",
            &[],
        ),
        // Missing
        (
            "",
            &[&[
                "sets no config_path",
                "restart containerd once",
                "version = 2\n",
                LINES_2,
            ]],
        ),
        ("version = 2\n", &[&["sets no config_path", LINES_2]]),
        ("version = 3\n", &[&["sets no config_path", LINES_3]]),
        (
            "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = ''\n",
            &[&["sets no config_path", LINES_3]],
        ),
        ("[plugins.cri]\n", &[&["sets no config_path", LINES_1]]),
        (
            "version = 2\nimports = ['/etc/containerd/conf.d/*.toml']\n",
            &[&["sets no config_path", "Add these lines to it", LINES_2]],
        ),
        // In the place of another version
        (
            &format!("version = 3\n{LINES_2}"),
            &[&["sets no config_path", LINES_3]],
        ),
        // A list
        (
            "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = 'CERTS:/etc/docker/certs.d'\n",
            &[&[
                "to the list \"CERTS:/etc/docker/certs.d\"",
                "find no hosts.toml",
                LINES_3,
            ]],
        ),
        // A list that is read for now, as on EKS
        (
            "version = 3\n[plugins.'io.containerd.cri.v1.images']\ndiscard_unpacked_layers = true\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = 'CERTS:/etc/docker/certs.d'\n",
            &[&[
                "only read because discard_unpacked_layers",
                "Change it to this",
                LINES_3,
            ]],
        ),
        (
            "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd]\ndiscard_unpacked_layers = true\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = 'CERTS:/etc/docker/certs.d'\n",
            &[&["only read because discard_unpacked_layers", LINES_2]],
        ),
        // And one that has another directory
        (
            "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/a:/b'\n",
            &[&["to the list \"/a:/b\", and CERTS is not in it", LINES_2]],
        ),
        // Another directory
        (
            "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/opt/certs.d'\n",
            &[&[
                "sets config_path to \"/opt/certs.d\"",
                "--containerd-certs-dir /opt/certs.d",
                LINES_2,
            ]],
        ),
        // The older way of naming mirrors
        (
            "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry.mirrors.'docker.io']\nendpoint = ['https://m']\n",
            &[
                &["sets no config_path", LINES_2],
                &[
                    "has [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors]",
                    "remove the sections",
                ],
            ],
        ),
        (
            &format!(
                "version = 2\n{LINES_2}[plugins.'io.containerd.grpc.v1.cri'.registry.configs.'a.b'.tls]\nca_file = 'x'\n"
            ),
            &[&["registry.configs.….tls]"]],
        ),
        (
            &format!(
                "version = 2\n{LINES_2}[plugins.'io.containerd.grpc.v1.cri'.registry.configs.'a.b'.auth]\nusername = 'x'\n"
            ),
            &[],
        ),
        ("[plugins", &[&["is not TOML. Check by hand"]]),
    ];
    for (text, expected) in rows {
        let node = Node::new();
        let certs = node.certs().display().to_string();
        fs::write(node.config(), text.replace("CERTS", &certs)).unwrap();
        let before = fs::read(node.config()).unwrap();
        let warnings = containerd::check(
            &Root::new(Path::new("/")).unwrap(),
            &node.config(),
            &node.certs(),
        );
        assert_eq!(warnings.len(), expected.len(), "{text}\n{warnings:?}");
        for (warning, parts) in warnings.iter().zip(*expected) {
            for part in *parts {
                let part = part.replace("CERTS", &certs);
                assert!(
                    warning.contains(part.trim_end()),
                    "{text}\n{warning}\nlacks\n{part}"
                );
            }
        }
        // A warning is no failure, and the file is not ours to write.
        let said = node.install(&[]);
        assert_eq!(said.matches("warning: ").count(), expected.len(), "{said}");
        assert!(node.hosts("_default").exists());
        assert_eq!(fs::read(node.config()).unwrap(), before);
    }
}

#[test]
fn a_missing_configuration_is_a_warning() {
    let node = Node::new();
    fs::remove_file(node.config()).unwrap();
    let said = node.install(&[]);
    assert!(said.contains("config.toml does not exist"), "{said}");
    assert!(node.hosts("_default").exists());
}

#[test]
fn a_file_that_the_configuration_imports_counts_as_it_does_for_containerd() {
    let node = Node::new();
    let conf_d = node.root.path().join("conf.d");
    fs::create_dir(&conf_d).unwrap();
    fs::write(node.config(), "version = 2\nimports = ['conf.d/*.toml']\n").unwrap();
    assert!(
        node.install(&[])
            .contains("config.toml sets no config_path")
    );
    let set = |name: &str, path: &Path| {
        let section = "[plugins.'io.containerd.grpc.v1.cri'.registry]";
        let text = format!("version = 2\n{section}\nconfig_path = {path:?}\n");
        fs::write(conf_d.join(name), text).unwrap();
    };
    set("50-ours.toml", &node.certs());
    set("60-note.txt", Path::new("/nowhere"));
    let said = node.install(&[]);
    assert!(!said.contains("warning"), "{said}");
    set("90-last.toml", Path::new("/opt/certs.d"));
    let said = node.install(&[]);
    assert!(
        said.contains("90-last.toml sets config_path to \"/opt/certs.d\""),
        "{said}"
    );
}
