//! What registries answer that are asked for a list: one page of each kind, read strictly.
//!
//! A page that is not of its form is an error, and never a list without tags. Nothing that a registry wrote is repeated.

pub(super) mod acr;
pub(super) mod ecr;
pub(super) mod gar;
pub(super) mod tags;

use serde::{Deserialize, Deserializer};

use super::gather::TooMany;

/// Why a page is no page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Malformed {
    /// Not of the form of this list, and where.
    Form(String),
    TooMany,
}

impl From<TooMany> for Malformed {
    fn from(_: TooMany) -> Self {
        Self::TooMany
    }
}

/// A page of this form, which is an object. The parser's own words may repeat what came.
fn parsed<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Malformed> {
    let page = serde_json::from_slice(body).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "JSON, but no list",
            _ => "not JSON",
        };
        let (line, column) = (error.line(), error.column());
        Malformed::Form(format!("{what}, at line {line}, column {column}"))
    })?;
    // The parser takes a list for an object whose fields are in order.
    if body.trim_ascii_start().starts_with(b"{") {
        Ok(page)
    } else {
        Err(Malformed::Form("JSON, but no list".to_owned()))
    }
}

/// A list that has to be there, and may be `null`: so some registries write an empty one.
fn list_or_null<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A number, or one in quotes: 64-bit numbers are texts in Google's JSON. Anything else has been left out.
fn number(value: &serde_json::Value) -> Option<u64> {
    let positive = |number: f64| (0.0..9e18).contains(&number).then_some(number as u64);
    value
        .as_u64()
        .or_else(|| value.as_str()?.parse().ok())
        .or_else(|| value.as_f64().and_then(positive))
}

/// A moment in Unix seconds, as RFC 3339 writes it.
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
