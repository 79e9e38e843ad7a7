//! An index as a file: windows, tree, table of spans, footer. docs/index-format.md says the same in words.
//!
//! Windows come first, so that a build writes as it reads. The footer is at the end and has one length; it says where
//! the rest is, and closes with a sha256 of all before it.

use crate::erofs::fields::array;

/// What a file begins and a footer ends with. The number is the format's version.
pub const MAGIC: [u8; 8] = *b"larderL\x01";
/// Bytes of a footer.
pub const FOOTER: usize = 256;
/// Bytes of a span in the table.
pub const RECORD: usize = 104;

/// How much of the tar is between checkpoints, if blocks allow.
pub const SPAN: u64 = 2 << 20;
/// Compressed bytes after which there is a checkpoint, even if the tar has not grown by a span.
pub const COMPRESSED_SPAN: u64 = 4 << 20;
/// The most bytes of a span, compressed or not.
pub const LONGEST_SPAN: u64 = 32 << 20;

/// The most spans of a layer: its tar has 128 GiB or less.
pub const MOST_SPANS: usize = 1 << 16;

/// A sha256.
pub type Hash = [u8; 32];

/// How a layer is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    None,
    Gzip,
}

/// How the decoding of a span begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// The bytes are the tar's own.
    Plain,
    /// With the header of a gzip member.
    Member,
    /// With a deflate block, whose first bits are the upper ones of the span's first byte, if `bits` is not 0.
    Block { bits: u8 },
}

impl Start {
    /// A span that begins inside a byte has this byte too.
    pub fn shared(self) -> u64 {
        match self {
            Self::Block { bits: 1.. } => 1,
            _ => 0,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Plain => 0x10,
            Self::Member => 0x20,
            Self::Block { bits } => bits,
        }
    }

    fn of_code(code: u8) -> Option<Self> {
        match code {
            0x10 => Some(Self::Plain),
            0x20 => Some(Self::Member),
            bits @ 0..8 => Some(Self::Block { bits }),
            _ => None,
        }
    }
}

/// A piece of the tar that can be decoded by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Where its first byte is in the layer, as it is stored.
    pub layer_at: u64,
    /// And where in the tar.
    pub tar_at: u64,
    pub layer_length: u64,
    pub tar_length: u64,
    pub start: Start,
    /// The window before it, compressed, in the index. No bytes: nothing refers to it.
    pub window_at: u64,
    pub window_length: u32,
    /// Of the bytes of the layer, with the shared one.
    pub layer_hash: Hash,
    /// Of the bytes of the tar.
    pub tar_hash: Hash,
}

impl Span {
    pub fn bytes(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &self.layer_at.to_le_bytes());
        put(8, &self.tar_at.to_le_bytes());
        put(16, &(self.layer_length as u32).to_le_bytes());
        put(20, &(self.tar_length as u32).to_le_bytes());
        put(24, &self.window_at.to_le_bytes());
        put(32, &self.window_length.to_le_bytes());
        put(36, &[self.start.code()]);
        put(40, &self.layer_hash);
        put(72, &self.tar_hash);
        bytes
    }

    pub fn read(bytes: &[u8; RECORD]) -> Option<Self> {
        let span = Self {
            layer_at: u64::from_le_bytes(array(bytes, 0)),
            tar_at: u64::from_le_bytes(array(bytes, 8)),
            layer_length: u64::from(u32::from_le_bytes(array(bytes, 16))),
            tar_length: u64::from(u32::from_le_bytes(array(bytes, 20))),
            window_at: u64::from_le_bytes(array(bytes, 24)),
            window_length: u32::from_le_bytes(array(bytes, 32)),
            start: Start::of_code(bytes[36])?,
            layer_hash: array(bytes, 40),
            tar_hash: array(bytes, 72),
        };
        (span.bytes() == *bytes).then_some(span)
    }
}

/// What stands at the end of an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footer {
    pub compression: Compression,
    /// sha256 of the layer as it is stored, and of its tar: the diffID.
    pub layer: Hash,
    pub diff_id: Hash,
    pub layer_length: u64,
    pub tar_length: u64,
    /// Where the compressed tree is, and how long it is, compressed and not.
    pub tree_at: u64,
    pub tree_stored: u64,
    pub tree_length: u64,
    pub inodes: u64,
    /// Directories that the tar has no entry for.
    pub implied: u64,
    pub spans: u64,
    /// sha256 of the tree.
    pub tree_hash: Hash,
    /// sha256 of all bytes of the index before it.
    pub seal: Hash,
}

/// Where the seal stands in a footer.
pub const SEAL_AT: usize = FOOTER - MAGIC.len() - 32;

impl Footer {
    pub fn bytes(&self) -> [u8; FOOTER] {
        let mut bytes = [0; FOOTER];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &self.layer);
        put(32, &self.diff_id);
        put(64, &self.tree_hash);
        put(96, &self.layer_length.to_le_bytes());
        put(104, &self.tar_length.to_le_bytes());
        put(112, &self.tree_at.to_le_bytes());
        put(120, &self.tree_stored.to_le_bytes());
        put(128, &self.tree_length.to_le_bytes());
        put(136, &self.inodes.to_le_bytes());
        put(144, &self.implied.to_le_bytes());
        put(152, &self.spans.to_le_bytes());
        put(
            160,
            &[match self.compression {
                Compression::None => 0,
                Compression::Gzip => 1,
            }],
        );
        put(SEAL_AT, &self.seal);
        put(FOOTER - MAGIC.len(), &MAGIC);
        bytes
    }

    /// Nothing if it is no footer, or one of another version.
    pub fn read(bytes: &[u8; FOOTER]) -> Option<Self> {
        let number = |at: usize| u64::from_le_bytes(array(bytes, at));
        let footer = Self {
            compression: match bytes[160] {
                0 => Compression::None,
                1 => Compression::Gzip,
                _ => return None,
            },
            layer: array(bytes, 0),
            diff_id: array(bytes, 32),
            tree_hash: array(bytes, 64),
            layer_length: number(96),
            tar_length: number(104),
            tree_at: number(112),
            tree_stored: number(120),
            tree_length: number(128),
            inodes: number(136),
            implied: number(144),
            spans: number(152),
            seal: array(bytes, SEAL_AT),
        };
        (footer.bytes() == *bytes).then_some(footer)
    }

    /// The first bytes of the diffID name the file system.
    pub fn uuid(&self) -> [u8; 16] {
        array(&self.diff_id, 0)
    }
}
