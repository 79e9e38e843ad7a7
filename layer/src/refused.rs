//! Why a layer has no index. Such a layer is pulled and unpacked as usual.

/// The reason: an index cannot express the layer, or runtimes do not agree about it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Refused {
    #[error("its compression has no index: only gzip and plain tar have one")]
    Compression,
    #[error("its gzip is not valid, or something stands behind it")]
    Gzip,
    #[error("a deflate block is too long to be a span's")]
    LongBlock,
    #[error("its tar ends in the middle of an entry")]
    Truncated,
    #[error("a tar header is not valid, or readers of tar do not agree about it")]
    Header,
    #[error("an entry has a type that is not known")]
    EntryType,
    #[error("a PAX record is not valid, or readers of tar do not agree about it")]
    Pax,
    #[error("it has sparse entries")]
    Sparse,
    #[error("a path is empty where a name is needed, or leads out of the layer")]
    Path,
    #[error("a name has more than 255 bytes, or a path or the target of a link more than 4095")]
    NameTooLong,
    #[error("a path goes through a symbolic link of the same layer")]
    ThroughLink,
    #[error("a path goes through something that is not a directory")]
    NotADirectory,
    #[error("a hard link's target is not in the layer, or the two differ in owner or mode")]
    HardLink,
    #[error("a whiteout has no valid name")]
    Whiteout,
    #[error("a whiteout stands behind the entry of the same layer that it names")]
    WhiteoutOfOwn,
    #[error("an extended attribute is too long, is overlayfs' own, or is not valid")]
    Xattr,
    #[error("an owner, a device number or a time does not fit")]
    Number,
    #[error("it has more than 200,000 inodes")]
    TooManyInodes,
    #[error("its names and attributes, or its tar, are too large")]
    TooLarge,
}
