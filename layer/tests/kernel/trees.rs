//! Layers of all relevant shapes, as the kernel shows them.

use std::os::unix::ffi::OsStrExt;

use tar::EntryType;

use crate::machine::{extracted, mounted};
use crate::made::{Format, Said, Tar};

fn both(tar: &Tar) {
    mounted(&tar.end()).assert_is(&extracted(&tar.end()));
}

/// A tar with a root that is the same for both readers.
fn tar() -> Tar {
    let mut tar = Tar::default();
    tar.directory(b"./");
    tar
}

#[test]
fn a_tar_without_entries_is_an_empty_directory() {
    assert!(mounted(&Tar::default().end()).names().is_empty());
    assert!(mounted(&[0; 512]).names().is_empty());
    assert!(mounted(&[]).names().is_empty());
}

#[test]
fn files_of_all_sizes_have_their_content() {
    let mut tar = tar();
    for size in [0, 1, 511, 512, 513, 4095, 4096, 4097, 70_000, 3 << 20] {
        let content: Vec<u8> = (0..size)
            .map(|at: u32| (at.wrapping_mul(at) >> 7) as u8)
            .collect();
        tar.file(format!("{size}").as_bytes(), &content);
    }
    both(&tar);
}

#[test]
fn names_of_255_bytes_and_long_paths() {
    for format in [Format::Gnu, Format::Pax] {
        let mut tar = tar();
        let said = Said {
            format,
            mode: 0o700,
            ..Said::default()
        };
        let mut path = Vec::new();
        for name in [b'x', b'y', 0xff] {
            path.extend_from_slice(&[name; 255]);
            tar.entry(&path, EntryType::Directory, b"", b"", (0, 0), &said);
            tar.entry(
                &[&path[..], b"/file"].concat(),
                EntryType::Regular,
                b"content",
                b"",
                (0, 0),
                &said,
            );
            path.push(b'/');
        }
        both(&tar);
    }
}

#[test]
fn a_prefix_of_a_posix_header_belongs_to_the_path() {
    let mut tar = tar();
    tar.directory(b"prefix");
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..4].copy_from_slice(b"name");
    header.as_mut_bytes()[345..351].copy_from_slice(b"prefix");
    header.set_mode(0o600);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(9);
    tar.raw(header, b"content");
    both(&tar);
}

#[test]
fn deep_directories() {
    let mut tar = tar();
    let mut path = Vec::new();
    for _ in 0..500 {
        path.extend_from_slice(b"d/");
        tar.directory(&path);
    }
    tar.file(&[&path[..], b"end"].concat(), b"here");
    both(&tar);
}

#[test]
fn a_directory_of_20000_names() {
    let mut tar = tar();
    tar.directory(b"large");
    // Names that sort before and after `.` and `..`, and names that are prefixes of others.
    for number in 0..10_000 {
        tar.file(format!("large/{number}").as_bytes(), b"");
        tar.file(
            format!("large/!{number}-with-a-longer-name").as_bytes(),
            b"1",
        );
    }
    let (kernel, gnu) = (mounted(&tar.end()), extracted(&tar.end()));
    assert_eq!(kernel.0.len(), 20_002);
    kernel.assert_is(&gnu);
}

#[test]
fn symbolic_links_of_all_lengths() {
    let mut tar = tar();
    // Attributes in front of a link's target move the target within its block.
    for (number, length) in [
        1, 59, 60, 447, 448, 449, 479, 480, 481, 511, 512, 513, 1000, 4095,
    ]
    .into_iter()
    .enumerate()
    {
        for (format, xattrs) in [
            (Format::Gnu, vec![]),
            (Format::Pax, vec![("trusted.t".to_owned(), vec![1; number])]),
        ] {
            let path = format!("{length}-{format:?}");
            let said = Said {
                format,
                mode: 0o777,
                xattrs,
                ..Said::default()
            };
            tar.entry(
                path.as_bytes(),
                EntryType::Symlink,
                b"",
                &vec![b'l'; length],
                (0, 0),
                &said,
            );
        }
    }
    both(&tar);
}

#[test]
fn devices_and_fifos() {
    let mut tar = tar();
    let said = Said {
        mode: 0o620,
        uid: 1 << 20,
        gid: u64::from(u32::MAX - 1),
        ..Said::default()
    };
    for (number, device) in [(1, 3), (5, 1), (0xfff, 0xf_ffff), (8, 256), (0, 1)]
        .into_iter()
        .enumerate()
    {
        tar.entry(
            format!("c{number}").as_bytes(),
            EntryType::Char,
            b"",
            b"",
            device,
            &said,
        );
        tar.entry(
            format!("b{number}").as_bytes(),
            EntryType::Block,
            b"",
            b"",
            device,
            &said,
        );
    }
    tar.entry(b"fifo", EntryType::Fifo, b"", b"", (0, 0), &said);
    both(&tar);
}

#[test]
fn hard_links_share_an_inode_even_if_its_first_name_is_gone() {
    let mut tar = tar();
    tar.file(b"first", b"one")
        .link(b"second", b"first")
        .link(b"third", b"./second");
    tar.file(b"first", b"another");
    tar.symlink(b"s", b"nowhere").link(b"t", b"s");
    both(&tar);
    let kernel = mounted(&tar.end());
    assert_eq!(
        (kernel.get("second").links, &kernel.get("third").content[..]),
        (2, &b"one"[..])
    );
}

#[test]
fn the_last_entry_of_a_name_wins() {
    let mut tar = tar();
    tar.file(b"a", b"old")
        .file(b"a", b"new")
        .symlink(b"a", b"b")
        .file(b"a", b"newest");
    tar.directory(b"d").file(b"d/kept", b"1");
    let said = Said {
        mode: 0o1777,
        uid: 5,
        seconds: -5,
        nanoseconds: 7,
        ..Said::default()
    };
    tar.entry(b"d", EntryType::Directory, b"", b"", (0, 0), &said);
    both(&tar);
}

#[test]
fn attributes_of_all_namespaces_and_lengths() {
    let mut tar = tar();
    let capability = b"\x01\0\0\x02\0\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    for length in [0, 1, 2, 3, 4, 255, 600, 1500] {
        let xattrs = vec![
            ("user.one".to_owned(), vec![b'\n'; length]),
            ("user.".to_owned() + &"n".repeat(250), vec![0; 3]),
            ("trusted.two".to_owned(), vec![9; length]),
            ("security.capability".to_owned(), capability.to_vec()),
        ];
        let said = Said {
            format: Format::Pax,
            xattrs,
            ..Said::default()
        };
        tar.entry(
            format!("f{length}").as_bytes(),
            EntryType::Regular,
            b"x",
            b"",
            (0, 0),
            &said,
        );
    }
    both(&tar);
}

/// macOS writes such names; a runtime leaves them out.
#[test]
fn attributes_that_linux_does_not_have_are_left_out() {
    let mut tar = tar();
    let xattrs = vec![("com.apple.provenance".to_owned(), vec![1])];
    let said = Said {
        format: Format::Pax,
        xattrs,
        ..Said::default()
    };
    tar.entry(b"f", EntryType::Regular, b"x", b"", (0, 0), &said);
    let on_a_link = Said {
        xattrs: vec![("user.u".to_owned(), vec![1])],
        ..said
    };
    tar.entry(b"l", EntryType::Symlink, b"", b"f", (0, 0), &on_a_link);
    let kernel = mounted(&tar.end());
    assert!(kernel.0.values().all(|file| file.xattrs.is_empty()));
}

#[test]
fn a_replaced_directory_takes_all_below_it_along() {
    let mut tar = tar();
    tar.directory(b"d")
        .directory(b"d/e")
        .file(b"d/e/f", b"1")
        .link(b"kept", b"d/e/f");
    tar.file(b"d", b"a file now");
    let kernel = mounted(&tar.end());
    assert_eq!(kernel.names(), ["d", "kept"]);
    assert_eq!(
        (kernel.get("kept").links, &kernel.get("kept").content[..]),
        (1, &b"1"[..])
    );
}

#[test]
fn directories_without_an_entry_of_their_own_are_made() {
    let mut tar = Tar::default();
    tar.file(b"/usr//./bin/tool", b"1");
    let kernel = mounted(&tar.end());
    assert_eq!(kernel.names(), ["usr", "usr/bin", "usr/bin/tool"]);
    let made = kernel.get("usr/bin");
    assert_eq!((made.mode, made.uid, made.seconds), (0o040_755, 0, 0));
}

/// Archives of a directory that GNU tar itself makes, in each of its formats.
#[test]
fn archives_of_gnu_tar() {
    let mut tar = tar();
    let long = [b'n'; 200];
    tar.directory(b"d")
        .file(b"d/f", b"content")
        .link(b"d/g", b"d/f")
        .symlink(b"d/s", &long)
        .file(&long, b"x");
    let dir = tempfile::tempdir().unwrap();
    crate::machine::extract(&tar.end(), dir.path());
    for format in ["gnu", "pax", "oldgnu"] {
        let output = std::process::Command::new("tar")
            .args(["--format", format, "-cf", "-", "-C"])
            .arg(dir.path())
            .arg(".")
            .output()
            .unwrap();
        assert!(output.status.success());
        mounted(&output.stdout).assert_is(&extracted(&output.stdout));
        let name = std::ffi::OsStr::from_bytes(&long);
        assert_eq!(
            mounted(&output.stdout).0[std::path::Path::new(name)].content,
            b"x"
        );
    }
}
