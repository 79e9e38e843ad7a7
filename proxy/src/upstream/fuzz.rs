//! Answers of registries, mirrors and token servers. See [`crate::fuzz`].

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, header};

use larder_shared::link;

use super::answer::content_range;
use super::challenge::Challenge;
use super::token::TokenAnswer;
use crate::client::retry_after;

/// Values of `WWW-Authenticate`, one a line.
pub(crate) fn challenges(text: &str) {
    if let Some(challenge) = Challenge::bearer(text.lines()) {
        assert!(challenge.longest() <= text.len(), "{challenge:?}");
        assert!(challenge.realm.len() <= challenge.longest());
    }
}

/// Values of `Content-Range` and of `Retry-After`, one a line.
pub(crate) fn content_ranges(text: &str) {
    for line in text.lines() {
        let Ok(value) = HeaderValue::from_str(line) else {
            continue;
        };
        let headers = HeaderMap::from_iter([
            (header::CONTENT_RANGE, value.clone()),
            (header::RETRY_AFTER, value),
        ]);
        if let Some((range, total)) = content_range(&headers) {
            assert!(range.start < range.end && range.end <= total, "{line}");
        }
        // The wait is bounded before it is added to a clock.
        if let Some(wait) = retry_after(&headers) {
            let bounded = wait.min(Duration::from_hours(24));
            assert!(Instant::now().checked_add(bounded).is_some());
        }
    }
}

/// Values of `Link`, one a line.
pub(crate) fn links(text: &str) {
    let values = text
        .lines()
        .filter(|line| HeaderValue::from_str(line).is_ok());
    if let Some(next) = link::next_page(values) {
        assert!(!next.contains('>'), "{next:?}");
        assert!(text.contains(&next), "{next:?} was never said");
        // Its query becomes a part of a header.
        assert!(HeaderValue::from_str(&next).is_ok(), "{next:?}");
    }
}

/// The body of a token server's answer.
pub(crate) fn tokens(bytes: &[u8]) {
    let Ok(answer) = serde_json::from_slice::<TokenAnswer>(bytes) else {
        return;
    };
    if let Ok(token) = answer.into_token() {
        let value = token.authorization();
        assert!(value.is_sensitive(), "it would be logged");
        assert!(value.as_bytes().starts_with(b"Bearer "));
        assert_eq!(format!("{token:?}"), "Token(..)");
    }
}
