//! Whiteouts and opaque directories: what overlayfs shows with a lower layer below.

use std::fs;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::machine::{Mounted, index};
use crate::made::Tar;

/// The files that overlayfs shows for two layers.
fn shown(lower: &Tar, upper: &Tar) -> Vec<String> {
    let layers = [lower, upper].map(|tar| Mounted::new(index(&tar.end()).tree(), &tar.end()));
    let dir = tempfile::tempdir().unwrap();
    let options = format!(
        "lowerdir={}:{}",
        layers[1].at.display(),
        layers[0].at.display()
    );
    let options = std::ffi::CString::new(options).unwrap();
    mount(
        "overlay",
        dir.path(),
        "overlay",
        MountFlags::RDONLY,
        Some(options.as_c_str()),
    )
    .unwrap();
    let mut found = Vec::new();
    walk(dir.path(), dir.path(), &mut found);
    unmount(dir.path(), UnmountFlags::DETACH).unwrap();
    found.sort();
    found
}

fn walk(root: &Path, at: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        found.push(path.strip_prefix(root).unwrap().display().to_string());
        if path.symlink_metadata().unwrap().is_dir() {
            walk(root, &path, found);
        }
    }
}

fn lower() -> Tar {
    let mut tar = Tar::default();
    tar.directory(b"d")
        .file(b"d/a", b"1")
        .file(b"d/b", b"2")
        .directory(b"e")
        .file(b"e/c", b"3")
        .file(b"f", b"4");
    tar
}

#[test]
fn a_whiteout_hides_one_name() {
    let mut upper = Tar::default();
    upper
        .directory(b"d")
        .file(b"d/.wh.a", b"")
        .file(b".wh.f", b"");
    assert_eq!(shown(&lower(), &upper), ["d", "d/b", "e", "e/c"]);
}

#[test]
fn a_whiteout_of_a_directory_hides_all_of_it() {
    let mut upper = Tar::default();
    upper.file(b".wh.d", b"").file(b".wh.f", b"");
    assert_eq!(shown(&lower(), &upper), ["e", "e/c"]);
}

#[test]
fn an_opaque_directory_hides_what_was_in_it() {
    for late in [false, true] {
        let mut upper = Tar::default();
        upper.directory(b"d");
        if !late {
            upper.file(b"d/.wh..wh..opq", b"");
        }
        upper.file(b"d/new", b"5");
        if late {
            upper.file(b"d/.wh..wh..opq", b"");
        }
        assert_eq!(shown(&lower(), &upper), ["d", "d/new", "e", "e/c", "f"]);
    }
}

/// In the image specification, a whiteout only affects lower layers. So entries behind it replace the content of lower
/// layers.
#[test]
fn a_directory_behind_its_own_whiteout_begins_empty() {
    let mut upper = Tar::default();
    upper
        .file(b".wh.d", b"")
        .directory(b"d")
        .file(b"d/new", b"5");
    upper
        .file(b".wh.e", b"")
        .file(b"e/new", b"6")
        .file(b".wh.f", b"")
        .file(b"f", b"7");
    assert_eq!(shown(&lower(), &upper), ["d", "d/new", "e", "e/new", "f"]);
}

#[test]
fn a_whiteout_of_nothing_is_not_seen() {
    let mut upper = Tar::default();
    upper
        .directory(b"alone")
        .file(b"alone/.wh.ghost", b"")
        .file(b".wh.other", b"")
        .file(b"alone/x", b"");
    let shown = shown(&lower(), &upper);
    assert!(
        !shown
            .iter()
            .any(|name| name.contains("ghost") || name.contains("other")),
        "{shown:?}"
    );
    assert!(shown.contains(&"alone/x".to_owned()));
}
