//! Checksums of a blob's pieces, so that rot is found before it is sent to another member.
//!
//! larder computes them while it hashes the bytes on their way in, or while it hashes a blob again. A checksum says
//! that a piece has not changed; only the digest says that the whole is right. One file a blob:
//!
//! ```text
//! 16 bytes   "larder sums 1" and zeros: the format's version is its last figure
//!  8 bytes   the blob's size, little endian
//!  4 bytes   for each 64 KiB of the blob: CRC-32C, little endian; the last piece may be shorter
//!  4 bytes   CRC-32C of everything before
//! ```
//!
//! A file that is missing, damaged or of another version checks nothing. Blobs of up to one piece have none: they are
//! compared with their digest.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, OnceLock},
};

use larder_shared::{Algorithm, Digest, Range};

use super::{Blob, Store, layout::Layout};

/// Bytes of a piece.
const PIECE: u64 = 64 << 10;

const MAGIC: &[u8; 16] = b"larder sums 1\0\0\0";
const HEAD: usize = MAGIC.len() + 8;
const SUM: usize = 4;

/// Checksums that are computed along with a blob's bytes, from the first byte on.
#[derive(Debug)]
pub struct Sums {
    pieces: Vec<u32>,
    open: crc_fast::Digest,
    at: u64,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            pieces: Vec::new(),
            open: crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi),
            at: 0,
        }
    }
}

impl Sums {
    /// Takes in the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (PIECE - self.at % PIECE) as usize;
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.open.update(now);
            self.at += now.len() as u64;
            if self.at.is_multiple_of(PIECE) {
                self.pieces.push(self.open.finalize_reset() as u32);
            }
            bytes = later;
        }
    }

    /// The file for a blob of `size` bytes. `None` before all of them were taken in, and for a blob of at most one
    /// piece.
    fn file(&self, size: u64) -> Option<Vec<u8>> {
        if self.at != size || size <= PIECE {
            return None;
        }
        let last = (!size.is_multiple_of(PIECE)).then(|| self.open.finalize() as u32);
        let mut file = Vec::with_capacity(HEAD + SUM * (self.pieces.len() + 2));
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&size.to_le_bytes());
        for sum in self.pieces.iter().copied().chain(last) {
            file.extend_from_slice(&sum.to_le_bytes());
        }
        let own = crc_fast::crc32_iscsi(&file);
        file.extend_from_slice(&own.to_le_bytes());
        Some(file)
    }
}

/// The checksums of a blob of `size` bytes, if the file at `path` holds them.
fn read(path: &Path, size: u64) -> Option<Vec<u8>> {
    let mut file = fs::read(path).ok()?;
    let own = file.split_off(file.len().checked_sub(SUM)?);
    let sound = own == crc_fast::crc32_iscsi(&file).to_le_bytes();
    let head = file.get(..HEAD)?;
    let ours = head.starts_with(MAGIC) && head.ends_with(&size.to_le_bytes());
    let sums = file.split_off(HEAD);
    let all = sums.len() as u64 == size.div_ceil(PIECE) * SUM as u64;
    (sound && ours && all).then_some(sums)
}

/// The whole pieces that `range` touches.
fn widened(range: Range, size: u64) -> Range {
    let end = range.end.div_ceil(PIECE) * PIECE;
    Range::new(range.start / PIECE * PIECE, end.min(size))
}

/// Whether `bytes`, which are whole pieces from `start` on, match `sums`.
fn agree(sums: &[u8], start: u64, bytes: &[u8]) -> bool {
    let first = (start / PIECE) as usize;
    let known = sums.chunks_exact(SUM).skip(first);
    bytes
        .chunks(PIECE as usize)
        .zip(known)
        .all(|(piece, sum)| crc_fast::crc32_iscsi(piece).to_le_bytes() == sum)
}

/// A committed blob that is read for another member. Its bytes are checked before they leave: against its checksums, if
/// it has any, or its digest, if it is one piece.
#[derive(Debug)]
pub struct Checked {
    store: Arc<Store>,
    blob: Arc<Blob>,
    /// Empty if the blob has none.
    sums: OnceLock<Vec<u8>>,
}

impl Checked {
    pub fn new(store: Arc<Store>, blob: Arc<Blob>) -> Self {
        Self {
            store,
            blob,
            sums: OnceLock::new(),
        }
    }

    /// The bytes of `range` (blocking). An error if they have rotted; then the blob is taken out of the tier.
    pub fn read(&self, range: Range) -> io::Result<Vec<u8>> {
        let (blob, size) = (&self.blob, self.blob.size());
        // This covers the read of the checksums, too: they lie on the same disk.
        let _read = blob.reads().begin();
        let path = self.store.layout.sums(blob.digest());
        let sums = self
            .sums
            .get_or_init(|| read(&path, size).unwrap_or_default());
        let wide = self.checked_range(sums, range);
        let bytes = blob.read(wide)?;
        if !self.is_sound(sums, wide, &bytes) {
            self.store.quarantine(blob);
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a piece of the blob does not match its checksum",
            ));
        }
        Ok(cut(bytes, wide, range))
    }

    /// As [`Self::read`], if all of the range is in memory and sound. After `None`, the caller has to use
    /// [`Self::read`].
    pub fn read_cached(&self, range: Range) -> Option<Vec<u8>> {
        let sums = self.sums.get()?;
        let wide = self.checked_range(sums, range);
        let bytes = self.blob.read_cached(wide)?;
        let sound = self.is_sound(sums, wide, &bytes);
        sound.then(|| cut(bytes, wide, range))
    }

    /// What has to be read to check `range`.
    fn checked_range(&self, sums: &[u8], range: Range) -> Range {
        let size = self.blob.size();
        if sums.is_empty() && size > PIECE {
            return range;
        }
        widened(range, size)
    }

    fn is_sound(&self, sums: &[u8], range: Range, bytes: &[u8]) -> bool {
        if self.blob.size() > PIECE {
            return sums.is_empty() || agree(sums, range.start, bytes);
        }
        let digest = self.blob.digest();
        Digest::of(digest.algorithm(), bytes) == *digest
    }
}

/// `range` of the bytes of `wide`.
fn cut(mut bytes: Vec<u8>, wide: Range, range: Range) -> Vec<u8> {
    bytes.truncate((range.end - wide.start) as usize);
    bytes.drain(..(range.start - wide.start) as usize);
    bytes
}

impl Store {
    /// Keeps the checksums of a blob that was just verified (blocking). A blob without them is served all the same.
    pub(super) fn keep_sums(&self, digest: &Digest, size: u64, sums: &Sums) {
        let Some(file) = sums.file(size) else {
            return;
        };
        let path = self.layout.sums(digest);
        if let Err(error) = self.layout.write_atomic(&path, &file, false) {
            tracing::debug!(blob.digest = %digest, %error, "the checksums of a blob could not be written");
        }
    }

    /// As `keep_sums`, for a blob that was hashed again, if it has no checksums yet (blocking).
    pub fn keep_lacking_sums(&self, blob: &Blob, sums: &Sums) {
        if self.is_held() && self.lacks_sums(blob.digest(), blob.size()) {
            self.keep_sums(blob.digest(), blob.size(), sums);
        }
    }

    /// Whether a blob of `size` bytes lacks its checksums.
    pub(super) fn lacks_sums(&self, digest: &Digest, size: u64) -> bool {
        size > PIECE && !self.layout.sums(digest).exists()
    }
}

/// Removes checksums whose blob is not here any more. `elsewhere` says whether the runtime may have the blob.
pub(super) fn sweep_strays(
    layout: &Layout,
    algorithm: Algorithm,
    elsewhere: impl Fn(&Digest) -> bool,
) {
    let listed = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    for shard in listed(&layout.all_sums(algorithm)) {
        for entry in listed(&shard.path()) {
            let name = entry.file_name();
            let digest = name
                .to_str()
                .and_then(|hex| Digest::from_hex(algorithm, hex).ok());
            let here = |digest: Digest| layout.blob(&digest).exists() || elsewhere(&digest);
            if !digest.is_some_and(here) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(len: u64) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
    }

    fn fed(bytes: &[u8], by: usize) -> Sums {
        let mut sums = Sums::default();
        for chunk in bytes.chunks(by) {
            sums.update(chunk);
        }
        sums
    }

    #[test]
    fn however_the_bytes_come_the_file_is_the_same_and_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sums");
        for size in [PIECE + 1, 2 * PIECE, 3 * PIECE - 1] {
            let bytes = some(size);
            let file = fed(&bytes, 1000).file(size).unwrap();
            assert_eq!(fed(&bytes, 100_000).file(size).unwrap(), file);
            fs::write(&path, &file).unwrap();
            let sums = read(&path, size).unwrap();
            assert!(agree(&sums, 0, &bytes));
            assert!(agree(&sums, PIECE, &bytes[PIECE as usize..]));
            for at in [0, PIECE as usize, bytes.len() - 1] {
                let mut rotten = bytes.clone();
                rotten[at] ^= 1;
                assert!(!agree(&sums, 0, &rotten), "{at} of {size}");
            }
            // Another size, another version, a flipped bit, a lost end: none of it checks anything.
            assert_eq!(read(&path, size + 1), None);
            for at in [12, HEAD, file.len() - 1] {
                let mut damaged = file.clone();
                damaged[at] ^= 1;
                fs::write(&path, damaged).unwrap();
                assert_eq!(read(&path, size), None, "{at} of {size}");
            }
            for len in [0, 3, HEAD, file.len() - SUM] {
                fs::write(&path, &file[..len]).unwrap();
                assert_eq!(read(&path, size), None, "{len} of {size}");
            }
        }
    }

    #[test]
    fn what_was_not_seen_whole_has_no_file() {
        let bytes = some(2 * PIECE);
        assert_eq!(fed(&bytes[1..], 1000).file(2 * PIECE), None);
        assert_eq!(fed(&bytes[..PIECE as usize], 1000).file(PIECE), None);
        let none: Option<Vec<u8>> = read(Path::new("/nowhere"), 2 * PIECE);
        assert_eq!(none, None);
    }

    #[test]
    fn a_range_is_read_with_its_whole_pieces() {
        let size = 3 * PIECE - 5;
        for (from, to, expected) in [
            (0, 1, (0, PIECE)),
            (PIECE - 1, PIECE + 1, (0, 2 * PIECE)),
            (PIECE, 2 * PIECE, (PIECE, 2 * PIECE)),
            (size - 1, size, (2 * PIECE, size)),
        ] {
            let wide = widened(Range::new(from, to), size);
            assert_eq!((wide.start, wide.end), expected);
        }
    }

    /// Bytes that are read from memory without waiting are checked as those from the disk are.
    #[test]
    fn a_cached_piece_that_rotted_is_not_given() {
        for size in [PIECE / 2, 3 * PIECE - 5] {
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(dir.path()).unwrap());
            let bytes = some(size);
            let digest = Digest::sha256(&bytes);
            store.put(&digest, &bytes.clone().into()).unwrap();
            let blob = store.blob(&digest, None).unwrap();
            store.keep_sums(&digest, size, &fed(&bytes, 1000));
            let checked = Checked::new(Arc::clone(&store), blob);
            let part = Range::new(3, size - 1);
            let sound = &bytes[3..size as usize - 1];
            assert_eq!(
                checked.read_cached(part),
                None,
                "its checksums are not read yet"
            );
            assert_eq!(checked.read(part).unwrap(), sound);
            // Not every file system of a test can say what is in memory.
            if let Some(cached) = checked.read_cached(part) {
                assert_eq!(cached, sound);
            }
            let mut rotten = bytes.clone();
            rotten[7] ^= 1;
            fs::write(store.layout.blob(&digest), rotten).unwrap();
            assert_eq!(checked.read_cached(part), None);
            assert!(checked.read(part).is_err());
            assert!(store.blob(&digest, None).is_none(), "it is set aside");
        }
    }
}
