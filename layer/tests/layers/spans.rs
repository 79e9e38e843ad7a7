//! Every span of a layer decodes to the tar's bytes, from its own range alone.

use std::io::{Cursor, Read};

use larder_layer::format::{SPAN, Start};
use larder_layer::{Index, SpanError, Summary, build, decode};
use larder_shared::Digest;
use proptest::collection::vec;
use proptest::prelude::*;
use zlib_rs::{DeflateFlush, Strategy as Way};

use crate::gzip::{How, gzip, how};
use crate::made::Tar;

/// Gives its bytes in pieces of odd sizes.
struct Odd<'a>(&'a [u8], usize);

impl Read for Odd<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1 = self.1 * 7 % 100_003 + 1;
        let length = self.1.min(buffer.len()).min(self.0.len());
        buffer[..length].copy_from_slice(&self.0[..length]);
        self.0 = &self.0[length..];
        Ok(length)
    }
}

/// Builds an index, opens it, decodes every span and compares the result.
pub fn all_spans(layer: &[u8], tar: &[u8]) -> (Summary, Vec<larder_layer::Span>) {
    let mut file = Vec::new();
    let summary = build(&mut Odd(layer, 1), &mut file).unwrap();
    assert_eq!(summary.index_length, file.len() as u64);
    assert_eq!(summary.layer, Digest::sha256(layer));
    assert_eq!(summary.diff_id, Digest::sha256(tar));
    let mut file = Cursor::new(file);
    let index = Index::open(&mut file).unwrap();
    assert_eq!(
        (index.layer(), index.diff_id()),
        (summary.layer, summary.diff_id)
    );
    assert_eq!(
        (index.layer_length(), index.tar_length()),
        (layer.len() as u64, tar.len() as u64)
    );
    let mut end = 0;
    for (number, span) in index.spans().iter().enumerate() {
        let window = Index::window(span, &mut file).unwrap();
        let from = span.layer_at as usize;
        let bytes = &layer[from..from + span.layer_length as usize];
        let decoded =
            decode(span, &window, bytes).unwrap_or_else(|error| panic!("span {number}: {error}"));
        let from = span.tar_at as usize;
        assert!(decoded == tar[from..from + decoded.len()], "span {number}");
        assert_eq!(index.span_of(span.tar_at), Some(number));
        assert_eq!(
            index.span_of(span.tar_at + span.tar_length - 1),
            Some(number)
        );
        end = span.tar_at + span.tar_length;
    }
    assert_eq!(end, tar.len() as u64);
    assert_eq!(index.span_of(end), None);
    (summary, index.spans().to_vec())
}

/// Bytes that a compressor can shorten, with repeats at distances up to a window, or not at all.
fn content(seed: u64, length: usize, kind: u8) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = Vec::with_capacity(length + 300);
    while bytes.len() < length {
        match kind {
            0 => bytes.extend_from_slice(&next().to_le_bytes()),
            1 => bytes.push(b"abcdefgh"[next() as usize % 8]),
            2 => bytes.resize(bytes.len() + 1000, 0),
            _ => {
                let back = 1 + next() as usize % 32_768;
                let from = bytes.len().checked_sub(back);
                match from {
                    Some(from) if next() % 4 > 0 => {
                        for at in from..from + 3 + next() as usize % 255 {
                            bytes.push(bytes[at]);
                        }
                    }
                    _ => bytes.extend_from_slice(&next().to_le_bytes()),
                }
            }
        }
    }
    bytes.truncate(length);
    bytes
}

fn tar(files: &[(u64, usize, u8)]) -> Vec<u8> {
    let mut tar = Tar::default();
    for (number, (seed, length, kind)) in files.iter().enumerate() {
        tar.file(
            number.to_string().as_bytes(),
            &content(*seed, *length, *kind),
        );
    }
    tar.end()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_span_decodes_whatever_the_compressor_did(
        files in vec((any::<u64>(), 0_usize..4_000_000, 0_u8..4), 0..5),
        hows in vec(how(), 1..6),
    ) {
        let tar = tar(&files);
        all_spans(&gzip(&tar, &hows), &tar);
    }

    #[test]
    fn every_span_of_a_plain_tar_is_its_bytes(files in vec((any::<u64>(), 0_usize..3_000_000, 0_u8..4), 0..4)) {
        let tar = tar(&files);
        let (_, spans) = all_spans(&tar, &tar);
        assert!(spans.iter().all(|span| span.start == Start::Plain && span.tar_length <= SPAN));
    }
}

#[test]
fn spans_are_about_2_mib() {
    let tar = tar(&[(1, 12 << 20, 1)]);
    let (_, spans) = all_spans(&gzip(&tar, &[How::default()]), &tar);
    assert!((5..=7).contains(&spans.len()), "{}", spans.len());
    assert!(spans.iter().all(|span| span.tar_length < SPAN + (1 << 20)));
}

#[test]
fn content_that_refers_to_nothing_before_it_needs_no_window() {
    let noise = tar(&[(1, 20 << 20, 0)]);
    // Stored blocks, and blocks of literals.
    for (level, way) in [(0, Way::Default), (6, Way::Default), (6, Way::HuffmanOnly)] {
        let (summary, _) = all_spans(
            &gzip(
                &noise,
                &[How {
                    level,
                    way,
                    ..How::default()
                }],
            ),
            &noise,
        );
        assert!(summary.blocks > 5 && summary.windows <= 1, "{summary:?}");
    }
    let text = tar(&[(1, 20 << 20, 1)]);
    let (summary, _) = all_spans(&gzip(&text, &[How::default()]), &text);
    assert_eq!(summary.windows, summary.blocks);
}

#[test]
fn members_begin_spans_without_a_window() {
    let tar = tar(&[(1, 10 << 20, 3)]);
    let how = How {
        piece: 100_000,
        ends: true,
        ..How::default()
    };
    let (summary, spans) = all_spans(&gzip(&tar, &[how]), &tar);
    assert_eq!((summary.windows, summary.blocks), (0, 0));
    assert!(spans.len() > 3 && spans.iter().all(|span| span.start == Start::Member));
}

/// Soon behind the begin of a member, a checkpoint has less than a window of bytes before it.
#[test]
fn a_window_that_is_not_full() {
    let tar = tar(&[(1, 6 << 20, 1)]);
    let before = How {
        piece: (2 << 20) - 10_000,
        ends: true,
        ..How::default()
    };
    let soon = How {
        piece: 12_000,
        flush: DeflateFlush::SyncFlush,
        ..How::default()
    };
    let rest = How {
        piece: 4 << 20,
        ..soon
    };
    let (summary, spans) = all_spans(&gzip(&tar, &[before, soon, rest]), &tar);
    assert_eq!(spans[1].tar_at, (2 << 20) + 2000);
    assert!(summary.windows > 0 && spans[1].window_length > 0);
}

#[test]
fn empty_members_and_empty_tars() {
    let nothing = gzip(&[], &[How::default()]);
    let (summary, spans) = all_spans(&nothing, &[]);
    assert!(spans.is_empty() && summary.inodes == 1);
    all_spans(&[], &[]);
    let tar = tar(&[(1, 3 << 20, 1)]);
    let layer = [
        &nothing[..],
        &gzip(&tar, &[How::default()]),
        &nothing,
        &nothing,
    ]
    .concat();
    all_spans(&layer, &tar);
}

#[test]
fn a_span_is_refused_if_a_byte_differs() {
    let tar = tar(&[(1, 5 << 20, 1)]);
    let layer = gzip(&tar, &[How::default()]);
    let mut file = Vec::new();
    build(&mut &layer[..], &mut file).unwrap();
    let mut file = Cursor::new(file);
    let index = Index::open(&mut file).unwrap();
    let span = index.spans()[1];
    let mut window = Index::window(&span, &mut file).unwrap();
    let from = span.layer_at as usize;
    let mut bytes = layer[from..from + span.layer_length as usize].to_vec();
    assert_eq!(decode(&span, &window, &bytes[1..]), Err(SpanError::Layer));
    bytes[1000] ^= 1;
    assert_eq!(decode(&span, &window, &bytes), Err(SpanError::Layer));
    bytes[1000] ^= 1;
    assert_eq!(decode(&span, &[], &bytes), Err(SpanError::Window));
    let middle = window.len() / 2;
    window[middle] ^= 0x10;
    assert!(matches!(
        decode(&span, &window, &bytes),
        Err(SpanError::Window | SpanError::Tar)
    ));
}
