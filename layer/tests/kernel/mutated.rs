//! Trees with some bytes changed: either they are refused, or the kernel reads the same as the check.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use larder_layer::erofs::check::{Found, walk};
use larder_layer::erofs::{BLOCK, FileType};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use tar::EntryType;

use crate::directory::{Directory, File};
use crate::machine::{Mounted, index};
use crate::made::{Format, Said, Tar};

/// A layer with entries of every kind.
fn tar() -> Vec<u8> {
    let mut tar = Tar::default();
    tar.directory(b"./")
        .directory(b"d")
        .file(b"d/f", &[1; 700])
        .link(b"d/g", b"d/f")
        .file(b"d/.wh.gone", b"");
    tar.symlink(b"short", b"d/f")
        .symlink(b"long", &[b'x'; 600])
        .directory(b"many")
        .file(b"empty", b"");
    for number in 0..60 {
        tar.file(
            format!("many/{number}-{}", "n".repeat(number)).as_bytes(),
            b"content",
        );
    }
    let xattrs = vec![
        ("user.a".to_owned(), vec![1; 5]),
        ("security.b".to_owned(), vec![2; 9]),
    ];
    let said = Said {
        format: Format::Pax,
        xattrs,
        ..Said::default()
    };
    tar.entry(b"x", EntryType::Regular, b"attributes", b"", (0, 0), &said);
    tar.entry(b"null", EntryType::Char, b"", b"", (1, 3), &said);
    tar.entry(b"fifo", EntryType::Fifo, b"", b"", (0, 0), &Said::default());
    tar.end()
}

/// The names that the check reads, in the form of what the kernel shows. `None` if the tree has a flaw.
fn listed(tree: &[u8], tar: &[u8], uuid: [u8; 16]) -> Option<Directory> {
    let mut found = Vec::new();
    walk(tree, tar.len() as u64, uuid, |name| found.push(name)).ok()?;
    let flat = [tree, tar].concat();
    let mut paths: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut inodes: BTreeMap<u64, File> = BTreeMap::new();
    let mut names: BTreeMap<PathBuf, u64> = BTreeMap::new();
    for Found {
        parent,
        name,
        slot,
        kind,
        inode,
    } in found
    {
        let path = match name {
            b"" => PathBuf::new(),
            name => paths[&parent].join(OsStr::from_bytes(name)),
        };
        if kind == FileType::Directory {
            paths.insert(slot, path.clone());
        }
        names.insert(path, slot);
        let Some((fields, pairs, target)) = inode else {
            continue;
        };
        let at = fields.place as usize * BLOCK;
        let content = match kind {
            FileType::File => flat[at..at + fields.size as usize].to_vec(),
            _ => target.to_vec(),
        };
        let space = |number| match number {
            1 => "user.",
            4 => "trusted.",
            _ => "security.",
        };
        let pair = |(number, name, value): &(u8, &[u8], &[u8])| {
            ([space(*number).as_bytes(), name].concat(), value.to_vec())
        };
        let device = match kind {
            FileType::CharDevice | FileType::BlockDevice => fields.place,
            _ => 0,
        };
        let directory = kind == FileType::Directory;
        let (major, minor) = (
            (device >> 8) & 0xfff,
            (device & 0xff) | ((device >> 12) & 0xf_ff00),
        );
        let file = File {
            mode: u32::from(fields.mode),
            uid: fields.uid,
            gid: fields.gid,
            seconds: fields.seconds,
            nanoseconds: i64::from(fields.nanoseconds),
            links: if directory {
                0
            } else {
                u64::from(fields.links)
            },
            size: if directory { 0 } else { fields.size },
            device: rustix::fs::makedev(major, minor),
            content,
            xattrs: pairs.iter().map(pair).collect(),
            same_as: PathBuf::new(),
        };
        inodes.insert(slot, file);
    }
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut files = BTreeMap::new();
    for (path, slot) in names {
        let same_as = first.entry(slot).or_insert_with(|| path.clone()).clone();
        files.insert(
            path,
            File {
                same_as,
                ..inodes[&slot].clone()
            },
        );
    }
    Some(Directory(files))
}

fn uuid_of(tree: &[u8]) -> [u8; 16] {
    tree[1024 + 48..1024 + 64].try_into().unwrap()
}

#[test]
fn the_check_reads_what_the_kernel_reads() {
    let tar = tar();
    let index = index(&tar);
    let listed = listed(index.tree(), &tar, uuid_of(index.tree())).unwrap();
    Mounted::new(index.tree(), &tar).read().assert_is(&listed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_tree_is_refused_or_read_alike(
        changes in vec((any::<Index>(), prop_oneof![any::<u8>(), 0_u8..4, Just(0xff)]), 1..4),
    ) {
        let tar = tar();
        let index = index(&tar);
        let mut tree = index.tree().to_vec();
        // Other tests change the zeros at the begin and at the end.
        let last = tree.iter().rposition(|byte| *byte != 0).unwrap();
        for (at, value) in &changes {
            let at = 1024 + at.index(last - 1023);
            tree[at] = *value;
        }
        if let Some(listed) = listed(&tree, &tar, uuid_of(index.tree())) {
            Mounted::new(&tree, &tar).read().assert_is(&listed);
        }
    }
}
