//! Patterns over tags, whose numbers are compared: `w_#_#`.

use std::{cmp::Ordering, fmt, str::FromStr};

/// A pattern over tags: `#` is a whole number, `*` is anything, everything else stands for itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TagPattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Byte(u8),
    Number,
    Any,
}

/// Why a text is no pattern.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PatternError {
    #[error(
        "a pattern is a tag in which `#` stands for a number and `*` for anything, such as \"w_#_#\""
    )]
    Written,
    #[error("`#` takes all digits of a number: no digit and no second `#` can stand beside it")]
    Beside,
}

/// The numbers of a tag, in the order of the pattern's `#`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Version(Vec<Number>);

/// A number of any length, without leading zeros.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Number(String);

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.0.len(), &self.0).cmp(&(other.0.len(), &other.0))
    }
}

impl TagPattern {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The numbers of `tag`, if the whole tag fits. Takes at most the pattern's length times the tag's length steps.
    pub fn read(&self, tag: &str) -> Option<Version> {
        let tag = tag.as_bytes();
        let (mut part, mut at) = (0, 0);
        let mut numbers: Vec<&[u8]> = Vec::new();
        // The last `*` so far: its part, how much of the tag it has taken, and how many numbers came before it.
        let mut star: Option<(usize, usize, usize)> = None;
        loop {
            let next = match self.parts.get(part) {
                Some(Part::Any) => {
                    star = Some((part, at, numbers.len()));
                    part += 1;
                    continue;
                }
                Some(Part::Byte(byte)) => (tag.get(at) == Some(byte)).then_some(at + 1),
                Some(Part::Number) => {
                    let digits = tag[at..].iter().take_while(|byte| byte.is_ascii_digit());
                    let end = at + digits.count();
                    let begins = at == 0 || !tag[at - 1].is_ascii_digit();
                    (begins && end > at).then(|| {
                        numbers.push(&tag[at..end]);
                        end
                    })
                }
                None if at == tag.len() => return Some(Version::of(&numbers)),
                None => None,
            };
            if let Some(end) = next {
                at = end;
                part += 1;
                continue;
            }
            // The last `*` takes one byte more.
            let (from, taken, before) = star?;
            if taken >= tag.len() {
                return None;
            }
            star = Some((from, taken + 1, before));
            numbers.truncate(before);
            (part, at) = (from + 1, taken + 1);
        }
    }

    pub fn matches(&self, tag: &str) -> bool {
        self.read(tag).is_some()
    }
}

impl Version {
    fn of(numbers: &[&[u8]]) -> Self {
        let number = |digits: &&[u8]| {
            let digits = digits.iter().skip_while(|digit| **digit == b'0');
            Number(digits.map(|digit| char::from(*digit)).collect())
        };
        Self(numbers.iter().map(number).collect())
    }
}

impl FromStr for TagPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"*#._-".contains(&byte);
        if text.is_empty() || text.len() > 256 || !text.bytes().all(fits) {
            return Err(PatternError::Written);
        }
        let digit = |byte: &u8| byte.is_ascii_digit() || *byte == b'#';
        let bytes = text.as_bytes();
        for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'#') {
            let before = at.checked_sub(1).and_then(|at| bytes.get(at));
            if before.is_some_and(digit) || bytes.get(at + 1).is_some_and(digit) {
                return Err(PatternError::Beside);
            }
        }
        let parts = text.bytes().map(|byte| match byte {
            b'#' => Part::Number,
            b'*' => Part::Any,
            byte => Part::Byte(byte),
        });
        Ok(Self {
            text: text.to_owned(),
            parts: parts.collect(),
        })
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> TagPattern {
        text.parse().expect(text)
    }

    #[test]
    fn a_number_takes_all_its_digits_and_the_rest_is_literal() {
        for (glob, tag, fits) in [
            ("w_#_#", "w_2026_47", true),
            ("w_#_#", "w_2026_47_rsp3", false),
            ("w_#_#", "w_2026_", false),
            ("w_#_#", "xw_2026_47", false),
            ("w_#_#_c0034.#", "w_2026_47_c0034.001", true),
            ("w_#_#_c0034.#", "w_2026_47_c0035.001", false),
            ("v#.#.#", "v1.20.3", true),
            ("v#.#.#", "v1.20.3-rc1", false),
            ("v#.#*", "v1.20.3-rc1", true),
            ("*-arm64", "w_2026_47-arm64", true),
            ("*#", "a1b22", true),
            ("*#b", "a1b", true),
            ("*_#_x", "1_2_x_3_x", true),
            ("exp_*", "exp_", true),
            ("latest", "latest", true),
            ("*", "", true),
            ("#", "", false),
        ] {
            assert_eq!(pattern(glob).matches(tag), fits, "{glob} {tag}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers_from_left_to_right() {
        let pattern = pattern("w_#_#");
        let read = |tag| pattern.read(tag).expect(tag);
        assert!(read("w_2026_10") > read("w_2026_9"));
        assert!(read("w_2027_1") > read("w_2026_52"));
        assert_eq!(read("w_2026_09"), read("w_2026_9"));
        let long = format!("w_{}_1", "9".repeat(60));
        assert!(read(&long) > read("w_2026_1"));
        assert!(read("w_1_0") > read("w_0_9"));
    }

    #[test]
    fn a_pattern_that_would_split_a_number_is_refused() {
        for bad in ["w_##", "w_2#", "#0", "1#"] {
            assert_eq!(
                bad.parse::<TagPattern>(),
                Err(PatternError::Beside),
                "{bad}"
            );
        }
        for bad in ["", "a b", "a/b", "[0-9]", "ä"] {
            assert_eq!(
                bad.parse::<TagPattern>(),
                Err(PatternError::Written),
                "{bad}"
            );
        }
    }

    /// The same, by trying every way.
    fn slow(parts: &[Part], tag: &[u8], before: Option<u8>) -> bool {
        let Some((part, rest)) = parts.split_first() else {
            return tag.is_empty();
        };
        let after = |n: usize| n.checked_sub(1).map_or(before, |n| Some(tag[n]));
        match part {
            Part::Byte(byte) => tag.first() == Some(byte) && slow(rest, &tag[1..], Some(*byte)),
            Part::Any => (0..=tag.len()).any(|n| slow(rest, &tag[n..], after(n))),
            Part::Number => {
                let n = tag.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let begins = !before.is_some_and(|byte| byte.is_ascii_digit());
                n > 0 && begins && slow(rest, &tag[n..], after(n))
            }
        }
    }

    proptest! {
        #[test]
        fn one_pass_finds_what_trying_every_way_finds(
            glob in "[a1*#_]{1,6}",
            tag in "[a1_]{0,10}",
        ) {
            if let Ok(pattern) = glob.parse::<TagPattern>() {
                prop_assert_eq!(pattern.matches(&tag), slow(&pattern.parts, tag.as_bytes(), None));
            }
        }
    }
}
