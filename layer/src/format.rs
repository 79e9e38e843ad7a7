//! The file of an index: windows, tree, table of spans, footer. docs/index-format.md describes it in words.
//!
//! Windows come first, so that a build can write while it reads. The footer has a fixed length and stands at the end.
//! It tells where the other parts are, and ends with a sha256 of all bytes before that.

use crate::erofs::fields::array;

/// The first bytes of the file and the last bytes of the footer. The final byte is the format's version.
pub const MAGIC: [u8; 8] = *b"larderL\x01";
/// Bytes of a footer.
pub const FOOTER: usize = 256;
/// Bytes of a span in the table.
pub const RECORD: usize = 104;

/// The distance between checkpoints in the tar, if the blocks allow it.
pub const SPAN: u64 = 2 << 20;
/// After this many compressed bytes there is a checkpoint, even if the tar has not grown by a span.
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
    /// The bytes are the tar's own bytes.
    Plain,
    /// With the header of a gzip member.
    Member,
    /// With a deflate block. If `bits` is not 0, the block begins with that many upper bits of the span's first byte.
    Block { bits: u8 },
}

impl Start {
    /// How many bytes the span shares with the one before: one, if it begins inside a byte.
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
    /// The place of the span's first byte in the layer as it was pushed.
    pub layer_at: u64,
    /// The place of its first byte in the tar.
    pub tar_at: u64,
    pub layer_length: u64,
    pub tar_length: u64,
    pub start: Start,
    /// The place of the compressed window in the index. A length of 0 means that the span refers to no window.
    pub window_at: u64,
    pub window_length: u32,
    /// The hash of the span's bytes of the layer, with the shared byte.
    pub layer_hash: Hash,
    /// The hash of the span's bytes of the tar.
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

/// The end of an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footer {
    pub compression: Compression,
    /// The sha256 of the layer as it was pushed, and that of its tar: the diffID.
    pub layer: Hash,
    pub diff_id: Hash,
    pub layer_length: u64,
    pub tar_length: u64,
    /// The place of the compressed tree, and its length, compressed and not.
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

/// The place of the seal in a footer.
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

    /// `None` if the bytes are no footer, or one of another version.
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

    /// The UUID of the file system: the first bytes of the diffID.
    pub fn uuid(&self) -> [u8; 16] {
        array(&self.diff_id, 0)
    }
}
