//! What a 401 or a 403 means: whether the registry itself sent it, or something in front of the registry.
//!
//! ```text
//! 401 with WWW-Authenticate              a refusal, whatever its body
//! JSON with `errors`                     a refusal: so the distribution-spec writes one
//! a 401 or a 403 to HEAD, without these  asked once more as GET: HEAD has no body that could tell
//! anything else                          no registry's answer: a load balancer's page, an SSO portal, a firewall
//! ```

use http::StatusCode;

/// How many bytes of a body are inspected.
pub(super) const LOOKED_AT: usize = 64 << 10;

/// A 401 or a 403 as it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Denial<'a> {
    pub status: StatusCode,
    /// The request was a HEAD.
    pub head: bool,
    /// The response has a `WWW-Authenticate`.
    pub challenges: bool,
    /// The first [`LOOKED_AT`] bytes of its body.
    pub body: &'a [u8],
}

/// The meaning of a 401 or a 403.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meaning {
    /// The registry refuses this subject to this caller.
    Refusal,
    /// Only a GET can tell.
    AskByGet,
    /// The response does not come from a registry.
    NoRegistry,
}

/// Decides what a 401 or a 403 means.
pub(super) fn meaning(denial: Denial<'_>) -> Meaning {
    let challenge = denial.status == StatusCode::UNAUTHORIZED && denial.challenges;
    if challenge || is_error_list(denial.body) {
        Meaning::Refusal
    } else if denial.head {
        Meaning::AskByGet
    } else {
        Meaning::NoRegistry
    }
}

/// Whether a 400, 401 or 403 is a token server's own answer. Token servers write JSON of many kinds, or nothing. So
/// only a web page counts as the answer of something else, such as a proxy or a portal.
pub(super) fn is_token_refusal(denial: Denial<'_>, content_type: &str) -> bool {
    let challenge = denial.status == StatusCode::UNAUTHORIZED && denial.challenges;
    challenge || !(is_page(content_type) || denial.body.trim_ascii_start().starts_with(b"<"))
}

/// Whether a media type is that of a web page.
pub(super) fn is_page(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    ["text/html", "application/xhtml+xml"]
        .iter()
        .any(|page| kind.eq_ignore_ascii_case(page))
}

/// Whether a body is `{"errors": […]}`, as in the distribution-spec. A body of more than [`LOOKED_AT`] bytes is not.
fn is_error_list(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Errors {
        #[serde(rename = "errors")]
        _errors: Vec<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Errors>(body).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DENIED: &[u8] = br#"{"errors":[{"code":"DENIED","message":"blocked by policy"}]}"#;
    const PAGE: &[u8] = b"<html><h1>403 Forbidden</h1></html>";

    /// Status, whether there is a challenge, body; then the meaning after a GET, and after a HEAD.
    #[test]
    fn table() {
        use Meaning::{AskByGet, NoRegistry, Refusal};
        for (status, challenges, body, get, head) in [
            (401, true, b"".as_slice(), Refusal, Refusal),
            (401, true, PAGE, Refusal, Refusal),
            (401, true, DENIED, Refusal, Refusal),
            (401, false, DENIED, Refusal, Refusal),
            (401, false, b"", NoRegistry, AskByGet),
            (401, false, PAGE, NoRegistry, AskByGet),
            (403, false, DENIED, Refusal, Refusal),
            (403, true, DENIED, Refusal, Refusal),
            // A challenge belongs to 401 (RFC 9110 section 11.6.1).
            (403, true, b"", NoRegistry, AskByGet),
            (403, false, b"", NoRegistry, AskByGet),
            (403, false, PAGE, NoRegistry, AskByGet),
            (
                403,
                false,
                b"{\"errors\":\"no list\"}",
                NoRegistry,
                AskByGet,
            ),
            (
                403,
                false,
                b"{\"message\":\"Forbidden\"}",
                NoRegistry,
                AskByGet,
            ),
            (
                403,
                false,
                b"{\"errors\":[{\"code\":\"DEN",
                NoRegistry,
                AskByGet,
            ),
            (
                403,
                false,
                b" \n{\"errors\":[],\"more\":1} ",
                Refusal,
                Refusal,
            ),
        ] {
            let denial = |head| Denial {
                status: StatusCode::from_u16(status).unwrap(),
                head,
                challenges,
                body,
            };
            let text = String::from_utf8_lossy(body);
            assert_eq!(
                meaning(denial(false)),
                get,
                "GET {status} {challenges} {text}"
            );
            assert_eq!(
                meaning(denial(true)),
                head,
                "HEAD {status} {challenges} {text}"
            );
        }
    }

    #[test]
    fn a_token_server_refuses_in_any_words_but_a_page() {
        for (status, challenges, content_type, body, refuses) in [
            (401, false, "application/json", DENIED, true),
            (
                401,
                false,
                "application/json",
                b"{\"details\":\"incorrect\"}".as_slice(),
                true,
            ),
            (
                400,
                false,
                "application/json",
                b"{\"error\":\"invalid_grant\"}",
                true,
            ),
            (403, false, "", b"", true),
            (401, false, "text/plain", b"no", true),
            (401, true, "text/html", PAGE, true),
            (403, true, "text/html", PAGE, false),
            (403, false, "Text/HTML; charset=utf-8", b"", false),
            (401, false, "", b"\n <!doctype html>", false),
        ] {
            let denial = Denial {
                status: StatusCode::from_u16(status).unwrap(),
                head: false,
                challenges,
                body,
            };
            let text = String::from_utf8_lossy(body);
            let is = is_token_refusal(denial, content_type);
            assert_eq!(is, refuses, "{status} {challenges} {content_type} {text}");
        }
    }

    proptest! {
        /// Whatever a stranger writes, no page refuses anything, and the answer to a GET never leads to another GET.
        #[test]
        fn what_is_no_json_list_and_no_challenge_refuses_nothing(
            body in proptest::collection::vec(any::<u8>(), 0..200),
            forbidden in any::<bool>(),
            head in any::<bool>(),
        ) {
            let status = if forbidden { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
            let said = meaning(Denial { status, head, challenges: false, body: &body });
            let list = serde_json::from_slice::<serde_json::Value>(&body)
                .is_ok_and(|value| value["errors"].is_array());
            prop_assert_eq!(said == Meaning::Refusal, list);
            prop_assert!(head || said != Meaning::AskByGet);
        }
    }
}
