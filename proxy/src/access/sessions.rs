//! larder's own tokens. The token endpoint gives one to a client that has shown its credential.
//!
//! A token is an unguessable word that stands for an identity at one registry. It lives in memory only; after a
//! restart, a client gets a new one.

use std::time::Duration;

use larder_shared::RegistryName;
use moka::future::Cache;

use crate::identity::{Identity, random_text};

/// The prefix of every token. It tells a forgotten token of larder's from a token of the registry.
const PREFIX: &str = "larder_";

/// The lifetime of a token that the client is told. After it, the client asks for a new one.
pub const EXPIRES_IN: Duration = Duration::from_mins(5);

/// containerd 1.6 uses one token for a whole pull, however long that takes. So tokens are kept for much longer.
const IDLE: Duration = Duration::from_mins(30);
const LONGEST: Duration = Duration::from_hours(6);

/// Bytes of all tokens and of the secrets behind them, which any client may show. Over 10,000 of usual size fit in.
const MOST: u64 = 8 << 20;

/// Bytes that an entry takes besides its token and its secret.
const OVERHEAD: usize = 256;

/// The bearer of a token.
#[derive(Clone, Debug)]
pub struct Session {
    /// The registry that the identity was shown for; `None` for an anonymous identity, which is valid at any registry.
    pub registry: Option<RegistryName>,
    pub identity: Identity,
}

/// The kind of a Bearer token.
#[derive(Debug)]
pub enum Bearer {
    Ours(Session),
    /// A token of larder's that is not known any more.
    Expired,
    /// A token of the registry's own.
    Foreign,
}

/// The tokens that are valid now.
#[derive(Debug)]
pub struct Sessions(Cache<String, Session>);

impl Sessions {
    pub fn new() -> Self {
        let cache = Cache::builder()
            .max_capacity(MOST)
            .weigher(|token: &String, session: &Session| {
                (OVERHEAD + token.len() + session.identity.size()) as u32
            })
            .time_to_idle(IDLE)
            .time_to_live(LONGEST)
            .build();
        Self(cache)
    }

    /// A new token.
    pub async fn begin(&self, session: Session) -> String {
        let token = format!("{PREFIX}{}", random_text());
        self.0.insert(token.clone(), session).await;
        token
    }

    pub async fn find(&self, token: &str) -> Bearer {
        match self.0.get(token).await {
            Some(session) => Bearer::Ours(session),
            None if token.starts_with(PREFIX) => Bearer::Expired,
            None => Bearer::Foreign,
        }
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        credentials::{Credential, LARGEST, Secret},
        identity::Key,
    };

    /// A secret is kept before any registry has checked it.
    #[tokio::test]
    async fn large_secrets_fill_no_memory() {
        let sessions = Sessions::new();
        let dir = tempfile::tempdir().unwrap();
        let key = Key::load(&dir.path().join("key")).unwrap();
        for _ in 0..2000 {
            let secret = Secret::new("x".repeat(LARGEST));
            let identity = key.credential(Credential::IdentityToken(secret));
            let session = Session {
                registry: None,
                identity,
            };
            sessions.begin(session).await;
        }
        sessions.0.run_pending_tasks().await;
        assert!(sessions.0.weighted_size() <= MOST);
        assert!(sessions.0.entry_count() > 400);
    }
}
