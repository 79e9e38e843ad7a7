//! A pulled image becomes files that a kernel mounts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use larder_tests::fake::digest_of;
use larder_tests::machine::Machine;
use larder_tests::real::skipped;
use larder_tests::scene::{eventually, files};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::{Offering, gzip, inode, one_layer, push, tar, tar_of};

/// What the kernel shows of a ready file, unmounted when dropped.
struct Mounted(tempfile::TempDir);

impl Mounted {
    /// `None` where the kernel or the user cannot mount a plain file (Linux before 6.12, no root).
    fn new(file: &Path) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let none = None::<&std::ffi::CStr>;
        match mount(file, dir.path(), "erofs", MountFlags::RDONLY, none) {
            Ok(()) => Some(Self(dir)),
            Err(rustix::io::Errno::INVAL) => panic!("the kernel does not take {}", file.display()),
            Err(error) => {
                skipped("the kernel's view of a ready file", &error.to_string());
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn all_layers_of_a_pulled_image_are_offered_and_hold_what_their_tars_hold() {
    let offering = Offering::with("", "").await;
    let big: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let tars = [
        tar(&[("etc/motd", b"hello\n"), ("bin/tool", &big)]),
        tar(&[("etc/.wh.motd", b""), ("srv/small", b"x")]),
        tar(&[("srv/last", b"the last")]),
    ];
    let diff_ids = tars.clone().map(|tar| digest_of(&tar));
    let blobs = [gzip(&tars[0]), gzip(&tars[1]), tars[2].clone()];
    let image = push(&offering.scene.fake, "team/app", &blobs, &diff_ids);
    offering.pull("team/app", &image).await;
    let names: Vec<&str> = diff_ids.iter().map(String::as_str).collect();
    let shown = offering.until_offered(&names).await;
    for (tar, diff_id) in tars.iter().zip(&diff_ids) {
        let file = fs::read(offering.path(diff_id)).expect("a ready file");
        assert!(file.ends_with(tar), "the tar stands behind its tree");
        assert_eq!((file.len() - tar.len()) % 4096, 0);
    }
    let shown = shown["layers"].as_array().expect("layers");
    assert_eq!(shown.len(), 3);
    for layer in shown {
        assert_eq!(layer["ground"], "public", "{layer}");
        assert_eq!(layer["state"], "offered", "{layer}");
    }
    let Some(lowest) = Mounted::new(&offering.path(names[0])) else {
        return;
    };
    let read = |path: &str| fs::read(lowest.0.path().join(path)).expect("a file");
    assert_eq!(read("etc/motd"), b"hello\n");
    assert!(read("bin/tool") == big);
    let second = Mounted::new(&offering.path(names[1])).expect("as the first");
    let whiteout = fs::symlink_metadata(second.0.path().join("etc/motd")).expect("a whiteout");
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(
        &whiteout.file_type()
    ));
    // Layers may be private: no other user of the node looks at them.
    for path in offering.files() {
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        let above = path.parent().expect("a directory");
        let of_above = fs::metadata(above)
            .expect("a directory")
            .permissions()
            .mode();
        assert_eq!(of_above & 0o777, 0o700, "{}", above.display());
        if path.extension().is_some_and(|end| end == "erofs") {
            assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        }
    }
    // Nothing but the files and their origins is left of the work.
    assert_eq!(files(&offering.layers().join("tmp")).len(), 0);
    let listed = offering.scene.node.cli(&["layers"]).await;
    let listed = String::from_utf8(listed.stdout).expect("text");
    assert_eq!(listed.matches("team/app").count(), 3, "{listed}");
}

/// A layer without an index, or one that would change what is below it, is pulled and unpacked as ever.
#[tokio::test]
async fn a_layer_that_cannot_be_ready_is_named_and_the_others_are_offered() {
    let offering = Offering::with("", "").await;
    let fine = tar(&[("etc/motd", b"hello\n")]);
    let zstd = bytes::Bytes::from_static(b"\x28\xb5\x2f\xfd and so on");
    let diff_ids = [digest_of(&fine), digest_of(b"what zstd holds")];
    let blobs = [fine, zstd.clone()];
    let image = push(&offering.scene.fake, "team/app", &blobs, &diff_ids);
    offering.pull("team/app", &image).await;
    offering.until_offered(&[&diff_ids[0]]).await;
    offering.until_not_offered(&image, "compression").await;
    assert!(!offering.is_offered(&diff_ids[1]) && !offering.is_offered(&digest_of(&zstd)));
}

/// What such a layer says of its directories would hide what the layers below say of them.
#[tokio::test]
async fn a_layer_with_directories_that_have_no_entry_is_named_and_the_others_are_offered() {
    let offering = Offering::with("", "").await;
    let below = tar(&[("etc/motd", b"hello\n")]);
    let above = tar_of(&[("etc/issue", b"hi\n")], &["etc/issue"]);
    let diff_ids = [digest_of(&below), digest_of(&above)];
    let blobs = [gzip(&below), gzip(&above)];
    let image = push(&offering.scene.fake, "team/app", &blobs, &diff_ids);
    offering.pull("team/app", &image).await;
    offering.until_offered(&[&diff_ids[0]]).await;
    offering.until_not_offered(&image, "without an entry").await;
    assert!(!offering.is_offered(&diff_ids[1]));
}

/// Small images are not worth the work. One large layer makes all of an image worth it.
#[tokio::test]
async fn an_image_whose_layers_are_all_small_is_left_alone() {
    let offering = Offering::with("", "").await;
    let config = fs::read_to_string(offering.scene.node.config_file()).expect("a file");
    let config = config.replace("min_layer = \"0\"", "min_layer = \"1MB\"");
    fs::write(offering.scene.node.config_file(), config).expect("a file");
    eventually("the configuration was read again", || {
        offering.scene.node.log().contains("was read again")
    })
    .await;
    let (small, small_id) = one_layer(&offering.scene.fake, "team/small", 1, 1000);
    offering.pull("team/small", &small).await;
    let (large, large_id) = one_layer(&offering.scene.fake, "team/large", 2, 2_000_000);
    offering.pull("team/large", &large).await;
    offering.until_offered(&[&large_id]).await;
    assert!(!offering.is_offered(&small_id));
}

#[tokio::test]
async fn a_larder_that_is_killed_in_the_middle_leaves_nothing_and_begins_anew() {
    let machine = Machine::new();
    let mut offering = Offering::on("", "", |node| machine.runs(node)).await;
    let (image, diff_id) = one_layer(&offering.scene.fake, "team/app", 3, 3_000_000);
    offering.pull("team/app", &image).await;
    let hex = image.layers[0].digest.trim_start_matches("sha256:");
    let blobs = offering.scene.node.store().join("blobs/sha256");
    let hanging = machine.hang(&blobs.join(&hex[..2]).join(hex));
    let tmp = offering.layers().join("tmp");
    offering
        .until("work has begun", |_| !files(&tmp).is_empty())
        .await;
    offering.scene.node.kill9().await;
    drop(hanging);
    assert!(!offering.is_offered(&diff_id), "it could not be whole");
    offering.scene.node.restart().await;
    offering.until_offered(&[&diff_id]).await;
    assert_eq!(files(&tmp).len(), 0);
    let was = inode(&offering.path(&diff_id));
    // What is whole is found again, and not made again.
    offering.scene.node.kill9().await;
    offering.scene.node.restart().await;
    let known = |shown: &serde_json::Value| shown["layers"][0]["ground"] == "public";
    offering.until("it is known again", known).await;
    assert_eq!(inode(&offering.path(&diff_id)), was);
}

/// An image without room is read no second time until there is room, and then at once.
#[tokio::test]
async fn what_had_no_room_is_made_when_there_is_room() {
    let store = "max_size = \"5MB\"";
    let offering = Offering::with("", store).await;
    let (image, diff_id) = one_layer(&offering.scene.fake, "team/app", 4, 3_000_000);
    offering.pull("team/app", &image).await;
    let no_room = "there is no room without evicting";
    offering.until_not_offered(&image, no_room).await;
    assert!(!offering.is_offered(&diff_id));
    let file = offering.scene.node.config_file();
    let config = fs::read_to_string(&file).expect("a file");
    fs::write(&file, config.replace(store, "max_size = \"50MB\"")).expect("a file");
    offering.until_offered(&[&diff_id]).await;
    let failed = "larder_ready_layers_made_total{outcome=\"failed\"}";
    assert_eq!(offering.scene.node.metric(failed).await, Some(1.0));
}
