//! Connects a request on one node with the same request on another: W3C Trace Context and request ids.
//!
//! Reads and writes the headers; the daemon decides where ids are made and passed on.
//! <https://www.w3.org/TR/trace-context/>, levels 1 and 2.

use std::{fmt, str::FromStr};

/// The identity of a trace: 16 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// The identity of one step of a trace: 8 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

impl TraceId {
    /// `None` for zero, which is no id.
    pub fn new(id: u128) -> Option<Self> {
        (id != 0).then(|| Self(id.to_be_bytes()))
    }
}

impl SpanId {
    /// `None` for zero, which is no id.
    pub fn new(id: u64) -> Option<Self> {
        (id != 0).then(|| Self(id.to_be_bytes()))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The `traceparent` header: `00-<trace>-<parent>-<flags>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceParent {
    pub trace: TraceId,
    /// The id of the sender's step.
    pub parent: SpanId,
    /// Sampled (1) and random trace id (2). No other flag is known or passed on.
    pub flags: u8,
}

/// The text is no valid `traceparent`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no traceparent")]
pub struct NoTraceParent;

const FLAGS: u8 = 0b11;

impl FromStr for TraceParent {
    type Err = NoTraceParent;

    /// Reads version 00, and of later versions the fields of version 00.
    fn from_str(text: &str) -> Result<Self, NoTraceParent> {
        let bytes = text.as_bytes();
        let later = match bytes.len() {
            55 => false,
            56.. if bytes[55] == b'-' => true,
            _ => return Err(NoTraceParent),
        };
        if [2, 35, 52].iter().any(|dash| bytes[*dash] != b'-') {
            return Err(NoTraceParent);
        }
        let version = hex(&bytes[..2])?;
        if version == 0xff || (version == 0 && later) {
            return Err(NoTraceParent);
        }
        Ok(Self {
            trace: TraceId::new(hex(&bytes[3..35])?).ok_or(NoTraceParent)?,
            parent: SpanId::new(hex(&bytes[36..52])? as u64).ok_or(NoTraceParent)?,
            flags: hex(&bytes[53..55])? as u8 & FLAGS,
        })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.parent, self.flags)
    }
}

/// Lower-case hexadecimal digits; upper-case ones are not allowed.
fn hex(digits: &[u8]) -> Result<u128, NoTraceParent> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return Err(NoTraceParent),
        };
        Ok(number << 4 | u128::from(value))
    })
}

/// How many entries of a `tracestate`, and how many bytes, are passed on.
const ENTRIES: usize = 32;
const STATE: usize = 8192;

/// The `tracestate` headers of a request as one value, unchanged except for white space. `None` if there is nothing, or
/// if any part breaks the rules: then the whole header is to be left out.
pub fn tracestate<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut entries: Vec<(&str, &str)> = Vec::new();
    for header in headers {
        for entry in header.split(',') {
            let entry = entry.trim_matches([' ', '\t']);
            if entry.is_empty() {
                continue;
            }
            let (key, value) = entry.split_once('=')?;
            let known = entries.iter().any(|(other, _)| *other == key);
            if known || entries.len() == ENTRIES || !is_key(key) || !is_value(value) {
                return None;
            }
            entries.push((key, value));
        }
    }
    let entries: Vec<String> = entries
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let state = entries.join(",");
    (!state.is_empty() && state.len() <= STATE).then_some(state)
}

/// A letter or digit, then up to 255 of `a-z 0-9 _ - * / @`, as level 2 has it.
fn is_key(key: &str) -> bool {
    let first = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = key.as_bytes();
    bytes.first().is_some_and(first)
        && bytes.len() <= 256
        && bytes.iter().all(|b| first(b) || b"_-*/@".contains(b))
}

/// Up to 256 printable characters without `,` and `=`, not ending in a blank.
fn is_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    (1..=256).contains(&bytes.len())
        && bytes.last() != Some(&b' ')
        && bytes
            .iter()
            .all(|byte| matches!(byte, 0x20..=0x7e) && !matches!(byte, b',' | b'='))
}

/// A client's `X-Request-Id`, if it is safe in a log: up to 128 letters, digits, and `-_.:/+=@`.
pub fn request_id(text: &str) -> Option<&str> {
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte);
    ((1..=128).contains(&text.len()) && text.bytes().all(sane)).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_examples_of_the_specification() {
        let parent: TraceParent = GOOD.parse().unwrap();
        assert_eq!(parent.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(parent.parent.to_string(), "b7ad6b7169203331");
        assert_eq!((parent.flags, parent.to_string()), (1, GOOD.to_owned()));
        // A later version is read as far as it is known, and written as version 00.
        for later in ["cc", "01", "fe"] {
            for rest in ["", "-", "-what-the-future-holds"] {
                let text = format!("{later}{}{rest}", &GOOD[2..]);
                assert_eq!(text.parse(), Ok(parent), "{text}");
            }
        }
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}0"),
            &format!(" {GOOD}"),
            &format!("ff{}", &GOOD[2..]),
            &format!("cc{}.extra", &GOOD[2..]),
            &format!("0G{}", &GOOD[2..]),
            &GOOD.to_uppercase(),
            &GOOD.replacen('-', "_", 1),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b71692033311-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0é",
        ] {
            assert_eq!(bad.parse::<TraceParent>(), Err(NoTraceParent), "{bad}");
        }
    }

    #[test]
    fn states_are_passed_on_whole_or_not_at_all() {
        let many = |n: usize| {
            (0..n)
                .map(|i| format!("k{i}=v"))
                .collect::<Vec<_>>()
                .join(",")
        };
        for (headers, state) in [
            (vec!["congo=t61rcWkgMzE"], Some("congo=t61rcWkgMzE")),
            (vec!["a=1,\tb=2 ", "", ",c@d=3,"], Some("a=1,b=2,c@d=3")),
            (vec!["0a*/_-=x y"], Some("0a*/_-=x y")),
            (vec![""], None),
            (vec!["a=1", "a=2"], None),
            (vec!["A=1"], None),
            (vec!["a"], None),
            (vec!["a="], None),
            (vec!["a=b=c"], None),
            (vec!["@a=1"], None),
            (vec!["a=1,b=\u{e9}"], None),
            (vec!["a=\u{7f}"], None),
        ] {
            assert_eq!(tracestate(headers.clone()).as_deref(), state, "{headers:?}");
        }
        assert_eq!(tracestate([&*many(32)]), Some(many(32)));
        assert_eq!(tracestate([&*many(33)]), None);
        let long = "x".repeat(257);
        assert_eq!(tracestate([&*format!("a={long}")]), None);
        assert_eq!(tracestate([&*format!("{long}=a")]), None);
    }

    #[test]
    fn request_ids_cannot_break_a_log() {
        for good in [
            "a",
            "3f2b8c1e-0000-4000-8000-1234567890ab",
            "Root=1-67:x/y+z@w",
        ] {
            assert_eq!(request_id(good), Some(good));
        }
        for bad in ["", "a b", "a\nb", "a\"b", "a;b", "é", &"x".repeat(129)] {
            assert_eq!(request_id(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in 1u128.., parent in 1u64.., flags in 0u8..4) {
            let written = TraceParent {
                trace: TraceId::new(trace).unwrap(),
                parent: SpanId::new(parent).unwrap(),
                flags,
            };
            let text = written.to_string();
            prop_assert_eq!(text.len(), 55);
            prop_assert_eq!(text.parse(), Ok(written));
        }

        /// A header that can be read is written as one that reads the same.
        #[test]
        fn anything_is_read_or_refused(text in "(00|01|ff|0a)-[0-9a-f]{30,33}-[0-9a-f]{15,17}-[0-9a-f]{1,3}(-x)?|\\PC{0,70}") {
            if let Ok(parent) = text.parse::<TraceParent>() {
                prop_assert_eq!(parent.to_string().parse(), Ok(parent));
                prop_assert!(text.contains(&parent.trace.to_string()));
            }
        }

        #[test]
        fn states_that_are_passed_on_are_good(headers in proptest::collection::vec("[a-c=, \\t@x]{0,12}|\\PC{0,20}", 0..4)) {
            if let Some(state) = tracestate(headers.iter().map(String::as_str)) {
                prop_assert!(state.is_ascii());
                prop_assert_eq!(tracestate([&*state]), Some(state.clone()));
            }
        }
    }
}
