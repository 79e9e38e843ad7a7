//! A username and a password in two files.

use std::os::unix::fs::symlink;

use super::*;

fn source(node: &Node) -> config::Credentials {
    config::Credentials::Files {
        username: node.path("username"),
        password: node.path("password"),
    }
}

const IMAGE: &str = "reg.example.com/app";

#[tokio::test]
async fn every_byte_arrives_but_for_one_newline_at_the_end() {
    let node = Node::new();
    for (file, password) in [
        ("secret", "secret"),
        ("secret\n", "secret"),
        ("secret\n\n", "secret\n"),
        ("secret\r\n", "secret\r"),
        (" a:b\t", " a:b\t"),
        (&format!("{}\n", json_key()), &json_key()),
    ] {
        node.write("username", "_json_key\n");
        node.write("password", file);
        assert_eq!(
            node.lookup(IMAGE, &source(&node)).await,
            Ok(vec![basic("_json_key", password)])
        );
    }
}

#[tokio::test]
async fn what_cannot_be_used_is_named_with_its_mend() {
    let node = Node::new();
    let source = source(&node);
    let missing =
        "does not exist: mount the Secret there, or correct the path in larder's configuration";
    assert_eq!(
        node.refused(IMAGE, &source).await,
        format!("username: {missing}")
    );
    node.write("username", "me");
    assert_eq!(
        node.refused(IMAGE, &source).await,
        format!("password: {missing}")
    );
    node.write("password", "\n");
    assert_eq!(
        node.refused(IMAGE, &source).await,
        "password: empty: put the value into it, or name the right file"
    );
    node.write("password", b"\xff");
    assert_eq!(
        node.refused(IMAGE, &source).await,
        "password: not UTF-8: save it as UTF-8 text"
    );
    node.write("password", vec![b'x'; (1 << 20) + 1]);
    assert_eq!(
        node.refused(IMAGE, &source).await,
        "password: over 1 MiB long: is this the right file?"
    );
    node.write("password", "secret");
    node.write("username", "me:too");
    assert_eq!(
        node.refused(IMAGE, &source).await,
        "username: holds a `:`, which no username can: put the password into `password_file`"
    );
    fs::remove_file(node.path("username")).unwrap();
    fs::create_dir(node.path("username")).unwrap();
    assert_eq!(
        node.refused(IMAGE, &source).await,
        "username: not a file: name a regular file"
    );
    let error = node.lookup(IMAGE, &source).await.unwrap_err();
    assert_eq!(error.fault(), Fault::File);
    assert_eq!(error.place(), node.path("username").display().to_string());
    assert_eq!(
        node.credentials.findings_of(&source).await,
        [error.to_string()]
    );
}

#[tokio::test]
async fn a_secret_that_kubernetes_swaps_is_seen_at_once() {
    let node = Node::new();
    for (version, name) in [("..1", "old"), ("..2", "new")] {
        fs::create_dir(node.path(version)).unwrap();
        node.write(&format!("{version}/username"), name);
        node.write(&format!("{version}/password"), format!("{name}-password"));
    }
    symlink("..1", node.path("..data")).unwrap();
    symlink("..data/username", node.path("username")).unwrap();
    symlink("..data/password", node.path("password")).unwrap();
    let source = source(&node);
    assert_eq!(
        node.lookup(IMAGE, &source).await,
        Ok(vec![basic("old", "old-password")])
    );
    symlink("..2", node.path("..data_tmp")).unwrap();
    fs::rename(node.path("..data_tmp"), node.path("..data")).unwrap();
    assert_eq!(
        node.lookup(IMAGE, &source).await,
        Ok(vec![basic("new", "new-password")])
    );
}
