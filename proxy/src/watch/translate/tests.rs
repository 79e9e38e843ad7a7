use std::collections::HashMap;

use super::*;

fn digest(text: &str) -> Digest {
    Digest::sha256(text.as_bytes())
}

fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds }
}

fn listed(name: &str, target: &str, updated: i64) -> containerd::Image {
    containerd::Image {
        name: name.to_owned(),
        target: Some(containerd::Descriptor {
            digest: target.to_owned(),
        }),
        updated_at: Some(at(updated)),
    }
}

#[test]
fn the_names_of_one_target_are_one_image() {
    let (one, two) = (digest("one").to_string(), digest("two").to_string());
    let (images, names) = images(
        "k8s.io",
        vec![
            listed("r.example/a:2", &one, 20),
            listed("r.example/b:1", &two, 30),
            listed("r.example/a:1", &one, 10),
            listed("broken", "md5:0", 10),
        ],
    );
    assert_eq!(images.len(), 2);
    let a = images
        .iter()
        .find(|image| image.target == digest("one"))
        .unwrap();
    assert_eq!(a.names, ["r.example/a:1", "r.example/a:2"]);
    assert_eq!((a.updated, a.namespace.as_str()), (Some(20), "k8s.io"));
    assert_eq!(names["r.example/a:1"].updated, Some(10));
    assert!(!names.contains_key("broken"));
}

#[test]
fn the_digest_in_a_name_is_found_in_every_spelling() {
    let one = digest("one");
    for text in [
        one.to_string(),
        one.hex(),
        format!("r.example/a@{one}"),
        format!("r.example/a:1@{one}"),
    ] {
        assert_eq!(digest_in(&text), Some(one), "{text}");
    }
    for text in ["", "r.example/a:1", "sha256:00", "@"] {
        assert_eq!(digest_in(text), None, "{text}");
    }
}

/// A name that moved after the container was made does not tell what the container runs.
#[test]
fn a_container_runs_what_the_cri_says_or_what_its_name_led_to_then() {
    let container = |created| containerd::Container {
        id: "c".to_owned(),
        labels: HashMap::new(),
        image: "r.example/a:1".to_owned(),
        created_at: Some(at(created)),
    };
    let names = HashMap::from([(
        "r.example/a:1".to_owned(),
        Named {
            target: digest("target"),
            updated: Some(100),
        },
    )]);
    let (cri, known, target) = (digest("cri"), digest("known"), digest("target"));
    for (created, by_cri, known, expected) in [
        (100, Some(cri), Some(known), Some(cri)),
        (100, None, Some(known), Some(known)),
        (100, None, None, Some(target)),
        (99, None, None, None),
        (0, None, None, Some(target)),
    ] {
        let found = digest_of(&container(created), by_cri, known, &names);
        assert_eq!(found, expected, "{created} {by_cri:?} {known:?}");
    }
    assert_eq!(
        digest_of(&container(100), None, None, &HashMap::new()),
        None
    );
}

#[test]
fn a_sandbox_is_told_from_a_container_by_its_label() {
    let labelled = |kind: &str| containerd::Container {
        id: "c".to_owned(),
        labels: HashMap::from([
            (CRI_KIND.to_owned(), kind.to_owned()),
            (POD_NAMESPACE.to_owned(), "a-team".to_owned()),
        ]),
        image: "r.example/pause:1".to_owned(),
        created_at: Some(at(5)),
    };
    let kind = |kind| user("k8s.io", labelled(kind), None).unwrap().kind;
    let of_pod = user("k8s.io", labelled("container"), None).unwrap();
    assert_eq!(of_pod.pod_namespace.as_deref(), Some("a-team"));
    assert_eq!(kind("sandbox"), UserKind::Sandbox);
    assert_eq!(kind("container"), UserKind::Container);
    let bare = containerd::Container::default();
    assert_eq!(user("k8s.io", bare, None), None);
}

/// CRI-O's ids are hashes without an algorithm.
#[test]
fn what_the_cri_lists_is_said_in_the_same_words() {
    let config = digest("config");
    let image = cri_image(cri::Image {
        id: config.hex(),
        repo_tags: vec!["r.example/a:1".to_owned(), "<none>:<none>".to_owned()],
        repo_digests: vec![
            format!("r.example/a@{}", digest("index")),
            format!("r.example/a@{}", digest("manifest")),
            format!("r.example/b@{}", digest("index")),
        ],
    })
    .unwrap();
    assert_eq!((image.target, image.config), (config, Some(config)));
    assert_eq!(image.names.len(), 4);
    let mut digests = [digest("index"), digest("manifest")];
    digests.sort_unstable();
    assert_eq!(image.digests, digests);

    let spec = |image: &str, said: &str| cri::ImageSpec {
        image: image.to_owned(),
        user_specified_image: said.to_owned(),
        image_ref: String::new(),
    };
    let container = cri::Container {
        id: "c".to_owned(),
        image: Some(spec(&config.hex(), "r.example/a:1")),
        image_ref: format!("r.example/a@{}", digest("index")),
        created_at: 1_500_000_000,
        labels: HashMap::from([(POD_NAMESPACE.to_owned(), "kube-system".to_owned())]),
        image_id: String::new(),
    };
    let user = cri_user(&container);
    assert_eq!(user.image, "r.example/a:1");
    assert_eq!(user.pod_namespace.as_deref(), Some("kube-system"));
    assert_eq!(
        (user.digest, user.created),
        (Some(digest("index")), Some(1))
    );
    let newer = cri::Container {
        image_id: config.hex(),
        ..container
    };
    assert_eq!(cri_user(&newer).digest, Some(config));

    let status = |info: &str| cri::SandboxStatusResponse {
        info: HashMap::from([("info".to_owned(), info.to_owned())]),
    };
    let named = sandbox_image(&status(r#"{"image":"r.example/pause:1","pid":7}"#));
    assert_eq!(named.as_deref(), Some("r.example/pause:1"));
    for none in ["", "{}", "[]", r#"{"image":""}"#] {
        assert_eq!(sandbox_image(&status(none)), None, "{none}");
    }
}

#[test]
fn an_image_that_is_mounted_is_a_volume_of_its_container() {
    let mounts = vec![
        cri::Mount { image: None },
        cri::Mount {
            image: Some(cri::ImageSpec {
                image: digest("config").to_string(),
                user_specified_image: "r.example/data:1".to_owned(),
                image_ref: String::new(),
            }),
        },
    ];
    let found = volumes(cri::ContainerStatusResponse {
        status: Some(cri::ContainerStatus { mounts }),
    });
    assert_eq!(
        found,
        [Volume {
            image: "r.example/data:1".to_owned(),
            digest: Some(digest("config")),
        }]
    );
}

#[test]
fn the_snapshotter_of_pulls_is_in_the_path_of_their_file_system() {
    let of = |mountpoints: &[&str]| {
        let of_images = mountpoints.iter().map(|mountpoint| cri::FileSystem {
            id: Some(cri::FileSystemId {
                mountpoint: (*mountpoint).to_owned(),
            }),
        });
        snapshotter_of_pulls(&cri::FileSystems {
            of_images: of_images.collect(),
        })
    };
    let erofs = "/var/lib/containerd/io.containerd.snapshotter.v1.erofs";
    let overlay = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs";
    assert_eq!(of(&[erofs]).as_deref(), Some("erofs"));
    // The snapshotter for new images comes first; the others hold older images.
    assert_eq!(of(&[overlay, erofs]).as_deref(), Some("overlayfs"));
    for untold in [
        &[][..],
        &["/srv/erofs"],
        &["/io.containerd.snapshotter.v1."],
    ] {
        assert_eq!(of(untold), None, "{untold:?}");
    }
}
