//! Reading an index, and a layer's tar through it.
//!
//! No part of an index is trusted before it has been checked: the seal, the table, and the whole tree. A broken index
//! is useless, but a new one can be built.

use std::io::{self, Read, Seek, SeekFrom};

use larder_shared::Digest;
use sha2::{Digest as _, Sha256};

use crate::deflate::expand;
use crate::erofs::{LARGEST, check::Flaw, check::check};
use crate::format::{
    Compression, FOOTER, Footer, LONGEST_SPAN, MAGIC, MOST_SPANS, RECORD, SEAL_AT, Span, Start,
};
use crate::inflate::{At, Form, Inflate, Stop, zeros};

/// The longest window: deflate adds a few bytes if it cannot compress.
const LONGEST_WINDOW: u32 = 40 << 10;
/// Bytes behind the blocks of a gzip member.
const TRAILER: usize = 8;

/// Why an index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the index could not be read: {0}")]
    Read(#[from] io::Error),
    #[error("this is no index, or one of another version")]
    NotAnIndex,
    #[error("the index does not have the sha256 that it says")]
    Seal,
    #[error("the index has parts that do not fit together")]
    Parts,
    #[error("span {0} of the index is not valid")]
    Span(usize),
    #[error("the tree of the index does not have the sha256 that it says, or not its length")]
    Tree,
    #[error("the tree of the index is not valid: {0}")]
    Flaw(#[from] Flaw),
}

/// Why a span could not be decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SpanError {
    #[error("these are not the bytes of the layer that the index knows")]
    Layer,
    #[error("the window of the span is not valid")]
    Window,
    #[error("the span does not decode to the bytes of the tar that the index knows")]
    Tar,
}

/// An index that has passed all checks.
pub struct Index {
    footer: Footer,
    spans: Vec<Span>,
    tree: Vec<u8>,
}

impl Index {
    /// Reads an index and checks all of it.
    pub fn open(file: &mut (impl Read + Seek)) -> Result<Self, Broken> {
        let length = file.seek(SeekFrom::End(0))?;
        let footer_at = length
            .checked_sub(FOOTER as u64)
            .ok_or(Broken::NotAnIndex)?;
        file.seek(SeekFrom::Start(footer_at))?;
        let mut bytes = [0; FOOTER];
        file.read_exact(&mut bytes)?;
        let footer = Footer::read(&bytes).ok_or(Broken::NotAnIndex)?;
        let spans_at = footer
            .tree_at
            .checked_add(footer.tree_stored)
            .ok_or(Broken::Parts)?;
        let spans_length = footer_at.checked_sub(spans_at).ok_or(Broken::Parts)?;
        let fits = footer.spans <= MOST_SPANS as u64
            && spans_length == footer.spans * RECORD as u64
            && footer.tree_at >= MAGIC.len() as u64
            && footer.tree_length <= LARGEST as u64
            && footer.tree_stored <= 2 * LARGEST as u64;
        if !fits {
            return Err(Broken::Parts);
        }
        check_seal(file, footer_at, &bytes, footer.seal)?;
        file.seek(SeekFrom::Start(footer.tree_at))?;
        let mut stored = vec![0; footer.tree_stored as usize];
        file.read_exact(&mut stored)?;
        let mut table = vec![0; spans_length as usize];
        file.read_exact(&mut table)?;
        let spans = read_spans(&table, &footer)?;
        let mut tree = vec![0; footer.tree_length as usize];
        expand(&stored, &mut tree).map_err(|_| Broken::Tree)?;
        drop(stored);
        if Sha256::digest(&tree)[..] != footer.tree_hash {
            return Err(Broken::Tree);
        }
        let facts = check(&tree, footer.tar_length, footer.uuid())?;
        if facts.inodes != footer.inodes || footer.implied > footer.inodes {
            return Err(Broken::Parts);
        }
        Ok(Self {
            footer,
            spans,
            tree,
        })
    }

    /// The digest of the layer as it was pushed.
    pub fn layer(&self) -> Digest {
        Digest::from_sha256(self.footer.layer)
    }

    /// The digest of its tar.
    pub fn diff_id(&self) -> Digest {
        Digest::from_sha256(self.footer.diff_id)
    }

    /// The sha256 of all bytes of the index before it. Together with the layer's digest, it identifies the index.
    pub const fn seal(&self) -> [u8; 32] {
        self.footer.seal
    }

    pub const fn compression(&self) -> Compression {
        self.footer.compression
    }

    pub const fn layer_length(&self) -> u64 {
        self.footer.layer_length
    }

    pub const fn tar_length(&self) -> u64 {
        self.footer.tar_length
    }

    /// Directories that the tar has no entry for; see docs/index-format.md.
    pub const fn implied(&self) -> u64 {
        self.footer.implied
    }

    /// The file system that stands before the tar. Its length is a multiple of 4096.
    pub fn tree(&self) -> &[u8] {
        &self.tree
    }

    /// Moves the tree out, for a caller that keeps it elsewhere. The index has no tree from then on.
    pub fn take_tree(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.tree)
    }

    /// The spans, in the order of the tar.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The number of the span that contains this byte of the tar.
    pub fn span_of(&self, tar_at: u64) -> Option<usize> {
        let after = self.spans.partition_point(|span| span.tar_at <= tar_at);
        (tar_at < self.footer.tar_length).then(|| after - 1)
    }

    /// The window of a span, as [`decode`] takes it. `file` is the file that was opened.
    pub fn window(span: &Span, file: &mut (impl Read + Seek)) -> io::Result<Vec<u8>> {
        let mut stored = vec![0; span.window_length as usize];
        if span.window_length > 0 {
            file.seek(SeekFrom::Start(span.window_at))?;
            file.read_exact(&mut stored)?;
        }
        Ok(stored)
    }
}

fn check_seal(
    file: &mut (impl Read + Seek),
    footer_at: u64,
    footer: &[u8; FOOTER],
    seal: [u8; 32],
) -> Result<(), Broken> {
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut left = footer_at;
    let mut first = true;
    while left > 0 {
        let piece = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        file.read_exact(&mut buffer[..piece])?;
        if first && !buffer[..piece].starts_with(&MAGIC) {
            return Err(Broken::NotAnIndex);
        }
        first = false;
        hash.update(&buffer[..piece]);
        left -= piece as u64;
    }
    hash.update(&footer[..SEAL_AT]);
    if hash.finalize()[..] == seal {
        Ok(())
    } else {
        Err(Broken::Seal)
    }
}

/// Reads the table. Spans and windows follow each other without gaps.
fn read_spans(table: &[u8], footer: &Footer) -> Result<Vec<Span>, Broken> {
    let (mut layer_at, mut tar_at, mut window_at) = (0, 0, MAGIC.len() as u64);
    let mut spans = Vec::with_capacity(table.len() / RECORD);
    for (number, record) in table.chunks_exact(RECORD).enumerate() {
        let wrong = Broken::Span(number);
        let record: &[u8; RECORD] = record.try_into().map_err(|_| Broken::Span(number))?;
        let Some(span) = Span::read(record) else {
            return Err(wrong);
        };
        let lengths = 1..=LONGEST_SPAN;
        let start = match (footer.compression, span.start) {
            (Compression::None, Start::Plain) => {
                span.layer_length == span.tar_length && span.layer_hash == span.tar_hash
            }
            (Compression::Gzip, Start::Member) => true,
            (Compression::Gzip, Start::Block { .. }) => number > 0,
            _ => false,
        };
        let window = match span.window_length {
            0 => span.window_at == 0,
            length => {
                let starts = matches!(span.start, Start::Block { .. });
                starts && span.window_at == window_at && length <= LONGEST_WINDOW
            }
        };
        let right = start
            && window
            && lengths.contains(&span.tar_length)
            && lengths.contains(&span.layer_length)
            && span.layer_length > span.start.shared()
            && span.tar_at == tar_at
            && span.layer_at.checked_add(span.start.shared()) == Some(layer_at);
        if !right {
            return Err(wrong);
        }
        layer_at = span.layer_at + span.layer_length;
        tar_at += span.tar_length;
        window_at += u64::from(span.window_length);
        spans.push(span);
    }
    let same = footer.layer_length == footer.tar_length && footer.layer == footer.diff_id;
    let whole = tar_at == footer.tar_length
        && window_at == footer.tree_at
        && layer_at <= footer.layer_length
        && (footer.compression == Compression::Gzip || same);
    if whole { Ok(spans) } else { Err(Broken::Parts) }
}

/// Decodes a span from its bytes of the layer. Checks the hashes of both. `window` comes from [`Index::window`].
pub fn decode(span: &Span, window: &[u8], layer: &[u8]) -> Result<Vec<u8>, SpanError> {
    if layer.len() as u64 != span.layer_length || Sha256::digest(layer)[..] != span.layer_hash {
        return Err(SpanError::Layer);
    }
    let tar = match span.start {
        Start::Plain => layer.to_vec(),
        Start::Member | Start::Block { .. } => inflate_span(span, window, layer)?,
    };
    let right = tar.len() as u64 == span.tar_length && Sha256::digest(&tar)[..] == span.tar_hash;
    if right { Ok(tar) } else { Err(SpanError::Tar) }
}

fn inflate_span(span: &Span, window: &[u8], mut layer: &[u8]) -> Result<Vec<u8>, SpanError> {
    let mut state = Inflate::new(Form::Gzip);
    let mut raw = false;
    if let Start::Block { bits } = span.start {
        let mut filled = None;
        if span.window_length > 0 {
            let mut bytes = zeros();
            expand(window, &mut bytes[..]).map_err(|_| SpanError::Window)?;
            filled = Some(bytes);
        }
        let shared = span.start.shared() as usize;
        state.resume(bits, layer[0], filled.as_deref());
        layer = &layer[shared..];
        raw = true;
    }
    let mut tar = vec![0; span.tar_length as usize];
    let mut written = 0;
    while written < tar.len() {
        let step = state.step(layer, &mut tar[written..], Stop::Nowhere);
        let step = step.map_err(|_| SpanError::Tar)?;
        layer = &layer[step.read..];
        written += step.written;
        if step.at == At::End {
            // A raw stream ends with its blocks, so the trailer is skipped here. The next member begins with its own
            // header.
            let trailer = if raw { TRAILER } else { 0 };
            layer = layer.get(trailer..).ok_or(SpanError::Tar)?;
            state.reset(Form::Gzip);
            raw = false;
        } else if step.read + step.written == 0 {
            return Err(SpanError::Tar);
        }
    }
    Ok(tar)
}
