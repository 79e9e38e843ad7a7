//! Builds the index of a layer in one pass.
//!
//! Memory is bounded for any layer: buffers, one window, 104 bytes for each span, and the tree, whose limits are in
//! `tree`. Windows are written while the layer is read, and the tree after the tar's end.

use std::io::{self, Read, Write};

use larder_shared::Digest;
use sha2::{Digest as _, Sha256};

use crate::deflate::Compressor;
use crate::erofs::write::Plan;
use crate::format::{Compression, Footer, Hash, LONGEST_SPAN, MAGIC, SEAL_AT, SPAN, Span, Start};
use crate::inflate::{At, Form, Inflate, Stop, zeros};
use crate::refused::Refused;
use crate::spans::{Spans, Windows};
use crate::tar;
use crate::tree::Tree;

/// How many bytes are read, and decoded, at a time.
const PIECE: usize = 256 << 10;

/// Why there is no index.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this layer is not indexed: {0}")]
    Refused(#[from] Refused),
    #[error("the layer could not be read: {0}")]
    Read(#[source] io::Error),
    #[error("the index could not be written: {0}")]
    Write(#[source] io::Error),
}

/// The result of a build. The caller must compare `layer` with the digest that it asked for.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The digest of the layer as it was read.
    pub layer: Digest,
    /// The digest of the layer's tar, by which a runtime knows the layer's content.
    pub diff_id: Digest,
    pub compression: Compression,
    pub layer_length: u64,
    pub tar_length: u64,
    pub index_length: u64,
    pub tree_length: u64,
    /// Bytes of the compressed tree, and of all compressed windows.
    pub tree_stored: u64,
    pub windows_stored: u64,
    pub inodes: u64,
    /// Directories that the tar has no entry for; see docs/index-format.md.
    pub implied: u64,
    pub spans: u64,
    /// How many spans begin in the middle of a stream, and how many of those need a window.
    pub blocks: u64,
    pub windows: u64,
}

/// The index while it is written.
struct Output<W> {
    to: W,
    seal: Sha256,
    at: u64,
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write_all(bytes)?;
        self.seal.update(bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<W: Write> Windows for Output<W> {
    fn write_window(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.at;
        self.write_all(bytes)?;
        Ok(at)
    }
}

/// Hashes all bytes, and passes them on to another writer.
struct Hashing<'a, W> {
    to: W,
    hash: &'a mut Sha256,
}

impl<W: Write> Write for Hashing<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write_all(bytes)?;
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Reads a layer and writes its index. If it fails, the bytes written so far are useless.
pub fn build(layer: &mut impl Read, to: &mut impl Write) -> Result<Summary, Error> {
    let mut input = vec![0; PIECE];
    let mut filled = read(layer, &mut input)?;
    while filled < 4 {
        match read(layer, &mut input[filled..])? {
            0 => break,
            more => filled += more,
        }
    }
    let compression = match &input[..filled] {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // zstd. Its skippable frames have no meaning in a tar either.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            return Err(Refused::Compression.into());
        }
        _ => Compression::None,
    };
    let mut output = Output {
        to,
        seal: Sha256::new(),
        at: 0,
    };
    output.write_all(&MAGIC).map_err(Error::Write)?;
    let mut pass = Pass {
        layer: Sha256::new(),
        layer_length: 0,
        tar: Content::new(match compression {
            Compression::None => Start::Plain,
            Compression::Gzip => Start::Member,
        }),
        output,
    };
    let mut gzip = Gzip::default();
    while filled > 0 {
        let bytes = &input[..filled];
        pass.layer.update(bytes);
        pass.layer_length += filled as u64;
        match compression {
            Compression::None => pass.plain(bytes)?,
            Compression::Gzip => gzip.push(bytes, &mut pass)?,
        }
        filled = read(layer, &mut input)?;
    }
    if compression == Compression::Gzip && !gzip.between {
        return Err(Refused::Gzip.into());
    }
    pass.finish(compression)
}

fn read(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize, Error> {
    loop {
        match from.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(Error::Read),
        }
    }
}

/// What is made from the tar's bytes.
struct Content {
    diff_id: Sha256,
    length: u64,
    reader: tar::Reader,
    tree: Tree,
    spans: Spans,
}

impl Content {
    fn new(start: Start) -> Self {
        Self {
            diff_id: Sha256::new(),
            length: 0,
            reader: tar::Reader::default(),
            tree: Tree::default(),
            spans: Spans::new(start),
        }
    }

    fn push(&mut self, bytes: &[u8], to: &mut impl Windows) -> Result<(), Error> {
        if self.spans.is_full() && !bytes.is_empty() {
            return Err(Refused::TooLarge.into());
        }
        self.diff_id.update(bytes);
        self.length += bytes.len() as u64;
        self.reader.push(bytes, &mut self.tree)?;
        self.spans.tar(bytes, to).map_err(Error::Write)
    }
}

struct Pass<W> {
    layer: Sha256,
    layer_length: u64,
    tar: Content,
    output: Output<W>,
}

impl<W: Write> Pass<W> {
    fn plain(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let (_, length) = self.tar.spans.lengths(0, 0);
            let (piece, rest) = bytes.split_at(bytes.len().min((SPAN - length) as usize));
            self.tar.spans.layer(piece);
            self.tar.push(piece, &mut self.output)?;
            if self.tar.spans.is_due(0, 0) {
                let cut = self.tar.spans.cut(Start::Plain, None, &mut self.output);
                cut.map_err(Error::Write)?;
            }
            bytes = rest;
        }
        Ok(())
    }

    fn finish(mut self, compression: Compression) -> Result<Summary, Error> {
        self.tar.reader.finish()?;
        let plan = Plan::new(&self.tar.tree, self.tar.length)?;
        let diff_id: Hash = self.tar.diff_id.finalize().into();
        let layer: Hash = self.layer.finalize().into();
        let spans = self
            .tar
            .spans
            .finish(&mut self.output)
            .map_err(Error::Write)?;
        let mut footer = Footer {
            compression,
            layer,
            diff_id,
            layer_length: self.layer_length,
            tar_length: self.tar.length,
            tree_at: self.output.at,
            tree_stored: 0,
            tree_length: plan.length(),
            inodes: plan.inodes() as u64,
            implied: plan.implied() as u64,
            spans: spans.len() as u64,
            tree_hash: [0; 32],
            seal: [0; 32],
        };
        let written = write_rest(&mut self.output, &plan, &spans, &mut footer);
        written.map_err(Error::Write)?;
        let windows = spans.iter().filter(|span| span.window_length > 0);
        let blocks = spans
            .iter()
            .filter(|span| matches!(span.start, Start::Block { .. }));
        Ok(Summary {
            layer: Digest::from_sha256(layer),
            diff_id: Digest::from_sha256(diff_id),
            compression,
            layer_length: footer.layer_length,
            tar_length: footer.tar_length,
            index_length: self.output.at,
            tree_length: footer.tree_length,
            tree_stored: footer.tree_stored,
            windows_stored: footer.tree_at - MAGIC.len() as u64,
            inodes: footer.inodes,
            implied: footer.implied,
            spans: footer.spans,
            blocks: blocks.count() as u64,
            windows: windows.count() as u64,
        })
    }
}

/// Tree, table and footer.
fn write_rest<W: Write>(
    output: &mut Output<W>,
    plan: &Plan<'_>,
    spans: &[Span],
    footer: &mut Footer,
) -> io::Result<()> {
    let mut hash = Sha256::new();
    let mut tree = Hashing {
        to: Compressor::new(&mut *output),
        hash: &mut hash,
    };
    plan.write(footer.uuid(), &mut tree)?;
    tree.to.finish()?;
    footer.tree_hash = hash.finalize().into();
    footer.tree_stored = output.at - footer.tree_at;
    for span in spans {
        output.write_all(&span.bytes())?;
    }
    output.write_all(&footer.bytes()[..SEAL_AT])?;
    footer.seal = output.seal.clone().finalize().into();
    output.write_all(&footer.bytes()[SEAL_AT..])?;
    output.flush()
}

/// The members of a gzip, decoded block by block.
struct Gzip {
    state: Inflate,
    output: Vec<u8>,
    filled: usize,
    /// Whether a member has ended and no other has begun.
    between: bool,
    /// Whether the member has brought any bytes of the tar.
    begun: bool,
}

impl Default for Gzip {
    fn default() -> Self {
        Self {
            state: Inflate::new(Form::Gzip),
            output: vec![0; PIECE],
            filled: 0,
            between: false,
            begun: false,
        }
    }
}

impl Gzip {
    fn push<W: Write>(&mut self, bytes: &[u8], pass: &mut Pass<W>) -> Result<(), Error> {
        let (mut read, mut told) = (0, 0);
        loop {
            let room = &mut self.output[self.filled..];
            let step = self.state.step(&bytes[read..], room, Stop::AtBlocks);
            let step = step.map_err(|_| Refused::Gzip)?;
            read += step.read;
            self.filled += step.written;
            self.begun |= step.written > 0;
            self.between = step.at == At::End || (self.between && step.read == 0);
            let spans = &pass.tar.spans;
            let (layer, tar) = spans.lengths((read - told) as u64, self.filled as u64);
            if layer > LONGEST_SPAN || tar > LONGEST_SPAN {
                return Err(Refused::LongBlock.into());
            }
            let is_due = spans.is_due((read - told) as u64, self.filled as u64);
            let start = match step.at {
                At::End => {
                    self.state.reset(Form::Gzip);
                    self.begun = false;
                    Some(Start::Member)
                }
                // Before its first bytes, a member may still be in its header.
                At::Block { bits } if self.begun => Some(Start::Block { bits }),
                _ => None,
            };
            let full = self.filled == self.output.len();
            let start = start.filter(|_| is_due);
            let over = read == bytes.len() && !full;
            if full || start.is_some() || over {
                pass.tar.spans.layer(&bytes[told..read]);
                told = read;
                pass.tar
                    .push(&self.output[..self.filled], &mut pass.output)?;
                self.filled = 0;
            }
            if let Some(start) = start {
                let window = matches!(start, Start::Block { .. }).then(|| {
                    let mut window = zeros();
                    self.state.window(&mut window);
                    window
                });
                let cut = pass.tar.spans.cut(start, window, &mut pass.output);
                cut.map_err(Error::Write)?;
            }
            if over {
                return Ok(());
            }
            if !full && step.read + step.written == 0 && step.at == At::Middle {
                return Err(Refused::Gzip.into());
            }
        }
    }
}
