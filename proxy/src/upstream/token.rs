//! Upstream tokens: fetched per realm, service and scope, shared by all requests that need the same one, kept until
//! they are about to expire. A token is never printed.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderValue, StatusCode};
use moka::{Expiry, future::Cache};
use serde::Deserialize;

use super::{
    bounded::{self, length},
    challenge::Challenge,
};
use crate::{identity::Fingerprint, metrics::TokenOutcome};

/// What a token is valid for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TokenKey {
    pub realm: String,
    pub service: Option<String>,
    pub scope: Option<String>,
    who: Fingerprint,
}

impl TokenKey {
    /// The key of the token that answers `challenge` on behalf of the caller `who`.
    pub fn new(challenge: &Challenge, who: Fingerprint) -> Self {
        Self {
            realm: challenge.realm.clone(),
            service: challenge.service.clone(),
            scope: challenge.scope.clone(),
            who,
        }
    }
}

/// An `Authorization` value that an upstream's token server gave.
#[derive(Clone)]
pub struct Token {
    value: HeaderValue,
    lifetime: Duration,
}

impl Token {
    pub fn authorization(&self) -> HeaderValue {
        self.value.clone()
    }

    /// The same token, with a lifetime of at most `longest`.
    #[must_use]
    pub fn within(mut self, longest: Duration) -> Self {
        self.lifetime = self.lifetime.min(longest);
        self
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the token server refused ({0})")]
    Refused(StatusCode),
    #[error("the token server limits requests")]
    Limited(Option<Duration>),
    #[error("the token server cannot be reached: {0}")]
    Unreachable(String),
    #[error("the token server's answer makes no sense: {0}")]
    Invalid(String),
    #[error("the token realm may not be used: {0}")]
    Forbidden(String),
}

impl TokenError {
    pub fn outcome(&self) -> TokenOutcome {
        match self {
            Self::Refused(_) => TokenOutcome::Refused,
            Self::Limited(_) | Self::Unreachable(_) => TokenOutcome::Unreachable,
            Self::Invalid(_) => TokenOutcome::Invalid,
            Self::Forbidden(_) => TokenOutcome::Forbidden,
        }
    }
}

/// The JSON of a token endpoint (Docker's token specification; `expires_in` is 60 s unless it says otherwise).
#[derive(Deserialize)]
pub struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    /// Any JSON value: a malformed lifetime must not spoil the token.
    expires_in: Option<serde_json::Value>,
}

/// The lifetime of a token that states none, in seconds, and the longest lifetime that is believed.
const LIFETIME: u64 = 60;
const LIFETIME_MAX: u64 = 24 * 3600;

impl TokenAnswer {
    pub fn into_token(self) -> Result<Token, TokenError> {
        let told = [self.token, self.access_token];
        let text = told.into_iter().flatten().find(|text| !text.is_empty());
        let text = text.ok_or_else(|| {
            TokenError::Invalid("it has neither `token` nor `access_token`".to_owned())
        })?;
        let mut value = HeaderValue::try_from(format!("Bearer {text}")).map_err(|_| {
            TokenError::Invalid("the token has characters that no header may hold".to_owned())
        })?;
        value.set_sensitive(true);
        Ok(Token {
            value,
            lifetime: Duration::from_secs(lifetime(self.expires_in.as_ref())),
        })
    }
}

/// `expires_in` in seconds: a number, or a number in quotes. A number below 1 counts as absent.
fn lifetime(told: Option<&serde_json::Value>) -> u64 {
    let number = told.and_then(|told| {
        let quoted = || told.as_str()?.trim().parse().ok();
        told.as_f64().or_else(quoted)
    });
    match number {
        Some(seconds) if seconds >= 1.0 => (seconds as u64).min(LIFETIME_MAX),
        _ => LIFETIME,
    }
}

/// Bytes of all kept tokens.
const MOST: u64 = 16 << 20;

/// The tokens that are valid now.
#[derive(Debug)]
pub struct Tokens(Cache<TokenKey, Token>);

struct UntilExpiry;

impl Expiry<TokenKey, Token> for UntilExpiry {
    fn expire_after_create(&self, _: &TokenKey, token: &Token, _: Instant) -> Option<Duration> {
        // The token of a request that starts now must not expire on the way.
        Some(
            token
                .lifetime
                .saturating_sub(Duration::from_secs(5))
                .max(token.lifetime / 2),
        )
    }
}

impl Tokens {
    pub fn new() -> Self {
        Self(
            bounded::cache(MOST, texts)
                .expire_after(UntilExpiry)
                .build(),
        )
    }

    /// The kept token, or the token that `fetch` returns. Simultaneous callers share one fetch.
    pub async fn get_or_fetch(
        &self,
        key: TokenKey,
        fetch: impl Future<Output = Result<Token, TokenError>>,
    ) -> Result<Token, TokenError> {
        self.0
            .try_get_with(key, fetch)
            .await
            .map_err(Arc::unwrap_or_clone)
    }

    /// Forgets a token that was refused before its time.
    pub async fn forget(&self, key: &TokenKey) {
        self.0.invalidate(key).await;
    }
}

fn texts(key: &TokenKey, token: &Token) -> usize {
    let optional = length(key.service.as_ref()) + length(key.scope.as_ref());
    key.realm.len() + optional + token.value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hostile registry may give any number of tokens, each of the greatest length.
    #[tokio::test]
    async fn tokens_are_bounded_by_their_bytes() {
        let tokens = Tokens::new();
        for n in 0..1000 {
            let key = TokenKey {
                realm: format!("https://{n}.io/token"),
                service: Some("s".repeat(1000)),
                scope: Some("c".repeat(1000)),
                who: crate::identity::Identity::anonymous().fingerprint(),
            };
            let text = "t".repeat(60_000);
            let token = Token {
                value: HeaderValue::try_from(text).unwrap(),
                lifetime: Duration::from_hours(1),
            };
            assert!(texts(&key, &token) >= 62_000);
            tokens.get_or_fetch(key, async { Ok(token) }).await.unwrap();
        }
        tokens.0.run_pending_tasks().await;
        let bytes = tokens.0.weighted_size();
        assert!((MOST / 2..=MOST).contains(&bytes), "{bytes}");
    }

    #[test]
    fn tokens_as_token_servers_write_them() {
        let day = LIFETIME_MAX;
        for (json, expected) in [
            (r#"{"token":"x"}"#, Some(("x", 60))),
            (r#"{"access_token":"x","expires_in":300}"#, Some(("x", 300))),
            (r#"{"token":"","access_token":"x"}"#, Some(("x", 60))),
            (r#"{"token":null,"access_token":"x"}"#, Some(("x", 60))),
            (r#"{"token":"x","access_token":""}"#, Some(("x", 60))),
            (r#"{"token":"x","expires_in":0}"#, Some(("x", 60))),
            (r#"{"token":"x","expires_in":-1}"#, Some(("x", 60))),
            (r#"{"token":"x","expires_in":"300"}"#, Some(("x", 300))),
            (r#"{"token":"x","expires_in":299.9}"#, Some(("x", 299))),
            (r#"{"token":"x","expires_in":1e30}"#, Some(("x", day))),
            (r#"{"token":"x","expires_in":[1]}"#, Some(("x", 60))),
            (r#"{"token":"","access_token":""}"#, None),
            (r#"{"token":"a\nb"}"#, None),
            ("{}", None),
        ] {
            let answer: TokenAnswer = serde_json::from_str(json).unwrap();
            let token = answer.into_token().ok();
            let token = token.map(|token| (token.value, token.lifetime.as_secs()));
            let expected = expected.map(|(text, seconds)| {
                let value = HeaderValue::try_from(format!("Bearer {text}")).unwrap();
                (value, seconds)
            });
            assert_eq!(token, expected, "{json}");
        }
    }
}
