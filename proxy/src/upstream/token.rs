//! Upstream tokens: fetched per realm, service and scope, shared by everyone who needs the same one, kept until they
//! are about to expire. A token is never printed.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderValue, StatusCode};
use moka::{Expiry, future::Cache};
use serde::Deserialize;

use super::challenge::Challenge;
use crate::{identity::Fingerprint, metrics::TokenOutcome};

/// What a token is good for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TokenKey {
    pub realm: String,
    pub service: Option<String>,
    pub scope: Option<String>,
    who: Fingerprint,
}

impl TokenKey {
    /// What answers `challenge` on behalf of `who`.
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

    /// The same, good for no longer than this.
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
    expires_in: Option<u64>,
}

impl TokenAnswer {
    pub fn into_token(self) -> Result<Token, TokenError> {
        let text = self.token.or(self.access_token).ok_or_else(|| {
            TokenError::Invalid("it has neither `token` nor `access_token`".to_owned())
        })?;
        let mut value = HeaderValue::try_from(format!("Bearer {text}")).map_err(|_| {
            TokenError::Invalid("the token has characters that no header may hold".to_owned())
        })?;
        value.set_sensitive(true);
        Ok(Token {
            value,
            lifetime: Duration::from_secs(self.expires_in.unwrap_or(60).clamp(1, 24 * 3600)),
        })
    }
}

/// The tokens that are good now.
#[derive(Debug)]
pub struct Tokens(Cache<TokenKey, Token>);

struct UntilExpiry;

impl Expiry<TokenKey, Token> for UntilExpiry {
    fn expire_after_create(&self, _: &TokenKey, token: &Token, _: Instant) -> Option<Duration> {
        // A request that starts now should not meet an expired token on arrival.
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
            Cache::builder()
                .max_capacity(10_000)
                .expire_after(UntilExpiry)
                .build(),
        )
    }

    /// The cached token, or the one that `fetch` brings; simultaneous askers share one fetch.
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
