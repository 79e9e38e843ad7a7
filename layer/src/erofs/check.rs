//! Checks that a tree must pass before a kernel may see it.
//!
//! A tree may come from elsewhere, and a kernel's file system code is a large attack surface. So this check accepts
//! only trees that [`super::write`] could have written: each part begins exactly where the one before it ends, all
//! bytes between are zero, and all numbers are in range. An accepted tree has no overlaps, no circles, and no pointer
//! outside of tree and tar.

use std::collections::HashMap;

use super::fields::{Fields, Superblock, array, blocks};
use super::{
    BLOCK, FIRST_INODE, FileType, INODE, LARGEST, Layout, PAGE, SLOT, SUPERBLOCK, SUPERBLOCK_AT,
};
use super::{directory, place, symlink_layout};
use crate::xattr::{self, Pair};

/// Why a tree is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Flaw {
    #[error("the tree has no valid length")]
    Length,
    #[error("the superblock is not the one of this tree and tar")]
    Superblock,
    #[error("the inode in slot {0} is not valid")]
    Inode(u64),
    #[error("the inode in slot {0} does not stand where the one before it ends")]
    Place(u64),
    #[error("the inode in slot {0} points outside of its part")]
    Outside(u64),
    #[error("the attributes of the inode in slot {0} are not valid")]
    Xattrs(u64),
    #[error("the directory in slot {0} is not valid")]
    Directory(u64),
    #[error("the symbolic link in slot {0} is not valid")]
    Symlink(u64),
    #[error("the inode in slot {0} has another number of names than it says")]
    Links(u64),
    #[error("something stands where nothing should, at byte {0}")]
    Padding(u64),
    #[error("the tree has another number of inodes than it says, or ends elsewhere")]
    End,
}

/// Facts about an accepted tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    pub inodes: u64,
}

/// A name of the tree, as the walk finds it.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// The slot of the directory; the root's own for the root.
    pub parent: u64,
    pub name: &'a [u8],
    pub slot: u64,
    pub kind: FileType,
    /// The inode; `None` if another name of the same inode came before.
    pub inode: Option<(Fields, Vec<Pair<'a>>, &'a [u8])>,
}

/// Checks a tree that stands before a tar of this length.
pub fn check(tree: &[u8], tar_length: u64, uuid: [u8; 16]) -> Result<Facts, Flaw> {
    walk(tree, tar_length, uuid, |_| {})
}

/// Checks a tree, and reports its names: a directory before the names in it.
pub fn walk<'a>(
    tree: &'a [u8],
    tar_length: u64,
    uuid: [u8; 16],
    mut found: impl FnMut(Found<'a>),
) -> Result<Facts, Flaw> {
    if tree.len() < PAGE || tree.len() > LARGEST || !tree.len().is_multiple_of(PAGE) {
        return Err(Flaw::Length);
    }
    let mut walk = Walk {
        tree,
        tree_blocks: (tree.len() / BLOCK) as u64,
        all_blocks: (tree.len() / BLOCK) as u64 + tar_length / BLOCK as u64,
        end: FIRST_INODE,
        next_block: 0,
        inodes: 0,
        directories: Vec::new(),
        more_names: HashMap::new(),
    };
    let inodes = walk.superblock(uuid)?;
    let root = (FIRST_INODE / SLOT) as u64;
    // The root's inode says where the blocks of directories begin. `finish` checks that this is right.
    walk.next_block = u64::from(u32::from_le_bytes(array(tree, FIRST_INODE + 16)));
    let first_block = walk.next_block;
    let inode = walk.discover(root, root, FileType::Directory)?;
    found(Found {
        parent: root,
        name: b"",
        slot: root,
        kind: FileType::Directory,
        inode: Some(inode),
    });
    let mut next = 0;
    while next < walk.directories.len() {
        walk.directory(next, &mut found)?;
        next += 1;
    }
    walk.finish(first_block, inodes)?;
    Ok(Facts { inodes })
}

#[derive(Clone, Copy)]
struct Listing {
    slot: u64,
    parent: u64,
    fields: Fields,
}

struct Walk<'a> {
    tree: &'a [u8],
    tree_blocks: u64,
    all_blocks: u64,
    /// The end of the inodes so far.
    end: usize,
    /// The end of the blocks of directories and links so far.
    next_block: u64,
    inodes: u64,
    /// The directories so far, in the order in which they are read.
    directories: Vec<Listing>,
    /// For each inode, how many more names it should have.
    more_names: HashMap<u64, (u32, FileType)>,
}

impl<'a> Walk<'a> {
    fn superblock(&self, uuid: [u8; 16]) -> Result<u64, Flaw> {
        let bytes: &[u8; SUPERBLOCK] = &array(self.tree, SUPERBLOCK_AT);
        let inodes = u64::from_le_bytes(array(bytes, 16));
        let blocks = u32::try_from(self.all_blocks).map_err(|_| Flaw::Length)?;
        let right = Superblock {
            inodes,
            blocks,
            uuid,
        };
        if blocks == u32::MAX || *bytes != right.bytes() {
            return Err(Flaw::Superblock);
        }
        self.zeros(0, SUPERBLOCK_AT)?;
        self.zeros(SUPERBLOCK_AT + SUPERBLOCK, FIRST_INODE)?;
        Ok(inodes)
    }

    fn zeros(&self, from: usize, to: usize) -> Result<(), Flaw> {
        let bytes = self.tree.get(from..to).ok_or(Flaw::End)?;
        match bytes.iter().position(|byte| *byte != 0) {
            Some(at) => Err(Flaw::Padding((from + at) as u64)),
            None => Ok(()),
        }
    }

    /// Reads the next inode. It is in `slot` if the tree is right.
    fn discover(
        &mut self,
        slot: u64,
        parent: u64,
        kind: FileType,
    ) -> Result<(Fields, Vec<Pair<'a>>, &'a [u8]), Flaw> {
        let tree = self.tree;
        let at = usize::try_from(slot)
            .ok()
            .and_then(|slot| slot.checked_mul(SLOT));
        let at = at
            .filter(|at| at + INODE <= tree.len())
            .ok_or(Flaw::Outside(slot))?;
        let fields = Fields::read(&array(tree, at)).ok_or(Flaw::Inode(slot))?;
        self.inodes += 1;
        let right = FileType::of_mode(fields.mode) == Some(kind)
            && u64::from(fields.number) == self.inodes
            && fields.nanoseconds < 1_000_000_000
            // The largest number means no owner.
            && fields.uid.max(fields.gid) < u32::MAX
            && fields.links > 0;
        if !right {
            return Err(Flaw::Inode(slot));
        }
        let head = INODE + xattr_bytes(fields.xattr_count);
        let inline = match fields.layout {
            Layout::Inline => usize::try_from(fields.size).map_err(|_| Flaw::Inode(slot))?,
            Layout::Plain => 0,
        };
        if inline > BLOCK || at != place(self.end, head, inline) {
            return Err(Flaw::Place(slot));
        }
        self.zeros(self.end, at)?;
        self.end = at + head + inline;
        let own = tree.get(at..self.end).ok_or(Flaw::Outside(slot))?;
        let (directory, file) = (kind == FileType::Directory, kind == FileType::File);
        let pairs = xattr::read(&own[INODE..head], directory, directory || file);
        let pairs = pairs.ok_or(Flaw::Xattrs(slot))?;
        let target = self.content(slot, kind, &fields, &own[head..])?;
        if directory {
            self.directories.push(Listing {
                slot,
                parent,
                fields,
            });
        } else if fields.links > 1 {
            self.more_names.insert(slot, (fields.links - 1, kind));
        }
        Ok((fields, pairs, target))
    }

    /// Checks the place of the content. Returns the target of a symbolic link.
    fn content(
        &mut self,
        slot: u64,
        kind: FileType,
        fields: &Fields,
        inline: &'a [u8],
    ) -> Result<&'a [u8], Flaw> {
        let place = u64::from(fields.place);
        if fields.layout == Layout::Inline && kind != FileType::Symlink {
            return Err(Flaw::Inode(slot));
        }
        match kind {
            FileType::File if fields.size == 0 => nothing(slot, fields.place == 0),
            FileType::File => {
                let end = place
                    .checked_add(blocks(fields.size))
                    .ok_or(Flaw::Outside(slot))?;
                let inside = place >= self.tree_blocks && end <= self.all_blocks;
                if inside {
                    Ok(&[])
                } else {
                    Err(Flaw::Outside(slot))
                }
            }
            FileType::Directory => self.own_blocks(slot, place, fields.size).map(|_| &[][..]),
            FileType::Symlink => {
                let length = usize::try_from(fields.size).unwrap_or(usize::MAX);
                if length == 0 || length > 4095 || fields.layout != symlink_layout(length) {
                    return Err(Flaw::Symlink(slot));
                }
                let target = match fields.layout {
                    Layout::Inline if place == 0 => inline,
                    Layout::Inline => return Err(Flaw::Symlink(slot)),
                    Layout::Plain => {
                        let (target, behind) =
                            self.own_blocks(slot, place, fields.size)?.split_at(length);
                        if behind.iter().any(|byte| *byte != 0) {
                            return Err(Flaw::Symlink(slot));
                        }
                        target
                    }
                };
                if target.contains(&0) {
                    Err(Flaw::Symlink(slot))
                } else {
                    Ok(target)
                }
            }
            FileType::CharDevice | FileType::BlockDevice => nothing(slot, fields.size == 0),
            FileType::Fifo => nothing(slot, fields.size == 0 && fields.place == 0),
        }
    }

    /// The blocks of a directory or a long link. In a right tree, these are the next blocks.
    fn own_blocks(&mut self, slot: u64, place: u64, size: u64) -> Result<&'a [u8], Flaw> {
        let end = place.checked_add(blocks(size)).ok_or(Flaw::Outside(slot))?;
        if size == 0 || place != self.next_block || end > self.tree_blocks {
            return Err(Flaw::Outside(slot));
        }
        self.next_block = end;
        Ok(&self.tree[place as usize * BLOCK..end as usize * BLOCK])
    }

    /// Reads the directory with this number in `directories`.
    fn directory(&mut self, index: usize, found: &mut impl FnMut(Found<'a>)) -> Result<(), Flaw> {
        let Listing {
            slot,
            parent,
            fields,
        } = self.directories[index];
        let from = fields.place as usize * BLOCK;
        let bytes = &self.tree[from..from + blocks(fields.size) as usize * BLOCK];
        let entries = directory::read(bytes, fields.size).ok_or(Flaw::Directory(slot))?;
        let (mut links, mut dots) = (2, 0);
        for entry in entries {
            let directory = entry.kind == FileType::Directory;
            let leads = match entry.name {
                b"." => Some(slot),
                b".." => Some(parent),
                _ => None,
            };
            if let Some(leads) = leads {
                if entry.slot != leads || !directory {
                    return Err(Flaw::Directory(slot));
                }
                dots += 1;
                continue;
            }
            links += u32::from(directory);
            let before = entry.slot < (self.end / SLOT) as u64;
            let inode = if before {
                self.another_name(entry.slot, entry.kind)?;
                None
            } else {
                Some(self.discover(entry.slot, slot, entry.kind)?)
            };
            found(Found {
                parent: slot,
                name: entry.name,
                slot: entry.slot,
                kind: entry.kind,
                inode,
            });
        }
        if links != fields.links {
            return Err(Flaw::Links(slot));
        }
        if dots == 2 {
            Ok(())
        } else {
            Err(Flaw::Directory(slot))
        }
    }

    fn another_name(&mut self, slot: u64, kind: FileType) -> Result<(), Flaw> {
        match self.more_names.get_mut(&slot) {
            Some((left, known)) if *left > 0 && *known == kind => {
                *left -= 1;
                Ok(())
            }
            _ => Err(Flaw::Links(slot)),
        }
    }

    fn finish(&self, first_block: u64, inodes: u64) -> Result<(), Flaw> {
        if let Some((slot, _)) = self.more_names.iter().find(|(_, (left, _))| *left > 0) {
            return Err(Flaw::Links(*slot));
        }
        let end = self.next_block as usize * BLOCK;
        let right = self.end.div_ceil(BLOCK) as u64 == first_block
            && end.next_multiple_of(PAGE) == self.tree.len()
            && inodes == self.inodes;
        if !right {
            return Err(Flaw::End);
        }
        self.zeros(self.end, first_block as usize * BLOCK)?;
        self.zeros(end, self.tree.len())
    }
}

/// The result for an inode without content of its own.
fn nothing(slot: u64, right: bool) -> Result<&'static [u8], Flaw> {
    if right {
        Ok(&[])
    } else {
        Err(Flaw::Inode(slot))
    }
}

/// How many bytes of attributes an inode with this count has.
fn xattr_bytes(count: u16) -> usize {
    match count {
        0 => 0,
        count => 12 + 4 * (usize::from(count) - 1),
    }
}
