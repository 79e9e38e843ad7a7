//! Cuts a layer into spans while it is read: where each span begins, its window, and the hashes of its bytes.

use std::io;

use sha2::{Digest as _, Sha256};

use crate::deflate::compress;
use crate::format::{COMPRESSED_SPAN, MOST_SPANS, SPAN, Span, Start};
use crate::inflate::{Form, Inflate, WINDOW, Window};
use crate::window::{Behind, Needed};

/// How many compressed bytes behind a checkpoint are searched for references to the window. No compressor needs more
/// than this for 32 KiB of output.
const LOOKED_AT: usize = 128 << 10;

/// The span that is being read.
struct Open {
    span: Span,
    layer_hash: Sha256,
    tar_hash: Sha256,
}

/// A window whose use is not known yet.
struct Waiting {
    window: Window,
    bits: u8,
    first: u8,
    compressed: Vec<u8>,
}

/// Writes a window, and returns its place.
pub trait Windows {
    fn write_window(&mut self, bytes: &[u8]) -> io::Result<u64>;
}

/// Collects the spans of one layer.
pub struct Spans {
    done: Vec<Span>,
    open: Open,
    waiting: Option<Waiting>,
    /// Decodes the first bytes of spans.
    state: Inflate,
    last: u8,
    /// How many bytes of the layer and of the tar came so far.
    layer_at: u64,
    tar_at: u64,
}

impl Spans {
    pub fn new(start: Start) -> Self {
        Self {
            done: Vec::new(),
            open: open(start, 0, 0, None),
            waiting: None,
            state: Inflate::new(Form::Raw),
            last: 0,
            layer_at: 0,
            tar_at: 0,
        }
    }

    /// Takes the next bytes of the layer.
    pub fn layer(&mut self, bytes: &[u8]) {
        self.open.layer_hash.update(bytes);
        self.layer_at += bytes.len() as u64;
        self.last = bytes.last().copied().unwrap_or(self.last);
        if let Some(waiting) = &mut self.waiting {
            let room = LOOKED_AT - waiting.compressed.len();
            waiting
                .compressed
                .extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    /// Takes the next bytes of the tar, which were decoded from the layer's bytes so far.
    pub fn tar(&mut self, bytes: &[u8], to: &mut impl Windows) -> io::Result<()> {
        self.open.tar_hash.update(bytes);
        self.tar_at += bytes.len() as u64;
        let seen = |waiting: &Waiting| waiting.compressed.len() == LOOKED_AT;
        if self.tar_length() >= WINDOW as u64 || self.waiting.as_ref().is_some_and(seen) {
            self.settle(to)?;
        }
        Ok(())
    }

    fn tar_length(&self) -> u64 {
        self.tar_at - self.open.span.tar_at
    }

    /// The length of the open span in the layer and in the tar, after `layer` and `tar` more bytes.
    pub fn lengths(&self, layer: u64, tar: u64) -> (u64, u64) {
        (
            self.layer_at + layer - self.open.span.layer_at,
            self.tar_length() + tar,
        )
    }

    /// Whether the open span is long enough to end here.
    pub fn is_due(&self, layer: u64, tar: u64) -> bool {
        let (layer, tar) = self.lengths(layer, tar);
        tar >= SPAN || (layer >= COMPRESSED_SPAN && tar > 0)
    }

    /// Whether the layer has as many spans as it may have.
    pub fn is_full(&self) -> bool {
        self.done.len() >= MOST_SPANS
    }

    /// Ends the open span and begins the next one. If that begins with a block that refers back, `window` holds the
    /// bytes before it.
    pub fn cut(
        &mut self,
        start: Start,
        window: Option<Window>,
        to: &mut impl Windows,
    ) -> io::Result<()> {
        self.settle(to)?;
        let shared = (start.shared() > 0).then_some(self.last);
        let next = open(start, self.layer_at - start.shared(), self.tar_at, shared);
        let ended = std::mem::replace(&mut self.open, next);
        self.end(ended);
        if let (Some(window), Start::Block { bits }) = (window, start) {
            self.waiting = Some(Waiting {
                window,
                bits,
                first: self.last,
                compressed: Vec::new(),
            });
        }
        Ok(())
    }

    fn end(&mut self, open: Open) {
        let mut span = open.span;
        span.layer_length = self.layer_at - span.layer_at;
        span.tar_length = self.tar_at - span.tar_at;
        span.layer_hash = open.layer_hash.finalize().into();
        span.tar_hash = open.tar_hash.finalize().into();
        self.done.push(span);
    }

    /// Writes the window of the open span, reduced to the bytes that the span refers to.
    fn settle(&mut self, to: &mut impl Windows) -> io::Result<()> {
        let Some(waiting) = self.waiting.take() else {
            return Ok(());
        };
        let behind = Behind {
            window: &waiting.window,
            bits: waiting.bits,
            first: waiting.first,
            compressed: &waiting.compressed,
        };
        let window = match behind.needed(&mut self.state) {
            Needed::Nothing => return Ok(()),
            Needed::Some(window) => window,
            Needed::Unknown => waiting.window,
        };
        let stored = compress(&window[..])?;
        self.open.span.window_at = to.write_window(&stored)?;
        self.open.span.window_length = stored.len() as u32;
        Ok(())
    }

    /// Ends the last span. Bytes of the layer behind the tar's last byte are in no span.
    pub fn finish(mut self, to: &mut impl Windows) -> io::Result<Vec<Span>> {
        self.settle(to)?;
        let last = std::mem::replace(&mut self.open, open(Start::Plain, 0, 0, None));
        if self.tar_at > last.span.tar_at {
            self.end(last);
        }
        Ok(self.done)
    }
}

fn open(start: Start, layer_at: u64, tar_at: u64, shared: Option<u8>) -> Open {
    let mut layer_hash = Sha256::new();
    if let Some(byte) = shared {
        layer_hash.update([byte]);
    }
    Open {
        span: Span {
            layer_at,
            tar_at,
            layer_length: 0,
            tar_length: 0,
            start,
            window_at: 0,
            window_length: 0,
            layer_hash: [0; 32],
            tar_hash: [0; 32],
        },
        layer_hash,
        tar_hash: Sha256::new(),
    }
}
