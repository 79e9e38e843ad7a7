//! The compressed parts of an index: its windows and its tree, each a raw deflate stream.

use std::io::{self, Write};

use zlib_rs::{Deflate, DeflateFlush, Status};

use crate::inflate::{At, Form, Inflate, NotDeflate, Stop};

/// A writer that compresses its bytes into another writer.
pub struct Compressor<W> {
    to: W,
    state: Deflate,
    buffer: Vec<u8>,
}

impl<W: Write> Compressor<W> {
    pub fn new(to: W) -> Self {
        Self {
            to,
            state: Deflate::new(6, false, 15),
            buffer: vec![0; 64 << 10],
        }
    }

    fn run(&mut self, mut bytes: &[u8], flush: DeflateFlush) -> io::Result<()> {
        loop {
            let (read, written) = (self.state.total_in(), self.state.total_out());
            let status = self.state.compress(bytes, &mut self.buffer, flush);
            let status = status.map_err(|_| io::Error::other("deflate failed"))?;
            bytes = &bytes[(self.state.total_in() - read) as usize..];
            let written = (self.state.total_out() - written) as usize;
            self.to.write_all(&self.buffer[..written])?;
            let over = match flush {
                DeflateFlush::Finish => status == Status::StreamEnd,
                _ => bytes.is_empty() && written < self.buffer.len(),
            };
            if over {
                return Ok(());
            }
        }
    }

    /// Writes the remaining bytes, and ends the stream.
    pub fn finish(mut self) -> io::Result<W> {
        self.run(&[], DeflateFlush::Finish)?;
        Ok(self.to)
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.run(bytes, DeflateFlush::NoFlush)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `bytes` as a raw deflate stream.
pub fn compress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut to = Compressor::new(Vec::new());
    to.write_all(bytes)?;
    to.finish()
}

/// Decodes a raw deflate stream. It must fill `output` exactly, and end there.
pub fn expand(stored: &[u8], output: &mut [u8]) -> Result<(), NotDeflate> {
    let mut state = Inflate::new(Form::Raw);
    let step = state.step(stored, output, Stop::Nowhere)?;
    let whole = step.read == stored.len() && step.written == output.len();
    if whole && step.at == At::End {
        Ok(())
    } else {
        Err(NotDeflate)
    }
}
