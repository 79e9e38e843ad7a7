//! `Link` headers (RFC 8288 section 3): the next page of a list.

/// The target of the link to the next page, from all values of an answer's `Link` headers.
///
/// A value may hold several links, a link may have parameters before its `rel`, and a `rel` may be a token, a quoted
/// string, or several relations. Where a value breaks the grammar, the rest of it is ignored; the links before count.
pub fn next_page<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<String> {
    values.into_iter().find_map(next_in)
}

fn next_in(value: &str) -> Option<String> {
    let mut rest = Rest(value);
    loop {
        while rest.take(',') {}
        if !rest.take('<') {
            return None;
        }
        let target = rest.until('>')?;
        let mut relation: Option<String> = None;
        while rest.take(';') {
            let name = rest.token();
            if !rest.take('=') {
                continue;
            }
            let value = rest.value()?;
            // A link's second `rel` does not count (section 3.3).
            if name.eq_ignore_ascii_case("rel") {
                relation.get_or_insert(value);
            }
        }
        let next = |relation: String| {
            let mut words = relation.split_ascii_whitespace();
            words.any(|word| word.eq_ignore_ascii_case("next"))
        };
        if relation.is_some_and(next) {
            return Some(target.trim().to_owned());
        }
    }
}

/// The rest of a value, still to be read.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// Takes this character and the white space before it, if it comes next.
    fn take(&mut self, wanted: char) -> bool {
        let rest = self.0.trim_start().strip_prefix(wanted);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// Takes everything up to and including this character; returns the text before it.
    fn until(&mut self, end: char) -> Option<&'a str> {
        let (before, after) = self.0.split_once(end)?;
        self.0 = after;
        Some(before)
    }

    /// Takes a token, which ends at the first other character.
    fn token(&mut self) -> &'a str {
        let text = self.0.trim_start();
        let ends = |c: char| c.is_whitespace() || matches!(c, '=' | ';' | ',' | '"');
        let (token, after) = text.split_at(text.find(ends).unwrap_or(text.len()));
        self.0 = after;
        token
    }

    /// A parameter's value: a token or a quoted string.
    fn value(&mut self) -> Option<String> {
        if !self.take('"') {
            return Some(self.token().to_owned());
        }
        let mut value = String::new();
        let mut characters = self.0.char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(characters.next()?.1),
                c => value.push(c),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_link_to_the_next_page() {
        for (values, expected) in [
            (
                &[r#"</v2/a/tags/list?n=5&last=x>; rel="next""#][..],
                Some("/v2/a/tags/list?n=5&last=x"),
            ),
            (&["<?last=x>; rel=next"], Some("?last=x")),
            (&["<?last=x>;rel=next"], Some("?last=x")),
            (&[" <?last=x> ; REL = \"Next\" "], Some("?last=x")),
            (
                &[r#"<?a>; title="x; rel=prev, <?b>; rel=next"; rel="last next""#],
                Some("?a"),
            ),
            (&[r#"<?a>; title="\"; rel=prev"; rel=next"#], Some("?a")),
            (&["<?a>; rel=prev, <?b>; rel=next"], Some("?b")),
            (
                &["<?a>; rel=prev,,, <?b>; x; y=z; rel=next, <?c>; rel=last"],
                Some("?b"),
            ),
            (&["<?a,b;c>; rel=next"], Some("?a,b;c")),
            (&["<?a>; rel=prev", "<?b>; rel=next"], Some("?b")),
            (&["broken", "<?b>; rel=next"], Some("?b")),
            (&["<?a>; rel=prev; rel=next"], None),
            (&["<?a>; rel=nextish"], None),
            (&["<?a>; xrel=next"], None),
            (&["<?a>"], None),
            (&["<?a; rel=next"], None),
            (&[r#"<?a>; rel="next"#], None),
            (&["nonsense"], None),
            (&["", ";", ",", "<", "<>"], None),
            (&[], None),
        ] {
            assert_eq!(
                next_page(values.iter().copied()).as_deref(),
                expected,
                "{values:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_or_hangs(value in "[<>;,=\"\\\\ a-z?]{0,60}|\\PC{0,60}") {
            let _ = next_page([value.as_str()]);
        }

        #[test]
        fn what_stands_around_it_does_not_matter(
            before in "(<[a-z?=]{0,9}>(; (title|rel)=(\"[a-m ,;<>]{0,9}\"|[a-m]{1,5}))?, ){0,3}",
            parameters in "(; ?[a-q]{1,5}=(\"[a-z ,;<>=]{0,9}\"|[a-z]{1,5})){0,3}",
            quoted in any::<bool>(),
        ) {
            let rel = if quoted { "\"next\"" } else { "next" };
            let value = format!("{before}<?last=x>{parameters}; rel={rel}, <?b>; rel=prev");
            let next = next_page([value.as_str()]);
            prop_assert_eq!(next.as_deref(), Some("?last=x"));
        }
    }
}
