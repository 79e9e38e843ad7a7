//! A tree with one bit changed: either it is refused, or it reads differently.

use std::io::Cursor;

use larder_layer::erofs::check::{Flaw, Found, walk};
use larder_layer::{Index, build, check};
use tar::EntryType;

use crate::made::{Format, Said, Tar};

fn tree(tar: &Tar) -> (Vec<u8>, u64) {
    let mut file = Vec::new();
    build(&mut &tar.end()[..], &mut file).unwrap();
    let index = Index::open(&mut Cursor::new(file)).unwrap();
    (index.tree().to_vec(), index.tar_length())
}

fn uuid(tree: &[u8]) -> [u8; 16] {
    tree[1072..1088].try_into().unwrap()
}

fn small() -> Tar {
    let mut tar = Tar::default();
    tar.directory(b"./")
        .directory(b"d")
        .file(b"d/f", &[1; 700])
        .link(b"d/g", b"d/f")
        .file(b"d/.wh.gone", b"");
    tar.symlink(b"short", b"d/f")
        .symlink(b"long", &[b'x'; 600])
        .file(b"empty", b"");
    let xattrs = vec![
        ("user.a".to_owned(), vec![1; 5]),
        ("trusted.b".to_owned(), vec![2; 9]),
    ];
    let said = Said {
        format: Format::Pax,
        xattrs,
        ..Said::default()
    };
    tar.entry(b"x", EntryType::Regular, b"attributes", b"", (0, 0), &said);
    tar.entry(b"null", EntryType::Char, b"", b"", (1, 3), &said);
    tar.entry(b"fifo", EntryType::Fifo, b"", b"", (0, 0), &Said::default());
    for number in 0..40 {
        tar.file(format!("{number:040}").as_bytes(), b"");
    }
    tar
}

fn listing(tree: &[u8], tar_length: u64, uuid: [u8; 16]) -> Option<String> {
    let mut said = Vec::new();
    let mut write = |found: Found<'_>| said.push(format!("{found:?}"));
    walk(tree, tar_length, uuid, &mut write).ok()?;
    Some(said.join("\n"))
}

#[test]
fn every_bit_of_a_tree_is_checked_or_says_something() {
    let (tree, tar_length) = tree(&small());
    let uuid = uuid(&tree);
    let right = listing(&tree, tar_length, uuid).unwrap();
    let mut taken = 0;
    for at in 0..tree.len() {
        for bit in 0..8 {
            let mut changed = tree.clone();
            changed[at] ^= 1 << bit;
            if let Some(said) = listing(&changed, tar_length, uuid) {
                assert_ne!(said, right, "byte {at} bit {bit} says nothing");
                taken += 1;
            }
        }
    }
    // The changed bits of accepted trees are in owners, times, permissions and names.
    assert!(taken > 1000, "{taken}");
}

#[test]
fn a_tree_belongs_to_its_tar() {
    let (tree, tar_length) = tree(&small());
    assert_eq!(
        check(&tree, tar_length, uuid(&tree)).map(|facts| facts.inodes),
        Ok(50)
    );
    assert_eq!(
        check(&tree, tar_length - 512, uuid(&tree)),
        Err(Flaw::Superblock)
    );
    assert_eq!(check(&tree, tar_length, [0; 16]), Err(Flaw::Superblock));
    assert_eq!(
        check(&tree[..tree.len() - 1], tar_length, uuid(&tree)),
        Err(Flaw::Length)
    );
    assert_eq!(check(&[], 0, [0; 16]), Err(Flaw::Length));
    let longer = [&tree[..], &[0; 4096]].concat();
    assert!(check(&longer, tar_length, uuid(&tree)).is_err());
}

/// The place of the first inode of this kind.
fn inode_of(tree: &[u8], name: &[u8]) -> usize {
    let mut at = None;
    let length = u64::from(u32::from_le_bytes(tree[1060..1064].try_into().unwrap())) * 512
        - tree.len() as u64;
    walk(tree, length, uuid(tree), |found| {
        if found.name == name {
            at = Some(found.slot as usize * 32);
        }
    })
    .unwrap();
    at.unwrap()
}

#[test]
fn what_would_lead_a_kernel_astray_is_refused() {
    let (tree, tar_length) = tree(&small());
    let file = inode_of(&tree, b"f");
    let (root, directory) = (1536, inode_of(&tree, b"d"));
    let put = |at: usize, bytes: &[u8]| {
        let mut changed = tree.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        check(&changed, tar_length, uuid(&tree)).unwrap_err()
    };
    let slot = |at: usize| (at / 32) as u64;
    // A file that ends behind the tar, begins in the tree, or is a hole.
    assert_eq!(
        put(file + 8, &u64::MAX.to_le_bytes()),
        Flaw::Outside(slot(file))
    );
    assert_eq!(
        put(file + 8, &(tar_length + 1).to_le_bytes()),
        Flaw::Outside(slot(file))
    );
    assert_eq!(
        put(file + 16, &3_u32.to_le_bytes()),
        Flaw::Outside(slot(file))
    );
    assert_eq!(
        put(file + 16, &u32::MAX.to_le_bytes()),
        Flaw::Outside(slot(file))
    );
    // Another layout; more attributes than there are; another kind than in the directory.
    assert_eq!(put(file, &9_u16.to_le_bytes()), Flaw::Inode(slot(file)));
    assert!(matches!(
        put(file + 2, &u16::MAX.to_le_bytes()),
        Flaw::Place(_) | Flaw::Outside(_) | Flaw::Xattrs(_)
    ));
    assert_eq!(
        put(file + 4, &0o040_644_u16.to_le_bytes()),
        Flaw::Inode(slot(file))
    );
    assert_eq!(
        put(file + 44, &3_u32.to_le_bytes()),
        Flaw::Links(slot(file))
    );
    // The owner's number that means no owner.
    assert_eq!(
        put(file + 24, &u32::MAX.to_le_bytes()),
        Flaw::Inode(slot(file))
    );
    // A directory with a wrong count of subdirectories.
    assert_eq!(
        put(directory + 44, &3_u32.to_le_bytes()),
        Flaw::Links(slot(directory))
    );
    // A directory that contains itself, is in another's blocks, or has another size.
    let blocks = u32::from_le_bytes(tree[directory + 16..directory + 20].try_into().unwrap());
    assert_eq!(
        put(directory + 16, &(blocks - 1).to_le_bytes()),
        Flaw::Outside(slot(directory))
    );
    assert!(matches!(
        put(directory + 8, &1_u64.to_le_bytes()),
        Flaw::Directory(_) | Flaw::Outside(_)
    ));
    let entries = blocks as usize * 512;
    for (number, flaw) in [
        (0, Flaw::Directory(slot(directory))),
        (2, Flaw::Links(slot(root))),
        (3, Flaw::Links(slot(root))),
    ] {
        assert_eq!(
            put(entries + 12 * number, &slot(root).to_le_bytes()),
            flaw,
            "entry {number}"
        );
    }
    // Names that are out of order, or lead to other directories.
    let name = entries + 12 * 5;
    assert_eq!(put(name, b"/"), Flaw::Directory(slot(directory)));
    assert_eq!(put(name + 1, b"\0"), Flaw::Directory(slot(directory)));
}

#[test]
fn one_name_more_than_an_inode_says_is_refused() {
    let mut tar = Tar::default();
    tar.file(b"a", b"").link(b"b", b"a").file(b"c", b"");
    let (mut tree, tar_length) = tree(&tar);
    let slot = |name: &[u8]| (inode_of(&tree, name) / 32) as u64;
    let (first, last) = (slot(b"a"), slot(b"c").to_le_bytes());
    let at = tree.windows(8).rposition(|bytes| bytes == last).unwrap();
    tree[at..at + 8].copy_from_slice(&first.to_le_bytes());
    assert_eq!(
        check(&tree, tar_length, uuid(&tree)),
        Err(Flaw::Links(first))
    );
}
