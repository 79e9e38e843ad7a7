//! Two indexes of one layer: which changes count as a difference.

use std::io::Cursor;

use larder_layer::format::{FOOTER, RECORD};
use larder_layer::{Difference, Index, Refused, build, difference, fuzz};

use crate::gzip::{How, gzip};
use crate::made::Tar;

fn index(layer: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Index {
    let mut file = Vec::new();
    build(&mut &layer[..], &mut file).unwrap();
    change(&mut file);
    Index::open(&mut Cursor::new(file)).unwrap()
}

fn layer(name: &[u8], content: &[u8]) -> Vec<u8> {
    let tar = Tar::default().file(name, content).end();
    gzip(&tar, &[How::default()])
}

#[test]
fn each_row_of_what_is_compared() {
    let content: Vec<u8> = (0..5_000_000_u32)
        .map(|at| ((at >> 3) ^ ((at * 7) >> 5)) as u8)
        .collect();
    let own = layer(b"f", &content);
    let ours = index(&own, |_| {});
    let same = index(&own, |_| {});
    assert_eq!(difference(&same, Ok(&ours)), None);
    assert!(ours.spans().len() > 2);

    // Changes of one field in the footer or the table that seal and tables still allow.
    let footer = |at: usize, field: &[u8]| {
        index(&own, |bytes| {
            let at = bytes.len() - FOOTER + at;
            bytes[at..at + field.len()].copy_from_slice(field);
            fuzz::seal(bytes);
        })
    };
    let span = |number: usize| {
        index(&own, |bytes| {
            let table = bytes.len() - FOOTER - RECORD * ours.spans().len();
            bytes[table + RECORD * number + 72] ^= 1;
            fuzz::seal(bytes);
        })
    };
    // An index of another tar, under this layer's digest and length.
    let mut changed = content.clone();
    changed[4_000_000] ^= 1;
    let other = index(&layer(b"f", &changed), |bytes| {
        let at = bytes.len() - FOOTER;
        bytes[at..at + 32].copy_from_slice(ours.layer().as_bytes());
        bytes[at + 96..at + 104].copy_from_slice(&(1_u64 << 40).to_le_bytes());
        fuzz::seal(bytes);
    });
    let long = footer(96, &(1_u64 << 40).to_le_bytes());
    assert_eq!(difference(&other, Ok(&long)), Some(Difference::DiffId));
    for (what, theirs, expected) in [
        ("digest", footer(0, &[1; 32]), Difference::Layer),
        ("length", long, Difference::Layer),
        ("implied", footer(144, &[1]), Difference::Tree),
        ("first span", span(0), Difference::Span(0)),
        ("last span", span(2), Difference::Span(2)),
    ] {
        assert_eq!(difference(&theirs, Ok(&ours)), Some(expected), "{what}");
        assert_eq!(difference(&ours, Ok(&theirs)), Some(expected), "{what}");
    }
    let refused = Refused::Compression;
    assert_eq!(
        difference(&same, Err(&refused)),
        Some(Difference::Refused(refused))
    );
}
