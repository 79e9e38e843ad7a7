//! A layer's file system over a file that the daemon serves.

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    process::Command,
};

use larder_layer::{Index, build};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
};

use crate::setup::Setup;

/// Writes a layer's tree and tar as one file, and returns the files in it.
fn image(at: &Path) -> Vec<(String, Vec<u8>)> {
    let dir = tempfile::tempdir().expect("a directory");
    let mut random = fastrand::Rng::with_seed(7);
    let mut files = Vec::new();
    for number in 0..40 {
        let name = format!("d{}/file-{number}", number % 4);
        let content: Vec<u8> = (0..random.usize(1..200_000))
            .map(|_| random.u8(1..))
            .collect();
        let path = dir.path().join(&name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, &content).expect("a file");
        files.push((name, content));
    }
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "-cf", "-", "-C"]);
    let tar = tar.arg(dir.path()).arg(".").output().expect("GNU tar");
    let mut index = Vec::new();
    build(&mut &tar.stdout[..], &mut index).expect("an index");
    let index = Index::open(&mut Cursor::new(index)).expect("an index");
    fs::write(at, [index.tree(), &tar.stdout].concat()).expect("a file");
    files
}

struct Mounted(PathBuf);

impl Mounted {
    /// `None` if the kernel cannot mount EROFS over a plain file.
    fn over(file: &Path, at: &Path) -> Option<Self> {
        fs::create_dir_all(at).expect("a directory");
        match mount(
            Some(file),
            at,
            Some("erofs"),
            MsFlags::MS_RDONLY,
            None::<&str>,
        ) {
            Ok(()) => Some(Self(at.to_owned())),
            Err(Errno::ENOTBLK | Errno::ENODEV) => {
                eprintln!("skipped: this kernel mounts no EROFS over a plain file");
                None
            }
            Err(error) => panic!("{}: {error}", file.display()),
        }
    }

    fn compare(&self, files: &[(String, Vec<u8>)]) {
        for (name, content) in files {
            let read = fs::read(self.0.join(name)).expect(name);
            assert!(read == *content, "{name}");
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_layer_is_mounted_over_it_and_outlives_daemons_and_its_name() {
    let setup = Setup::new();
    let files = image(&setup.said().join("image"));
    let mut holder = setup.holder(&[]);
    let daemon = setup.daemon(5);
    let Some(mounted) = Mounted::over(&setup.files().join("image"), &setup.dir().join("root"))
    else {
        return;
    };
    let (first, rest) = files.split_at(10);
    mounted.compare(first);
    daemon.kill();
    let daemon = setup.starting(5);
    mounted.compare(&rest[..10]);
    // The unmounted files are still served, by another daemon too.
    let asked = setup.hold(&["--uninstall"]).output().expect("larder");
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(said.contains("still use them"), "{asked:?}");
    assert_eq!(setup.mounted(), 0);
    daemon.kill();
    let daemon = setup.starting(5);
    setup.until_told(&daemon, "held false");
    mounted.compare(&rest[10..20]);
    assert!(holder.is_running());
    // The last user of the files goes.
    drop(mounted);
    assert!(holder.ended().success());
    setup.until_told(&daemon, "absent false");
}

#[test]
fn by_force_it_is_taken_from_those_who_use_it() {
    let setup = Setup::new();
    let files = image(&setup.said().join("image"));
    let holder = setup.holder(&[]);
    let _daemon = setup.daemon(0);
    let Some(mounted) = Mounted::over(&setup.files().join("image"), &setup.dir().join("root"))
    else {
        return;
    };
    mounted.compare(&files[..1]);
    let asked = setup.hold(&["--uninstall", "--force"]).output();
    assert!(asked.expect("larder").status.success());
    assert!(holder.ended().success());
    // Reads fail, and never return zeros.
    for (name, content) in &files[1..] {
        if let Ok(read) = fs::read(mounted.0.join(name)) {
            assert!(read == *content, "{name}");
        }
    }
    let last = fs::read(mounted.0.join(&files[39].0));
    assert!(last.is_err());
}
