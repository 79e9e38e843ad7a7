//! Layers without an index because of compression, headers or records.

use larder_layer::{Error, Refused, build};
use tar::{EntryType, Header};

use crate::gzip::{How, gzip};
use crate::made::{Said, Tar, record};

pub fn reason(layer: &[u8]) -> Option<Refused> {
    match build(&mut &layer[..], &mut Vec::new()) {
        Ok(_) => None,
        Err(Error::Refused(reason)) => Some(reason),
        Err(error) => panic!("{error}"),
    }
}

pub fn of(make: impl FnOnce(&mut Tar)) -> Option<Refused> {
    let mut tar = Tar::default();
    make(&mut tar);
    reason(&tar.end())
}

fn with_records(records: &[(&str, &[u8])]) -> Option<Refused> {
    with(EntryType::XHeader, records)
}

fn with(kind: EntryType, records: &[(&str, &[u8])]) -> Option<Refused> {
    of(|tar| {
        let mut bytes = Vec::new();
        for (key, value) in records {
            record(&mut bytes, key, value);
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        tar.raw(header, &bytes).file(b"f", b"content");
    })
}

#[test]
fn other_compressions() {
    assert_eq!(
        reason(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0]),
        Some(Refused::Compression)
    );
    assert_eq!(
        reason(&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0]),
        Some(Refused::Compression)
    );
    assert_eq!(reason(&[b'x'; 2000]), Some(Refused::Header));
}

#[test]
fn gzip_that_is_cut_or_changed_or_has_something_behind_it() {
    let mut tar = Tar::default();
    tar.file(b"f", &b"seven".repeat(20_000));
    let layer = gzip(&tar.end(), &[How::default()]);
    assert_eq!(reason(&layer), None);
    for end in [3, 15, layer.len() / 2, layer.len() - 9, layer.len() - 1] {
        assert_eq!(reason(&layer[..end]), Some(Refused::Gzip), "cut at {end}");
    }
    let mut changed = layer.clone();
    let crc = changed.len() - 8;
    changed[crc] ^= 1;
    assert_eq!(reason(&changed), Some(Refused::Gzip));
    for behind in [&b"\0"[..], b"garbage", &[0; 512]] {
        assert_eq!(reason(&[&layer[..], behind].concat()), Some(Refused::Gzip));
    }
}

#[test]
fn a_block_that_is_longer_than_a_span_may_be() {
    // A block of zlib holds 16 Ki symbols, so at most 4 MiB of zeros. Zeros are the tar of an empty layer.
    let zeros = gzip(
        &vec![0; 80 << 20],
        &[How {
            level: 9,
            ..How::default()
        }],
    );
    assert_eq!(reason(&zeros), None);
    // One block of zeros that no compressor writes: a zero, then the longest match at distance 1, again and again.
    let mut deflate = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let mut bits = Bits::default();
    bits.put(0b011, 3);
    bits.code(0x30, 8);
    for _ in 0..200_000 {
        bits.code(0b1100_0101, 8);
        bits.code(0, 5);
    }
    bits.code(0, 7);
    deflate.extend(bits.bytes);
    assert_eq!(reason(&deflate), Some(Refused::LongBlock));
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    fn put(&mut self, value: u32, count: u32) {
        for bit in 0..count {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.len() - 1;
            self.bytes[last] |= ((value >> bit & 1) as u8) << (self.used % 8);
            self.used += 1;
        }
    }

    /// Huffman codes begin with their highest bit.
    fn code(&mut self, value: u32, count: u32) {
        self.put(value.reverse_bits() >> (32 - count), count);
    }
}

#[test]
fn tars_that_end_in_the_middle() {
    let mut tar = Tar::default();
    tar.file(b"f", &[1; 600]);
    for end in [1, 511, 513, 1111, 1535] {
        assert_eq!(
            reason(&tar.0[..end]),
            Some(Refused::Truncated),
            "cut at {end}"
        );
    }
    // Without the end mark, and with half of it.
    assert_eq!(reason(&tar.0), None);
    assert_eq!(reason(&[&tar.0[..], &[0; 512]].concat()), None);
    assert_eq!(
        reason(&[&tar.0[..], &[0; 512], &tar.0[..]].concat()),
        Some(Refused::Header)
    );
    assert_eq!(
        reason(&[&tar.0[..], &[0; 1024], b"anything"].concat()),
        None
    );
}

#[test]
fn headers_that_are_not_valid() {
    let mut tar = Tar::default();
    tar.file(b"f", b"");
    for (at, value) in [
        (0, b'g'),
        (148, b'9'),
        (257, b'U'),
        (263, b'1'),
        (124, b'z'),
    ] {
        let mut bytes = tar.end();
        bytes[at] = value;
        assert_eq!(reason(&bytes), Some(Refused::Header), "byte {at}");
    }
    let said = Said::default();
    let of_kind = |kind| {
        of(|tar| {
            tar.entry(b"x", EntryType::new(kind), b"", b"", (0, 0), &said);
        })
    };
    assert_eq!(of_kind(b'S'), Some(Refused::Sparse));
    for kind in *b"789AVMDNX" {
        assert_eq!(of_kind(kind), Some(Refused::EntryType));
    }
    // Content behind entries that have none.
    for kind in [
        EntryType::Directory,
        EntryType::Link,
        EntryType::Symlink,
        EntryType::Fifo,
    ] {
        assert_eq!(
            of(|tar| {
                tar.entry(b"x", kind, b"1", b"y", (0, 0), &said);
            }),
            Some(Refused::Header)
        );
    }
    assert_eq!(
        of(|tar| {
            tar.file(b"f/", b"");
        }),
        Some(Refused::Header)
    );
}

#[test]
fn sparse_files() {
    assert_eq!(
        with_records(&[("GNU.sparse.major", b"1")]),
        Some(Refused::Sparse)
    );
    assert_eq!(
        with_records(&[("GNU.sparse.map", b"0,1")]),
        Some(Refused::Sparse)
    );
}

#[test]
fn records_that_are_not_valid_or_not_agreed_upon() {
    assert_eq!(
        with_records(&[
            ("comment", b"any"),
            ("ctime", b"1"),
            ("hdrcharset", b"BINARY")
        ]),
        None
    );
    let wrong: [(&str, &[u8]); 6] = [
        ("path", b""),
        ("path", b"a\0b"),
        ("size", b"x"),
        ("size", b"-1"),
        ("uid", b""),
        ("mtime", b"1.x"),
    ];
    for (key, value) in wrong {
        assert_eq!(with_records(&[(key, value)]), Some(Refused::Pax), "{key}");
    }
    assert_eq!(
        with_records(&[("SCHILY.xattr.user.a%3D", b"1")]),
        Some(Refused::Pax)
    );
    assert_eq!(
        with_records(&[("uid", b"4294967296")]),
        Some(Refused::Number)
    );
    assert_eq!(
        with(EntryType::XGlobalHeader, &[("comment", b"a commit")]),
        None
    );
    assert_eq!(
        with(EntryType::XGlobalHeader, &[("mtime", b"1")]),
        Some(Refused::Pax)
    );
    // Two headers of one kind before one entry, and one before none.
    let twice = of(|tar| {
        for _ in 0..2 {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::GNULongName);
            tar.raw(header, b"name\0");
        }
        tar.file(b"f", b"");
    });
    assert_eq!(twice, Some(Refused::Header));
    let alone = of(|tar| {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        tar.raw(header, b"name\0");
    });
    assert_eq!(alone, Some(Refused::Truncated));
}
