//! Gzip in all shapes that compressors produce.

use proptest::prelude::*;
use proptest::sample::select;
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Status, Strategy as Way};

/// How a piece of the tar is compressed.
#[derive(Clone, Copy, Debug)]
pub struct How {
    pub level: i32,
    pub way: Way,
    /// The flush between two pieces of one member.
    pub flush: DeflateFlush,
    /// Bytes of a piece.
    pub piece: usize,
    /// Whether a member ends behind the piece.
    pub ends: bool,
}

pub fn how() -> impl Strategy<Value = How> {
    let ways = vec![
        Way::Default,
        Way::Default,
        Way::Fixed,
        Way::HuffmanOnly,
        Way::Rle,
        Way::Filtered,
    ];
    let flushes = vec![
        DeflateFlush::NoFlush,
        DeflateFlush::NoFlush,
        DeflateFlush::PartialFlush,
        DeflateFlush::SyncFlush,
        DeflateFlush::FullFlush,
        DeflateFlush::Block,
    ];
    (
        0..=9,
        select(ways),
        select(flushes),
        5_000_usize..3_000_000,
        any::<bool>(),
    )
        .prop_map(|(level, way, flush, piece, ends)| How {
            level,
            way,
            flush,
            piece,
            ends,
        })
}

impl Default for How {
    fn default() -> Self {
        Self {
            level: 6,
            way: Way::Default,
            flush: DeflateFlush::NoFlush,
            piece: usize::MAX,
            ends: false,
        }
    }
}

/// Compresses `bytes` piece by piece, going through `hows` again and again.
pub fn gzip(bytes: &[u8], hows: &[How]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    let mut member: Option<Deflate> = None;
    for how in hows.iter().cycle() {
        let state = member.get_or_insert_with(|| begin(how));
        let (piece, behind) = rest.split_at(rest.len().min(how.piece));
        rest = behind;
        let ends = how.ends || rest.is_empty();
        run(
            state,
            piece,
            if ends {
                DeflateFlush::Finish
            } else {
                how.flush
            },
            &mut out,
        );
        if ends {
            member = None;
        }
        if rest.is_empty() {
            return out;
        }
    }
    out
}

fn begin(how: &How) -> Deflate {
    let config = DeflateConfig {
        level: how.level,
        window_bits: 15 + 16,
        strategy: how.way,
        ..DeflateConfig::default()
    };
    Deflate::new_with_config(config)
}

fn run(state: &mut Deflate, mut piece: &[u8], flush: DeflateFlush, out: &mut Vec<u8>) {
    let mut buffer = vec![0; 100_000];
    loop {
        let (read, written) = (state.total_in(), state.total_out());
        let status = state.compress(piece, &mut buffer, flush).unwrap();
        piece = &piece[(state.total_in() - read) as usize..];
        let written = (state.total_out() - written) as usize;
        out.extend_from_slice(&buffer[..written]);
        let over = match flush {
            DeflateFlush::Finish => status == Status::StreamEnd,
            _ => piece.is_empty() && written < buffer.len(),
        };
        if over {
            return;
        }
    }
}
