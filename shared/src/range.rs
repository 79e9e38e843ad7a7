//! `Range` (RFC 9110 section 14) for representations whose length is known.
//!
//! Owns the grammar and the arithmetic. The answer depends only on the header and the length, never on what is cached.
//! So a client sees the same on a cold, a growing and a committed blob (promise P6).

/// Bytes `start..end`, end exclusive, never empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Range {
    pub start: u64,
    pub end: u64,
}

impl Range {
    /// The bytes from `start` up to `end`, without `end`.
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end }
    }

    /// How many bytes the range has.
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether the range has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// `bytes start-last/total` for `Content-Range`.
    pub fn content_range(&self, total: u64) -> String {
        format!("bytes {}-{}/{total}", self.start, self.end - 1)
    }
}

/// One range as the client asked for it, before the length is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spec {
    /// `first-last`, both inclusive.
    Bounded(u64, u64),
    /// `first-`
    Open(u64),
    /// `-length`
    Suffix(u64),
}

/// A parsed `Range` header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RangeHeader {
    /// No header, or one to ignore (another unit, a broken grammar): the client gets the whole representation.
    Whole,
    /// One or more byte ranges, in the client's order.
    Bytes(Vec<Spec>),
    /// The grammar allows it but no representation satisfies it (`bytes=5-2`): 416 whatever the length.
    Never,
}

/// A header with more ranges is refused: its answer would be mostly boundaries. Snapshotters ask for some hundreds at
/// most.
const MAX_SPECS: usize = 1024;

/// The answer to a header, for a given length.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selected {
    /// 200 with everything.
    Whole,
    /// 206 with one part. `open`: the client named no end.
    One { range: Range, open: bool },
    /// 206 with `multipart/byteranges`, at least two parts, in the client's order.
    Many(Vec<Range>),
    /// 416
    Unsatisfiable,
}

impl RangeHeader {
    /// Reads the value of a `Range` header.
    pub fn parse(value: Option<&str>) -> Self {
        let Some((unit, set)) = value.and_then(|v| v.split_once('=')) else {
            return Self::Whole;
        };
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return Self::Whole;
        }
        let mut specs = Vec::new();
        let mut reversed = false;
        for part in set.split(',').map(str::trim) {
            if part.is_empty() {
                continue;
            }
            let Some((first, last)) = part.split_once('-') else {
                return Self::Whole;
            };
            let spec = match (position(first), position(last)) {
                (Position::At(first), Position::At(last)) if last < first => {
                    reversed = true;
                    continue;
                }
                (Position::At(first), Position::At(last)) => Spec::Bounded(first, last),
                (Position::At(first), Position::None) => Spec::Open(first),
                (Position::None, Position::At(length)) => Spec::Suffix(length),
                _ => return Self::Whole,
            };
            specs.push(spec);
            if specs.len() > MAX_SPECS {
                return Self::Never;
            }
        }
        match (specs.is_empty(), reversed) {
            (false, false) => Self::Bytes(specs),
            (_, true) => Self::Never,
            (true, false) => Self::Whole,
        }
    }

    /// Which bytes to send of a representation of `length` bytes.
    pub fn select(&self, length: u64) -> Selected {
        let specs = match self {
            Self::Whole => return Selected::Whole,
            Self::Never => return Selected::Unsatisfiable,
            Self::Bytes(specs) => specs,
        };
        let mut parts: Vec<(Range, bool)> = specs
            .iter()
            .filter_map(|spec| resolve(*spec, length))
            .collect();
        let total: u128 = parts.iter().map(|(range, _)| u128::from(range.len())).sum();
        match parts.len() {
            0 => Selected::Unsatisfiable,
            1 => {
                let (range, open) = parts.remove(0);
                Selected::One { range, open }
            }
            // If overlapping parts add up to more than the blob, the answer is the whole blob, as RFC 9110 section 14.2
            // allows. A few bytes of header must not cost a multiple of the blob.
            _ if total > u128::from(length) => Selected::Whole,
            _ => Selected::Many(parts.into_iter().map(|(range, _)| range).collect()),
        }
    }

    /// The end of the first part, if it is known without the length.
    pub fn first_end(&self) -> Option<u64> {
        match self {
            Self::Bytes(specs) => match specs.first()? {
                Spec::Bounded(_, last) => last.checked_add(1),
                Spec::Open(_) | Spec::Suffix(_) => None,
            },
            Self::Whole | Self::Never => None,
        }
    }

    /// The begin of the first part, if it is known without the length.
    pub fn first_start(&self) -> Option<u64> {
        match self {
            Self::Whole => Some(0),
            Self::Never => None,
            Self::Bytes(specs) => match specs.first()? {
                Spec::Bounded(first, _) | Spec::Open(first) => Some(*first),
                Spec::Suffix(_) => None,
            },
        }
    }
}

enum Position {
    At(u64),
    None,
    Not,
}

/// A decimal position. One that does not fit into 64 bits lies beyond every representation.
fn position(text: &str) -> Position {
    let text = text.trim();
    if text.is_empty() {
        Position::None
    } else if text.bytes().all(|b| b.is_ascii_digit()) {
        Position::At(text.parse().unwrap_or(u64::MAX))
    } else {
        Position::Not
    }
}

fn resolve(spec: Spec, length: u64) -> Option<(Range, bool)> {
    let (start, end, open) = match spec {
        Spec::Bounded(first, last) => (first, last.saturating_add(1).min(length), false),
        Spec::Open(first) => (first, length, true),
        Spec::Suffix(count) => (length.saturating_sub(count), length, false),
    };
    (start < end).then_some((Range::new(start, end), open))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn select(header: &str, length: u64) -> Selected {
        RangeHeader::parse(Some(header)).select(length)
    }

    fn one(start: u64, end: u64, open: bool) -> Selected {
        Selected::One {
            range: Range::new(start, end),
            open,
        }
    }

    #[test]
    fn table() {
        for (header, expected) in [
            ("bytes=0-0", one(0, 1, false)),
            ("bytes=0-", one(0, 100, true)),
            ("bytes=10-19", one(10, 20, false)),
            ("bytes=90-1000", one(90, 100, false)),
            ("bytes=99-", one(99, 100, true)),
            ("bytes=-1", one(99, 100, false)),
            ("bytes=-1000", one(0, 100, false)),
            ("Bytes=0-9", one(0, 10, false)),
            ("bytes= 0-9 , ", one(0, 10, false)),
            ("bytes=100-", Selected::Unsatisfiable),
            ("bytes=100-200", Selected::Unsatisfiable),
            ("bytes=-0", Selected::Unsatisfiable),
            ("bytes=500-0", Selected::Unsatisfiable),
            ("bytes=99999999999999999999999-", Selected::Unsatisfiable),
            ("bytes=0-99999999999999999999999", one(0, 100, false)),
            (
                "bytes=0-1,5-6",
                Selected::Many(vec![Range::new(0, 2), Range::new(5, 7)]),
            ),
            (
                "bytes=5-6,0-1",
                Selected::Many(vec![Range::new(5, 7), Range::new(0, 2)]),
            ),
            ("bytes=0-1,200-", one(0, 2, false)),
            ("bytes=0-99,0-99", Selected::Whole),
            ("bites=0-1", Selected::Whole),
            ("bytes", Selected::Whole),
            ("bytes=", Selected::Whole),
            ("bytes=-", Selected::Whole),
            ("bytes=a-b", Selected::Whole),
            ("bytes=1", Selected::Whole),
            ("bytes=+1-2", Selected::Whole),
        ] {
            assert_eq!(select(header, 100), expected, "{header}");
        }
        assert_eq!(RangeHeader::parse(None), RangeHeader::Whole);
        assert_eq!(select("bytes=0-", 0), Selected::Unsatisfiable);
        let many = format!("bytes={}", "0-0,".repeat(MAX_SPECS + 1));
        assert_eq!(select(&many, 100), Selected::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn never_panics_and_stays_inside(header in "(bytes=)?[0-9,\\- a-z]{0,40}", length in 0u64..1000) {
            let ranges = match RangeHeader::parse(Some(&header)).select(length) {
                Selected::Whole | Selected::Unsatisfiable => vec![],
                Selected::One { range, .. } => vec![range],
                Selected::Many(ranges) => ranges,
            };
            for range in &ranges {
                prop_assert!(range.start < range.end && range.end <= length);
            }
            prop_assert!(ranges.iter().map(Range::len).sum::<u64>() <= length);
        }

        #[test]
        fn content_range_is_inclusive(start in 0u64..500, len in 1u64..500) {
            let range = Range::new(start, start + len);
            prop_assert_eq!(range.content_range(1000), format!("bytes {}-{}/1000", start, start + len - 1));
        }
    }
}
