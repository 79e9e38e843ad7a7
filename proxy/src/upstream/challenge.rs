//! `WWW-Authenticate`, as registries write it in practice.

/// A `Bearer` challenge: where to get a token, and for which scope.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Challenge {
    pub realm: String,
    pub service: Option<String>,
    pub scope: Option<String>,
    /// `invalid_token`, `insufficient_scope` …
    pub error: Option<String>,
}

impl Challenge {
    /// The first `Bearer` challenge with a realm among the header's values.
    pub fn bearer<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        values.into_iter().find_map(|value| {
            let params = parse(value).or_else(|| parse_lenient(value))?;
            let find = |name: &str| {
                params
                    .iter()
                    .find(|(n, _)| n.eq_ignore_ascii_case(name))
                    .map(|(_, v)| v.clone())
            };
            Some(Self {
                realm: find("realm")?,
                service: find("service"),
                scope: find("scope"),
                error: find("error"),
            })
        })
    }

    /// Bytes of all its parameters.
    pub fn size(&self) -> usize {
        let optional = [&self.service, &self.scope, &self.error];
        let lengths = optional.into_iter().flatten().map(String::len);
        self.realm.len() + lengths.sum::<usize>()
    }

    /// Bytes of its longest parameter.
    pub fn longest(&self) -> usize {
        let optional = [&self.service, &self.scope, &self.error];
        let lengths = optional.into_iter().flatten().map(String::len);
        lengths.fold(self.realm.len(), usize::max)
    }
}

fn parse(value: &str) -> Option<Vec<(String, String)>> {
    let challenges = http_auth::parse_challenges(value).ok()?;
    let bearer = challenges
        .into_iter()
        .find(|c| c.scheme.eq_ignore_ascii_case("bearer"))?;
    Some(
        bearer
            .params
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.to_unescaped()))
            .collect(),
    )
}

/// Splits at commas outside of quotes. Some registries leave the quotes off a realm, which RFC 9110 does not allow.
fn parse_lenient(value: &str) -> Option<Vec<(String, String)>> {
    let (scheme, rest) = value.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut quoted = false;
    let parts = rest.split(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    Some(
        parts
            .filter_map(|part| {
                let (name, value) = part.trim().split_once('=')?;
                Some((
                    name.trim().to_owned(),
                    value.trim().trim_matches('"').to_owned(),
                ))
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn challenge(value: &str) -> Option<(String, Option<String>, Option<String>)> {
        Challenge::bearer([value]).map(|c| (c.realm, c.service, c.scope))
    }

    #[test]
    fn table() {
        let some = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some((
                realm.to_owned(),
                service.map(str::to_owned),
                scope.map(str::to_owned),
            ))
        };
        for (value, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull""#,
                some(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:library/nginx:pull"),
                ),
            ),
            (
                r#"bearer realm="https://a/t""#,
                some("https://a/t", None, None),
            ),
            (
                r#"Basic realm="x", Bearer realm="https://a/t""#,
                some("https://a/t", None, None),
            ),
            (
                "Bearer realm=https://a/t,service=s",
                some("https://a/t", Some("s"), None),
            ),
            (
                r#"Bearer realm="https://a/t",scope="repository:a:pull,push""#,
                some("https://a/t", None, Some("repository:a:pull,push")),
            ),
            (r#"Basic realm="x""#, None),
            ("Bearer", None),
            ("", None),
        ] {
            assert_eq!(challenge(value), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(value in "\\PC*") {
            let _ = challenge(&value);
            let _ = challenge(&format!("Bearer {value}"));
        }
    }
}
