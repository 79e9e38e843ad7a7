//! The EROFS format, as far as a tree uses it: 512-byte blocks, one device, uncompressed, 64-byte inodes.
//!
//! A file's content is a run of blocks behind the tree, in the tar. So a tree needs no feature that the kernel or
//! another reader could lack: no device table, no chunks, no shared attributes.
//!
//! The blocks of a tree are, in this order: 1024 bytes of zeros and the superblock; the inodes, breadth first from the
//! root, the children of each directory by name; then the blocks of directories and of long symbolic links, in the
//! order of their inodes; zeros up to a multiple of 4096. [`mod@write`] writes exactly this form, and [`mod@check`]
//! accepts no other.

pub mod check;
pub mod directory;
pub mod fields;
pub mod write;

/// Bytes of a block, and the exponent of that power of two.
pub const BLOCK: usize = 1 << BLOCK_BITS;
pub const BLOCK_BITS: u8 = 9;
/// The length of a tree is a multiple of this, so that the tar begins at a page.
pub const PAGE: usize = 4096;
/// The place of the superblock, and its length.
pub const SUPERBLOCK_AT: usize = 1024;
pub const SUPERBLOCK: usize = 128;
/// The place of the first inode, which is the root's.
pub const FIRST_INODE: usize = SUPERBLOCK_AT + BLOCK;
/// An inode's number is its place in units of this.
pub const SLOT: usize = 32;
/// Bytes of an inode without attributes.
pub const INODE: usize = 64;
/// The largest tree that is read into memory. 200,000 inodes with the longest names stay far below it.
pub const LARGEST: usize = 160 << 20;

/// The kinds of inodes, as in `mode` and in directories.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileType {
    File,
    Directory,
    CharDevice,
    BlockDevice,
    Fifo,
    Symlink,
}

impl FileType {
    pub const ALL: [Self; 6] = [
        Self::File,
        Self::Directory,
        Self::CharDevice,
        Self::BlockDevice,
        Self::Fifo,
        Self::Symlink,
    ];

    /// The upper bits of `st_mode`.
    pub const fn mode(self) -> u16 {
        match self {
            Self::File => 0o100_000,
            Self::Directory => 0o040_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Symlink => 0o120_000,
        }
    }

    /// The kind's number in a directory's entry.
    pub const fn entry(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Directory => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Symlink => 7,
        }
    }

    pub fn of_mode(mode: u16) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.mode() == mode & 0o170_000)
    }
}

/// The place of a symbolic link's target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// In blocks.
    Plain,
    /// Behind the inode, in the same block.
    Inline,
}

/// How a symbolic link of this length is written. A target of the inline lengths fits into a block at any place.
pub const fn symlink_layout(length: usize) -> Layout {
    if length <= BLOCK - SLOT {
        Layout::Inline
    } else {
        Layout::Plain
    }
}

/// The place of an inode, at `at` or behind it, so that the `inline` bytes behind its `head` bytes are in one block.
pub const fn place(at: usize, head: usize, inline: usize) -> usize {
    let mut at = at.next_multiple_of(SLOT);
    while (at + head) % BLOCK + inline > BLOCK {
        at += SLOT;
    }
    at
}
