//! Deflate, decoded block by block, and from the middle of a stream.
//!
//! All `unsafe` of the crate is here. Checkpoints need four things that the safe interface of zlib-rs lacks: the state
//! at a block's end, bits from the middle of a byte, the sliding window, and another form after a reset.
#![expect(unsafe_code, reason = "the C interface of zlib-rs")]

use std::ffi::c_int;
use std::ptr;

use libz_rs_sys::{
    Z_BLOCK, Z_BUF_ERROR, Z_NO_FLUSH, Z_OK, Z_STREAM_END, inflate, inflateEnd,
    inflateGetDictionary, inflateInit2_, inflatePrime, inflateReset2, inflateSetDictionary,
    z_stream, zlibVersion,
};

/// How far back deflate may refer.
pub const WINDOW: usize = 32 << 10;

/// The bytes before a checkpoint.
pub type Window = Box<[u8; WINDOW]>;

/// A window of zeros.
pub fn zeros() -> Window {
    let bytes = vec![0; WINDOW].into_boxed_slice();
    bytes.try_into().expect("as long as a window")
}

/// How a stream begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Deflate blocks.
    Raw,
    /// One gzip member: its header, blocks, and trailer, whose checksum is verified.
    Gzip,
}

/// Where a step may stop besides the end of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    Nowhere,
    /// At the end of each block, and of a gzip header.
    AtBlocks,
}

/// Where a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    /// The input is used up, or the output is full.
    Middle,
    /// Before a block. This many bits of the last byte read belong to the block.
    Block { bits: u8 },
    /// At the end of the stream.
    End,
}

/// The result of one step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub read: usize,
    pub written: usize,
    pub at: At,
}

/// The input is neither deflate nor gzip.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this is not valid deflate or gzip")]
pub struct NotDeflate;

/// One decoder, reused for many streams, since its state is large.
pub struct Inflate {
    /// Boxed, so that its address stays the same for the library.
    stream: Box<z_stream>,
}

impl Inflate {
    /// # Panics
    /// There is no memory left.
    pub fn new(form: Form) -> Self {
        let mut stream = Box::new(z_stream::default());
        let size = c_int::try_from(size_of::<z_stream>()).expect("a small structure");
        // SAFETY: `stream` is a valid `z_stream` whose allocator `default` has set; the version is the library's own.
        let result =
            unsafe { inflateInit2_(&raw mut *stream, window_bits(form), zlibVersion(), size) };
        assert_eq!(result, Z_OK, "inflate could not begin");
        Self { stream }
    }

    /// Begins a new stream.
    pub fn reset(&mut self, form: Form) {
        // SAFETY: `new` has initialized the stream, and only `drop` ends it.
        let result = unsafe { inflateReset2(&raw mut *self.stream, window_bits(form)) };
        assert_eq!(result, Z_OK, "inflate could not begin again");
    }

    /// Begins in the middle of a raw stream: with the upper `bits` bits of `byte`, and the window before them.
    pub fn resume(&mut self, bits: u8, byte: u8, window: Option<&[u8; WINDOW]>) {
        self.reset(Form::Raw);
        if bits > 0 {
            let value = c_int::from(byte) >> (8 - c_int::from(bits.min(8)));
            // SAFETY: as in `reset`.
            let result =
                unsafe { inflatePrime(&raw mut *self.stream, c_int::from(bits.min(8)), value) };
            assert_eq!(result, Z_OK, "the stream is raw and new");
        }
        if let Some(window) = window {
            // SAFETY: as in `reset`; the library copies `WINDOW` bytes, which `window` has.
            let result =
                unsafe { inflateSetDictionary(&raw mut *self.stream, window.as_ptr(), 32 << 10) };
            assert_eq!(result, Z_OK, "the stream is raw and new");
        }
    }

    /// Decodes from `input` into `output`, until one of them ends.
    pub fn step(
        &mut self,
        input: &[u8],
        output: &mut [u8],
        stop: Stop,
    ) -> Result<Step, NotDeflate> {
        let stream = &mut *self.stream;
        // A step handles at most 4 GiB. Input beyond that is not read.
        let readable = u32::try_from(input.len()).unwrap_or(u32::MAX);
        let writable = u32::try_from(output.len()).unwrap_or(u32::MAX);
        stream.next_in = input.as_ptr();
        stream.avail_in = readable;
        stream.next_out = output.as_mut_ptr();
        stream.avail_out = writable;
        let flush = match stop {
            Stop::Nowhere => Z_NO_FLUSH,
            Stop::AtBlocks => Z_BLOCK,
        };
        // SAFETY: as in `reset`; `next_in` and `next_out` are valid for the given lengths during the whole call.
        let result = unsafe { inflate(&raw mut *stream, flush) };
        let step = Step {
            read: (readable - stream.avail_in) as usize,
            written: (writable - stream.avail_out) as usize,
            at: match result {
                Z_STREAM_END => At::End,
                // Bit 7: a block or the header has ended. Bit 6: it was the last block.
                _ if stream.data_type & 0b1100_0000 == 0b1000_0000 => At::Block {
                    bits: (stream.data_type & 7) as u8,
                },
                _ => At::Middle,
            },
        };
        stream.next_in = ptr::null();
        stream.avail_in = 0;
        stream.next_out = ptr::null_mut();
        stream.avail_out = 0;
        match result {
            Z_OK | Z_STREAM_END | Z_BUF_ERROR => Ok(step),
            _ => Err(NotDeflate),
        }
    }

    /// The last decoded bytes, as far as this stream may refer to them. They are at the end of `window`, with zeros
    /// before.
    pub fn window(&self, window: &mut [u8; WINDOW]) {
        let mut length = 0;
        // SAFETY: as in `reset`; the library writes at most `WINDOW` bytes.
        let result = unsafe {
            inflateGetDictionary(
                &raw const *self.stream,
                window.as_mut_ptr(),
                &raw mut length,
            )
        };
        assert_eq!(result, Z_OK, "the stream is valid");
        let length = (length as usize).min(WINDOW);
        window.copy_within(..length, WINDOW - length);
        window[..WINDOW - length].fill(0);
    }
}

impl Drop for Inflate {
    fn drop(&mut self) {
        // SAFETY: as in `reset`; nothing uses the stream after this.
        unsafe { inflateEnd(&raw mut *self.stream) };
    }
}

fn window_bits(form: Form) -> c_int {
    match form {
        Form::Raw => -15,
        Form::Gzip => 15 + 16,
    }
}
