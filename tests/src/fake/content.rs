//! The bytes of a blob: in memory, or computed from a seed, any range of them at any time. Owns the generator and the
//! digests; knows nothing of repositories or HTTP.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256, Sha512};

/// Synthetic content repeats one random page. Its length is prime, so that bytes read from the wrong
/// place differ from the right ones even when the shift is a power of two.
const PAGE: u64 = 65_521;

/// Zeros of one page, shared by all padding.
static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

/// The two digest algorithms that registries know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `sha256:` and 64 hex digits.
    Sha256,
    /// `sha512:` and 128 hex digits.
    Sha512,
}

/// An immutable sequence of bytes that need not be in memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Content {
    parts: Arc<[Part]>,
    len: u64,
}

#[derive(Clone, Debug)]
enum Part {
    Bytes(Bytes),
    Synthetic { seed: u64, len: u64 },
    Zeros(u64),
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Synthetic { len, .. } | Self::Zeros(len) => *len,
        }
    }
}

impl Content {
    fn of(parts: Vec<Part>) -> Self {
        let len = parts.iter().map(Part::len).sum();
        Self {
            parts: parts.into(),
            len,
        }
    }

    /// Exactly these bytes.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self::of(vec![Part::Bytes(bytes.into())])
    }

    /// `len` bytes computed from `seed`; the same as [`expected`] gives.
    pub fn synthetic(seed: u64, len: u64) -> Self {
        Self::of(vec![Part::Synthetic { seed, len }])
    }

    /// `len` zero bytes.
    pub fn zeros(len: u64) -> Self {
        Self::of(vec![Part::Zeros(len)])
    }

    /// All of them, one after the other.
    pub fn concat(contents: &[Self]) -> Self {
        let parts = contents.iter().flat_map(|content| content.parts.iter());
        Self::of(parts.cloned().collect())
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of `range`, cut to the content's length.
    pub fn read(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.pieces(range)
            .for_each(|piece| bytes.extend_from_slice(&piece));
        bytes
    }

    /// The bytes of `range`, cut to the content's length, in pieces of at most 64 KiB; pieces in
    /// memory already are not copied.
    pub fn pieces(&self, range: Range<u64>) -> Pieces {
        Pieces {
            content: self.clone(),
            part: 0,
            part_start: 0,
            position: range.start,
            end: range.end.min(self.len),
            page: None,
        }
    }

    /// The digest of the whole, `algorithm:hex`, computed piece by piece.
    pub fn digest(&self, algorithm: Algorithm) -> String {
        match algorithm {
            Algorithm::Sha256 => {
                let mut hash = Sha256::new();
                self.pieces(0..self.len)
                    .for_each(|piece| hash.update(&piece));
                format!("sha256:{}", HEXLOWER.encode(&hash.finalize()))
            }
            Algorithm::Sha512 => {
                let mut hash = Sha512::new();
                self.pieces(0..self.len)
                    .for_each(|piece| hash.update(&piece));
                format!("sha512:{}", HEXLOWER.encode(&hash.finalize()))
            }
        }
    }
}

/// The pieces of a range of some [`Content`].
#[derive(Debug)]
pub struct Pieces {
    content: Content,
    part: usize,
    /// Where `part` begins in the content.
    part_start: u64,
    position: u64,
    end: u64,
    /// The page of the synthetic part with this index.
    page: Option<(usize, Bytes)>,
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.position >= self.end {
            return None;
        }
        let mut part = self.content.parts.get(self.part)?;
        while self.position >= self.part_start + part.len() {
            self.part_start += part.len();
            self.part += 1;
            part = self.content.parts.get(self.part)?;
        }
        let within = self.position - self.part_start;
        let left = (part.len() - within).min(self.end - self.position);
        let piece = match part {
            Part::Bytes(bytes) => {
                let take = left.min(PAGE);
                bytes.slice(within as usize..(within + take) as usize)
            }
            Part::Zeros(_) => Bytes::from_static(&ZEROS[..left.min(PAGE) as usize]),
            Part::Synthetic { seed, .. } => {
                let page = match &self.page {
                    Some((part, page)) if *part == self.part => page,
                    _ => &self.page.insert((self.part, page(*seed))).1,
                };
                let start = within % PAGE;
                let take = left.min(PAGE - start);
                page.slice(start as usize..(start + take) as usize)
            }
        };
        self.position += piece.len() as u64;
        Some(piece)
    }
}

fn page(seed: u64) -> Bytes {
    let mut page = vec![0; PAGE as usize];
    fastrand::Rng::with_seed(seed).fill(&mut page);
    page.into()
}

/// The bytes in `range` of the synthetic content of `seed`, whatever its size.
pub fn expected(seed: u64, range: Range<u64>) -> Vec<u8> {
    Content::synthetic(seed, range.end).read(range)
}

/// The sha256 digest of `bytes`, with its `sha256:`.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(bytes)))
}
