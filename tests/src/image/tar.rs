//! Tar archives of one file, in the ustar format (POSIX.1-1988), computed as they are read.

use crate::fake::Content;

const BLOCK: u64 = 512;

/// An archive of one regular file and the directories above it. The path has no slash in front and
/// at most 100 bytes.
pub(super) fn archive(path: &str, mode: u32, file: Content) -> Content {
    let mut contents: Vec<_> = path
        .match_indices('/')
        .map(|(slash, _)| header(&path[..=slash], 0o755, 0, b'5'))
        .chain([header(path, mode, file.len(), b'0')])
        .map(|header| Content::bytes(header.to_vec()))
        .collect();
    let padding = file.len().next_multiple_of(BLOCK) - file.len();
    contents.push(file);
    // Two blocks of zeros end the archive.
    contents.push(Content::zeros(padding + 2 * BLOCK));
    Content::concat(&contents)
}

/// The header of a file of that kind.
pub(super) fn header(path: &str, mode: u32, size: u64, kind: u8) -> [u8; BLOCK as usize] {
    let mut block = [0; BLOCK as usize];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    assert!(path.len() <= 100, "{path} is too long for a ustar header");
    put(0, path.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0"); // owner
    put(116, b"0000000\0"); // group
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0"); // modified: 1970
    put(148, b"        "); // the checksum counts as spaces
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let checksum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{checksum:06o}\0 ").as_bytes());
    block
}
