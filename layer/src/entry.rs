//! One entry of a tar, combined with its extended headers.

/// The fields that an entry of any kind has.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// Permissions, set-id bits and sticky bit.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub seconds: i64,
    pub nanoseconds: u32,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The kind of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file whose content begins at this block of the tar.
    File {
        block: u32,
        size: u64,
    },
    Directory,
    Symlink {
        target: Vec<u8>,
    },
    HardLink {
        target: Vec<u8>,
    },
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// One entry of a tar.
#[derive(Clone, Debug)]
pub struct Entry {
    pub path: Vec<u8>,
    pub kind: Kind,
    pub attributes: Attributes,
}
