//! Writes a tree in one go, after a plan has placed every part of it.

use std::io::{self, Write};

use super::fields::{Fields, Superblock, blocks};
use super::{
    BLOCK, FIRST_INODE, FileType, INODE, Layout, PAGE, SLOT, SUPERBLOCK_AT, directory, place,
    symlink_layout,
};
use crate::refused::Refused;
use crate::tree::{Content, Inode, ROOT, Tree};
use crate::xattr::{self, HAS_WHITEOUTS, OPAQUE, Pair};

/// No place yet.
const NOWHERE: u32 = u32::MAX;

/// The place of every part of a tree.
pub struct Plan<'a> {
    tree: &'a Tree,
    /// The inodes, in the order in which they are written.
    order: Vec<u32>,
    /// The slot of each inode, by its number in the tree.
    slots: Vec<u32>,
    /// The parent of each directory.
    parents: Vec<u32>,
    /// The first block of directories and long links, behind the inodes.
    blocks_at: u64,
    length: u64,
    tar_blocks: u64,
}

/// How much room an inode takes.
struct Room {
    head: usize,
    inline: usize,
    blocks: u64,
}

impl<'a> Plan<'a> {
    /// Plans a tree that stands before a tar of this length.
    pub fn new(tree: &'a Tree, tar_length: u64) -> Result<Self, Refused> {
        let mut plan = Self {
            tree,
            order: Vec::new(),
            slots: vec![NOWHERE; tree.made()],
            parents: vec![ROOT; tree.made()],
            blocks_at: 0,
            length: 0,
            tar_blocks: tar_length / BLOCK as u64,
        };
        let mut end = FIRST_INODE;
        let mut blocks = 0;
        plan.assign(ROOT, &mut end, &mut blocks);
        let mut next = 0;
        while let Some(number) = plan.order.get(next).copied() {
            next += 1;
            let Some(directory) = tree.inode(number).directory() else {
                continue;
            };
            for child in directory.children.values() {
                if plan.slots[*child as usize] == NOWHERE {
                    plan.parents[*child as usize] = number;
                    plan.assign(*child, &mut end, &mut blocks);
                }
            }
        }
        plan.blocks_at = end.div_ceil(BLOCK) as u64;
        plan.length = ((plan.blocks_at + blocks) * BLOCK as u64).next_multiple_of(PAGE as u64);
        // The largest block number means a hole.
        if plan.all_blocks() >= u64::from(u32::MAX) {
            return Err(Refused::TooLarge);
        }
        Ok(plan)
    }

    fn assign(&mut self, number: u32, end: &mut usize, blocks: &mut u64) {
        let room = room(self.tree, self.tree.inode(number));
        let at = place(*end, room.head, room.inline);
        self.slots[number as usize] = (at / SLOT) as u32;
        *end = at + room.head + room.inline;
        *blocks += room.blocks;
        self.order.push(number);
    }

    /// Bytes of the tree.
    pub const fn length(&self) -> u64 {
        self.length
    }

    pub const fn inodes(&self) -> usize {
        self.order.len()
    }

    /// Directories that the tar has no entry for, without the root.
    pub fn implied(&self) -> usize {
        let implied = |number: &&u32| {
            let directory = self.tree.inode(**number).directory();
            **number != ROOT && directory.is_some_and(|directory| directory.implied)
        };
        self.order.iter().filter(implied).count()
    }

    fn all_blocks(&self) -> u64 {
        self.length / BLOCK as u64 + self.tar_blocks
    }

    /// Writes the tree.
    pub fn write(&self, uuid: [u8; 16], to: &mut impl Write) -> io::Result<()> {
        let superblock = Superblock {
            inodes: self.order.len() as u64,
            blocks: self.all_blocks() as u32,
            uuid,
        };
        let mut bytes = vec![0; SUPERBLOCK_AT];
        bytes.extend_from_slice(&superblock.bytes());
        bytes.resize(FIRST_INODE, 0);
        let mut at = 0;
        let mut block = self.blocks_at;
        for (index, number) in self.order.iter().enumerate() {
            let inode = self.tree.inode(*number);
            let begin = self.slots[*number as usize] as usize * SLOT;
            bytes.resize(begin - at, 0);
            at += send(&mut bytes, to)?;
            self.write_inode(*number, index, block, &mut bytes);
            block += room(self.tree, inode).blocks;
        }
        bytes.resize(self.blocks_at as usize * BLOCK - at, 0);
        at += send(&mut bytes, to)?;
        for number in &self.order {
            match &self.tree.inode(*number).content {
                Content::Directory(_) => self.write_directory(*number, &mut bytes),
                Content::Symlink(target) if symlink_layout(target.len()) == Layout::Plain => {
                    bytes.extend_from_slice(target);
                    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
                }
                _ => continue,
            }
            at += send(&mut bytes, to)?;
        }
        bytes.resize(self.length as usize - at, 0);
        send(&mut bytes, to)?;
        Ok(())
    }

    fn write_inode(&self, number: u32, index: usize, block: u64, to: &mut Vec<u8>) {
        let inode = self.tree.inode(number);
        let tree_blocks = (self.length / BLOCK as u64) as u32;
        let mut links = inode.links;
        let mut inline: &[u8] = &[];
        let (layout, size, place) = match &inode.content {
            Content::File { size: 0, .. } | Content::Fifo | Content::Whiteout => {
                (Layout::Plain, 0, 0)
            }
            Content::File { block, size } => (Layout::Plain, *size, tree_blocks + block),
            Content::Directory(directory) => {
                let below = directory.children.values();
                links = 2 + below
                    .filter(|child| self.tree.inode(**child).directory().is_some())
                    .count() as u32;
                (Layout::Plain, directory_size(inode), block as u32)
            }
            Content::Symlink(target) if symlink_layout(target.len()) == Layout::Inline => {
                inline = target;
                (Layout::Inline, target.len() as u64, 0)
            }
            Content::Symlink(target) => (Layout::Plain, target.len() as u64, block as u32),
            Content::CharDevice(device) | Content::BlockDevice(device) => {
                (Layout::Plain, 0, *device)
            }
        };
        let pairs = pairs(self.tree, inode);
        let fields = Fields {
            layout,
            xattr_count: xattr::count(xattr::size(&pairs)),
            mode: file_type(&inode.content).mode() | inode.mode,
            size,
            place,
            number: index as u32 + 1,
            uid: inode.uid,
            gid: inode.gid,
            seconds: inode.seconds,
            nanoseconds: inode.nanoseconds,
            links,
        };
        to.extend_from_slice(&fields.bytes());
        xattr::write(&pairs, to);
        to.extend_from_slice(inline);
    }

    fn write_directory(&self, number: u32, to: &mut Vec<u8>) {
        let Some(directory) = self.tree.inode(number).directory() else {
            return;
        };
        let names = directory.children.keys().map(|name| &**name);
        let entries: Vec<_> = directory::with_dots(names)
            .map(|name| {
                let leads = match name {
                    b"." => number,
                    b".." => self.parents[number as usize],
                    name => directory.children[name],
                };
                directory::Named {
                    name,
                    slot: u64::from(self.slots[leads as usize]),
                    kind: file_type(&self.tree.inode(leads).content),
                }
            })
            .collect();
        directory::write(&entries, to);
    }
}

/// Writes and empties `bytes`.
fn send(bytes: &mut Vec<u8>, to: &mut impl Write) -> io::Result<usize> {
    let length = bytes.len();
    to.write_all(bytes)?;
    bytes.clear();
    Ok(length)
}

fn file_type(content: &Content) -> FileType {
    match content {
        Content::File { .. } => FileType::File,
        Content::Directory(_) => FileType::Directory,
        Content::Symlink(_) => FileType::Symlink,
        Content::CharDevice(_) | Content::Whiteout => FileType::CharDevice,
        Content::BlockDevice(_) => FileType::BlockDevice,
        Content::Fifo => FileType::Fifo,
    }
}

fn directory_size(inode: &Inode) -> u64 {
    let names = inode
        .directory()
        .into_iter()
        .flat_map(|directory| directory.children.keys());
    directory::size(directory::with_dots(names.map(|name| &**name)))
}

fn room(tree: &Tree, inode: &Inode) -> Room {
    let (inline, in_blocks) = match &inode.content {
        Content::Directory(_) => (0, directory_size(inode)),
        Content::Symlink(target) => match symlink_layout(target.len()) {
            Layout::Inline => (target.len(), 0),
            Layout::Plain => (0, target.len() as u64),
        },
        _ => (0, 0),
    };
    Room {
        head: INODE + xattr::size(&pairs(tree, inode)),
        inline,
        blocks: blocks(in_blocks),
    }
}

/// The attributes of an inode, including those for overlayfs.
fn pairs<'a>(tree: &Tree, inode: &'a Inode) -> Vec<Pair<'a>> {
    let mut own = Vec::new();
    if let Some(directory) = inode.directory() {
        let is_whiteout = |child: &u32| matches!(tree.inode(*child).content, Content::Whiteout);
        if directory.opaque {
            own.push(OPAQUE);
        }
        if directory.children.values().any(is_whiteout) {
            own.push(HAS_WHITEOUTS);
        }
    }
    xattr::pairs(inode.xattrs.as_deref(), &own)
}
