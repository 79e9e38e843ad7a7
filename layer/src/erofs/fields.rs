//! The superblock and inodes, as bytes.

use super::{BLOCK, BLOCK_BITS, FIRST_INODE, INODE, Layout, SLOT, SUPERBLOCK};

/// The magic number of EROFS.
const MAGIC: u32 = 0xE0F5_E1E2;
/// The times are those of the last change of content.
const TIMES_OF_CONTENT: u32 = 2;

/// The fields of a superblock that differ between trees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superblock {
    pub inodes: u64,
    /// Blocks of tree and tar together.
    pub blocks: u32,
    pub uuid: [u8; 16],
}

impl Superblock {
    pub fn bytes(&self) -> [u8; SUPERBLOCK] {
        let mut bytes = [0; SUPERBLOCK];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC.to_le_bytes());
        put(8, &TIMES_OF_CONTENT.to_le_bytes());
        put(12, &[BLOCK_BITS]);
        put(14, &((FIRST_INODE / SLOT) as u16).to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(48, &self.uuid);
        bytes
    }
}

/// One inode. Its attributes follow it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fields {
    pub layout: Layout,
    /// The attributes' length in the unit of the format.
    pub xattr_count: u16,
    pub mode: u16,
    pub size: u64,
    /// The first block, or a device's number.
    pub place: u32,
    /// Counts up from 1, in the order of the inodes.
    pub number: u32,
    pub uid: u32,
    pub gid: u32,
    pub seconds: i64,
    pub nanoseconds: u32,
    pub links: u32,
}

impl Fields {
    pub fn bytes(&self) -> [u8; INODE] {
        let mut bytes = [0; INODE];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &format(self.layout).to_le_bytes());
        put(2, &self.xattr_count.to_le_bytes());
        put(4, &self.mode.to_le_bytes());
        put(8, &self.size.to_le_bytes());
        put(16, &self.place.to_le_bytes());
        put(20, &self.number.to_le_bytes());
        put(24, &self.uid.to_le_bytes());
        put(28, &self.gid.to_le_bytes());
        put(32, &self.seconds.to_le_bytes());
        put(40, &self.nanoseconds.to_le_bytes());
        put(44, &self.links.to_le_bytes());
        bytes
    }

    /// `None` if a bit is set that no inode of a tree has.
    pub fn read(bytes: &[u8; INODE]) -> Option<Self> {
        let layout = [Layout::Plain, Layout::Inline]
            .into_iter()
            .find(|layout| bytes[..2] == format(*layout).to_le_bytes())?;
        let fields = Self {
            layout,
            xattr_count: u16::from_le_bytes(array(bytes, 2)),
            mode: u16::from_le_bytes(array(bytes, 4)),
            size: u64::from_le_bytes(array(bytes, 8)),
            place: u32::from_le_bytes(array(bytes, 16)),
            number: u32::from_le_bytes(array(bytes, 20)),
            uid: u32::from_le_bytes(array(bytes, 24)),
            gid: u32::from_le_bytes(array(bytes, 28)),
            seconds: i64::from_le_bytes(array(bytes, 32)),
            nanoseconds: u32::from_le_bytes(array(bytes, 40)),
            links: u32::from_le_bytes(array(bytes, 44)),
        };
        (fields.bytes() == *bytes).then_some(fields)
    }
}

/// Bit 0: 64 bytes long. From bit 1: where the content is.
const fn format(layout: Layout) -> u16 {
    match layout {
        Layout::Plain => 1,
        Layout::Inline => 1 | 2 << 1,
    }
}

/// The bytes of a field.
pub fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// How many blocks this many bytes take.
pub const fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK as u64)
}
