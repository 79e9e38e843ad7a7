//! A text that cannot be printed.

use std::{fmt, hint::black_box};

use data_encoding::BASE64;
use serde::Deserialize;

/// Bytes of the largest credential that a client may send: a cloud's key file is some 3 KB.
pub const LARGEST: usize = 16 << 10;

/// A password, a token or a key. It can be read only by [`Secret::expose`], and its bytes are overwritten when it goes.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the request that needs it and for nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0).into_bytes();
        bytes.fill(0);
        // Without a reader the compiler would leave the stores out.
        black_box(&bytes);
    }
}

/// What a registry's token endpoint, or the registry itself, takes as proof of identity.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// For HTTP Basic.
    Basic { username: String, password: Secret },
    /// An OAuth2 refresh token, for a POST to the token endpoint.
    IdentityToken(Secret),
}

impl Credential {
    /// Bytes of memory that it takes.
    pub fn size(&self) -> usize {
        match self {
            Self::Basic { username, password } => username.len() + password.len(),
            Self::IdentityToken(token) => token.len(),
        }
    }

    /// Whether it is empty: clients without a credential send an empty one.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Basic { username, password } => username.is_empty() && password.is_empty(),
            Self::IdentityToken(token) => token.is_empty(),
        }
    }

    /// The text after `Basic` in an `Authorization` header (RFC 7617), decoded. With the username `<token>`, Docker
    /// marks the password as an identity token.
    pub fn from_basic(pair: &str) -> Option<Self> {
        if pair.len() > LARGEST * 4 / 3 {
            return None;
        }
        let bytes = BASE64.decode(pair.as_bytes()).ok()?;
        let text = Secret::new(String::from_utf8(bytes).ok()?);
        let (username, password) = text.expose().split_once(':')?;
        Some(match username {
            "<token>" => Self::IdentityToken(Secret::new(password)),
            _ => Self::Basic {
                username: username.to_owned(),
                password: Secret::new(password),
            },
        })
    }
}

impl fmt::Debug for Credential {
    /// Some registries accept a token in place of the username, so neither half is printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic([secret])",
            Self::IdentityToken(_) => "IdentityToken([secret])",
        })
    }
}
