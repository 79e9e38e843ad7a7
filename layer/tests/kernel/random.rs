//! Random tars: the kernel shows for an index the same files as GNU tar extracts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tar::EntryType;

use crate::directory::Directory;
use crate::machine::{extracted, mounted};
use crate::made::{Format, Said, Tar};

#[derive(Clone, Debug)]
enum Step {
    File(Vec<u8>),
    Directory,
    Symlink(Vec<u8>),
    Link(Index),
    Device(bool, u32, u32),
    Fifo,
    Whiteout,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..2000).prop_map(Step::File),
        4 => Just(Step::Directory),
        2 => vec(1_u8..255, 1..600).prop_map(Step::Symlink),
        2 => any::<Index>().prop_map(Step::Link),
        1 => (any::<bool>(), 0_u32..0x1000, 0_u32..0x10_0000).prop_map(|(c, major, minor)| Step::Device(c, major, minor)),
        1 => Just(Step::Fifo),
        1 => Just(Step::Whiteout),
    ]
}

fn name() -> impl Strategy<Value = String> {
    let names = [
        "a", "b", "c", "!", "-", "a b", "é", "..a", ".a", "aa", "zzz",
    ]
    .map(ToOwned::to_owned);
    prop_oneof![6 => select(names.to_vec()), 1 => "[a-b]{100,255}"]
}

fn said() -> impl Strategy<Value = Said> {
    let xattr = (
        "(user|trusted|security)\\.[a-z]{1,40}",
        vec(any::<u8>(), 0..60),
    );
    let xattrs = prop_oneof![3 => Just(Vec::new()), 1 => vec(xattr, 1..4)];
    let owner = prop_oneof![0_u64..3000, Just(0xffff_fffe)];
    let seconds = prop_oneof![0_i64..0x7fff_ffff, -1000_i64..0, Just(0x1_0000_0000)];
    let nanoseconds = prop_oneof![Just(0), 0_u32..1_000_000_000];
    (
        select(vec![Format::Gnu, Format::Pax]),
        0_u32..0o10_000,
        owner.clone(),
        owner,
        seconds,
        nanoseconds,
        xattrs,
    )
        .prop_map(|(format, mode, uid, gid, seconds, nanoseconds, xattrs)| {
            // If an attribute comes twice, the last one counts.
            let xattrs = xattrs
                .into_iter()
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .collect();
            Said {
                format,
                mode,
                uid,
                gid,
                seconds,
                nanoseconds,
                xattrs,
            }
        })
}

/// A tar about which GNU tar and containerd agree, and its entries that GNU tar does not know.
#[derive(Default)]
struct Agreed {
    tar: Tar,
    /// All names; `true` for directories.
    names: BTreeMap<PathBuf, bool>,
    said: BTreeMap<PathBuf, Said>,
    /// Names with the same number are links of one file.
    inodes: BTreeMap<PathBuf, usize>,
    whiteouts: BTreeSet<PathBuf>,
    /// Directories that no entry describes.
    implied: BTreeSet<PathBuf>,
}

impl Agreed {
    fn step(&mut self, path: &Path, step: &Step, mut said: Said) {
        for parent in path.ancestors().skip(1) {
            if self.names.get(parent) == Some(&false) {
                return;
            }
        }
        let before = self.names.get(path).copied();
        let has_children = self
            .names
            .keys()
            .any(|name| name != path && name.starts_with(path));
        let is_directory = matches!(step, Step::Directory);
        // GNU tar never replaces a directory that is not empty, and never replaces anything by a directory.
        if (before == Some(true)) != is_directory && (has_children || before.is_some()) {
            return;
        }
        let bytes = path.to_str().unwrap().as_bytes();
        let mut inode = self.said.len() + self.tar.0.len();
        match step {
            Step::File(content) => {
                self.tar
                    .entry(bytes, EntryType::Regular, content, b"", (0, 0), &said);
            }
            Step::Directory => {
                // With the set-group-ID bit, new files would get the directory's group.
                said.mode &= 0o5777;
                // GNU tar forgets the attributes of a directory's first entry; a runtime adds those of the second to
                // them.
                if let Some(first) = self.said.get(path) {
                    said.xattrs.clone_from(&first.xattrs);
                }
                self.tar
                    .entry(bytes, EntryType::Directory, b"", b"", (0, 0), &said);
            }
            Step::Symlink(target) => {
                said.xattrs.retain(|(name, _)| !name.starts_with("user."));
                self.tar
                    .entry(bytes, EntryType::Symlink, b"", target, (0, 0), &said);
            }
            Step::Link(index) => {
                let files: Vec<_> = self
                    .said
                    .keys()
                    .filter(|name| self.names.get(*name) == Some(&false))
                    .cloned()
                    .collect();
                let target = (!files.is_empty()).then(|| index.get(&files).clone());
                // A link to itself is refused.
                let own = self.inodes.get(path).copied();
                let Some(target) = target.filter(|target| self.inodes.get(target).copied() != own)
                else {
                    return;
                };
                inode = self.inodes[&target];
                said = Said {
                    xattrs: Vec::new(),
                    ..self.said[&target].clone()
                };
                let target = target.to_str().unwrap().as_bytes();
                self.tar
                    .entry(bytes, EntryType::Link, b"", target, (0, 0), &said);
            }
            Step::Device(character, major, minor) => {
                said.xattrs.retain(|(name, _)| !name.starts_with("user."));
                let kind = if *character {
                    EntryType::Char
                } else {
                    EntryType::Block
                };
                self.tar
                    .entry(bytes, kind, b"", b"", (*major, *minor), &said);
            }
            Step::Fifo => {
                said.xattrs.retain(|(name, _)| !name.starts_with("user."));
                self.tar
                    .entry(bytes, EntryType::Fifo, b"", b"", (0, 0), &said);
            }
            Step::Whiteout => {
                if before.is_some() {
                    return;
                }
                let hidden = path.with_file_name(format!(
                    ".wh.{}",
                    path.file_name().unwrap().to_str().unwrap()
                ));
                if hidden.file_name().unwrap().len() > 255 || self.whiteouts.contains(path) {
                    return;
                }
                let plain = Said {
                    mode: 0o600,
                    xattrs: Vec::new(),
                    ..said
                };
                self.tar.entry(
                    hidden.to_str().unwrap().as_bytes(),
                    EntryType::Regular,
                    b"",
                    b"",
                    (0, 0),
                    &plain,
                );
                self.whiteouts.insert(path.to_owned());
                self.imply(path);
                return;
            }
        }
        self.imply(path);
        self.implied.remove(path);
        self.names.insert(path.to_owned(), is_directory);
        self.inodes.insert(path.to_owned(), inode);
        self.said.insert(path.to_owned(), said);
    }

    fn imply(&mut self, path: &Path) {
        for parent in path.ancestors().skip(1) {
            if !parent.as_os_str().is_empty()
                && self.names.insert(parent.to_owned(), true).is_none()
            {
                self.implied.insert(parent.to_owned());
            }
        }
    }

    /// The files that GNU tar extracts, with whiteouts in overlayfs' form.
    fn expected(&self) -> Directory {
        let mut found = extracted(&self.tar.end());
        for path in &self.whiteouts {
            let hidden = path.with_file_name(format!(
                ".wh.{}",
                path.file_name().unwrap().to_str().unwrap()
            ));
            let mut file = found
                .0
                .remove(&hidden)
                .expect("the whiteout, extracted as a file");
            match found.0.get_mut(path) {
                Some(own) if own.mode & 0o170_000 == 0o040_000 => {
                    own.xattrs
                        .insert(b"trusted.overlay.opaque".to_vec(), b"y".to_vec());
                }
                Some(_) => {}
                None => {
                    file.mode = 0o020_000;
                    file.same_as.clone_from(path);
                    found.0.insert(path.clone(), file);
                    let parent = path.parent().unwrap();
                    let origin = (b"trusted.overlay.origin".to_vec(), Vec::new());
                    found.0.get_mut(parent).unwrap().xattrs.extend([origin]);
                }
            }
        }
        for path in self
            .implied
            .iter()
            .map(PathBuf::as_path)
            .chain([Path::new("")])
        {
            let file = found.0.get_mut(path).unwrap();
            (file.mode, file.seconds, file.nanoseconds) = (0o040_755, 0, 0);
        }
        found
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mounted_index_is_what_gnu_tar_extracts(
        steps in vec((vec(name(), 1..4), step(), said()), 0..60),
    ) {
        let mut agreed = Agreed::default();
        for (names, step, said) in &steps {
            agreed.step(&names.iter().collect::<PathBuf>(), step, said.clone());
        }
        mounted(&agreed.tar.end()).assert_is(&agreed.expected());
    }
}
