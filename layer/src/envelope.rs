//! The envelope: it tells which member made an index, and for which layer. It stands right behind the index, so that
//! places in the index do not change. docs/index-format.md describes it.
//!
//! An index from elsewhere is trusted because of the proof in its envelope. The caller makes and checks the proof:
//! there is no key here. No part of the index is parsed before the proof is known to be right.

use std::io::{self, Read, Seek, SeekFrom};

use larder_shared::Digest;

use crate::format::{FOOTER, Hash, SEAL_AT};
use crate::{Broken, Index};

/// Bytes of an envelope.
pub const ENVELOPE: usize = 256;

/// `larderP`, and the version.
const MAGIC: [u8; 8] = *b"larderP\x01";

/// Room for the maker's name, in bytes of UTF-8.
const MAKER: usize = 136;
const MAKER_AT: usize = 80;

/// The bytes of an envelope that its proof covers.
pub const SIGNED: usize = MAKER_AT + MAKER;

/// The proof's bytes: an HMAC-SHA-256.
pub type Proof = [u8; 32];

/// The layer of an index, and the member that made the index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    pub layer: Hash,
    pub index_length: u64,
    /// The seal of the index: a sha256 of its bytes.
    pub seal: Hash,
    pub maker: String,
    /// `None` if the maker had no key.
    pub proof: Option<Proof>,
}

/// Why an index from elsewhere cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unbelieved {
    #[error("it could not be read: {0}")]
    Read(#[from] io::Error),
    #[error("it is no index with an envelope, or one of another version")]
    NoEnvelope,
    #[error("it is of another layer")]
    OtherLayer,
    #[error("no member of this cluster has signed it")]
    Proof,
    #[error("its layer has another length")]
    Length,
    #[error("{0}")]
    Broken(#[from] Broken),
}

impl Envelope {
    /// The envelope for the index in `file`, still without a proof. The seal is read but not checked.
    pub fn of(file: &mut (impl Read + Seek), layer: &Digest, maker: &str) -> io::Result<Self> {
        let index_length = file.seek(SeekFrom::End(0))?;
        let layer = layer.as_bytes().try_into();
        let layer = layer.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut cut = maker.len().min(MAKER);
        while !maker.is_char_boundary(cut) {
            cut -= 1;
        }
        Ok(Self {
            layer,
            index_length,
            seal: seal(file, index_length)?,
            maker: maker[..cut].to_owned(),
            proof: None,
        })
    }

    /// The bytes that the proof covers.
    pub fn signed(&self) -> [u8; SIGNED] {
        let mut signed = [0; SIGNED];
        signed.copy_from_slice(&self.bytes()[..SIGNED]);
        signed
    }

    pub fn bytes(&self) -> [u8; ENVELOPE] {
        let mut bytes = [0; ENVELOPE];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(8, &self.index_length.to_le_bytes());
        put(16, &self.layer);
        put(48, &self.seal);
        put(MAKER_AT, self.maker.as_bytes());
        put(SIGNED, &self.proof.unwrap_or_default());
        put(ENVELOPE - MAGIC.len(), &MAGIC);
        bytes
    }

    /// `None` if the bytes are no envelope.
    pub fn read(bytes: &[u8; ENVELOPE]) -> Option<Self> {
        let field = |at: usize| bytes[at..at + 32].try_into().ok();
        let maker = &bytes[MAKER_AT..SIGNED];
        let length = maker.iter().position(|byte| *byte == 0).unwrap_or(MAKER);
        let proof: Proof = field(SIGNED)?;
        let envelope = Self {
            index_length: u64::from_le_bytes(bytes[8..16].try_into().ok()?),
            layer: field(16)?,
            seal: field(48)?,
            maker: String::from_utf8(maker[..length].to_vec()).ok()?,
            proof: (proof != Proof::default()).then_some(proof),
        };
        (envelope.bytes() == *bytes).then_some(envelope)
    }

    /// The name of the maker, safe to print: it may come from anywhere.
    pub fn maker(&self) -> String {
        let plain = |c: char| if c.is_control() { '?' } else { c };
        self.maker.chars().map(plain).collect()
    }
}

fn seal(file: &mut (impl Read + Seek), index_length: u64) -> io::Result<Hash> {
    let at = index_length.checked_sub((FOOTER - SEAL_AT) as u64);
    let at = at.ok_or(io::ErrorKind::UnexpectedEof)?;
    file.seek(SeekFrom::Start(at))?;
    let mut seal = Hash::default();
    file.read_exact(&mut seal)?;
    Ok(seal)
}

/// Reads an index with its envelope, and checks both. The index must be of `layer`, which must have `layer_length`
/// bytes if that is known, and `is_signed` must accept the proof. The first check that fails ends it.
pub fn open(
    file: &mut (impl Read + Seek),
    layer: &Digest,
    layer_length: Option<u64>,
    is_signed: impl FnOnce(&Envelope) -> bool,
) -> Result<(Index, Envelope), Unbelieved> {
    let envelope = envelope(file)?;
    if envelope.layer[..] != *layer.as_bytes() {
        return Err(Unbelieved::OtherLayer);
    }
    if !is_signed(&envelope) {
        return Err(Unbelieved::Proof);
    }
    let index = Index::open(&mut Part::of(file, envelope.index_length)?)?;
    if index.seal() != envelope.seal {
        return Err(Unbelieved::Proof);
    }
    if index.layer() != *layer {
        return Err(Unbelieved::OtherLayer);
    }
    if layer_length.is_some_and(|length| length != index.layer_length()) {
        return Err(Unbelieved::Length);
    }
    Ok((index, envelope))
}

/// The envelope at the end of a file.
pub fn envelope(file: &mut (impl Read + Seek)) -> Result<Envelope, Unbelieved> {
    let length = file.seek(SeekFrom::End(0))?;
    let at = length.checked_sub(ENVELOPE as u64);
    let at = at.ok_or(Unbelieved::NoEnvelope)?;
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = [0; ENVELOPE];
    file.read_exact(&mut bytes)?;
    let envelope = Envelope::read(&bytes).ok_or(Unbelieved::NoEnvelope)?;
    if envelope.index_length == at {
        Ok(envelope)
    } else {
        Err(Unbelieved::NoEnvelope)
    }
}

/// The first `length` bytes of a file, as if the file ended there.
struct Part<'a, F> {
    file: &'a mut F,
    at: u64,
    length: u64,
}

impl<'a, F: Read + Seek> Part<'a, F> {
    fn of(file: &'a mut F, length: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        Ok(Self {
            file,
            at: 0,
            length,
        })
    }
}

impl<F: Read> Read for Part<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.length.saturating_sub(self.at);
        let most = (buffer.len() as u64).min(left) as usize;
        let read = self.file.read(&mut buffer[..most])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<F: Seek> Seek for Part<'_, F> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        let to = to.ok_or(io::ErrorKind::InvalidInput)?;
        self.at = self.file.seek(SeekFrom::Start(to))?;
        Ok(self.at)
    }
}
