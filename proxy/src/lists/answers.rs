//! The answers of registries that are asked for a list: one page of each kind, read strictly.
//!
//! A page of another form is an error, never a list without tags. Errors repeat no part of the answer.

pub(super) mod acr;
pub(super) mod ecr;
pub(super) mod gar;
pub(super) mod tags;

use serde::{Deserialize, Deserializer};

use super::gather::TooMany;

/// Why an answer is not a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Malformed {
    /// It does not have the form of this list; the text says where.
    Form(String),
    TooMany,
}

impl From<TooMany> for Malformed {
    fn from(_: TooMany) -> Self {
        Self::TooMany
    }
}

/// Parses a page, which must be an object. The parser's own message is left out, since it may repeat the answer.
fn parsed<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Malformed> {
    let page = serde_json::from_slice(body).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "JSON, but no list",
            _ => "not JSON",
        };
        let (line, column) = (error.line(), error.column());
        Malformed::Form(format!("{what}, at line {line}, column {column}"))
    })?;
    // The parser also accepts an array with the fields in order.
    if body.trim_ascii_start().starts_with(b"{") {
        Ok(page)
    } else {
        Err(Malformed::Form("JSON, but no list".to_owned()))
    }
}

/// A list that must be present. It may be `null`, as some registries write an empty list.
fn list_or_null<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A number, or one in quotes, as Google's JSON has 64-bit numbers. Any other value counts as absent.
fn number(value: &serde_json::Value) -> Option<u64> {
    let positive = |number: f64| (0.0..9e18).contains(&number).then_some(number as u64);
    value
        .as_u64()
        .or_else(|| value.as_str()?.parse().ok())
        .or_else(|| value.as_f64().and_then(positive))
}

/// A time of RFC 3339, in Unix seconds.
fn moment(text: &str) -> Option<u64> {
    let at: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(at.as_second()).ok().filter(|at| *at > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_moments_as_registries_write_them() {
        for (json, expected) in [
            ("5", Some(5)),
            ("\"5\"", Some(5)),
            ("5.9", Some(5)),
            ("-1", None),
            ("\"-1\"", None),
            ("1e300", None),
            ("null", None),
            ("[5]", None),
            ("\"\"", None),
        ] {
            let value = serde_json::from_str(json).unwrap();
            assert_eq!(number(&value), expected, "{json}");
        }
        assert_eq!(moment("1970-01-01T00:01:00.5Z"), Some(60));
        assert_eq!(moment("2077-10-26T01:00:00+01:00"), Some(3_402_432_000));
        assert_eq!(moment("0001-01-01T00:00:00Z"), None);
        assert_eq!(moment("yesterday"), None);
    }
}
