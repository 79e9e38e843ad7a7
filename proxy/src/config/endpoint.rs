//! The URLs at which larder reaches an upstream.

use std::path::PathBuf;

use http::Uri;

use super::name::{DOCKER_HUB, DOCKER_HUB_HOST};

/// One URL that serves a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Scheme `http` or `https`, an authority, and a path prefix: `/`, or a path without a trailing slash. No user, no
    /// query.
    pub url: Uri,
    /// A PEM file with the CAs to trust instead of the system's; `https` only.
    pub ca: Option<PathBuf>,
    /// Whether larder accepts any certificate; `https` only.
    pub insecure_skip_verify: bool,
    /// The certificate that larder shows to a server that asks for one; `https` only.
    pub client: Option<ClientCertificate>,
}

/// The PEM files of a client's certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Endpoint {
    /// The endpoint of a registry that is not configured; `None` if the name cannot be a registry's.
    pub(super) fn implied(registry: &str) -> Option<Self> {
        let host = if registry == DOCKER_HUB {
            DOCKER_HUB_HOST
        } else {
            registry
        };
        Self::parse(&format!("https://{host}")).ok()
    }

    /// Reads a URL. The error says how to write it, and never repeats it, since it may hold a password.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        // Checked on the text, because a URL that cannot be parsed can have a password at any place.
        if url.contains('@') {
            return Err(
                "a URL must hold no user and no password here: take out what stands before the `@`"
                    .to_owned(),
            );
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            let plain = url
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'"');
            return Err(if plain && !url.is_empty() {
                format!("the scheme is missing: write \"https://{url}\"")
            } else {
                "a URL is written \"https://mirror.example.com\"".to_owned()
            });
        };
        if scheme != "https" && scheme != "http" {
            return Err("the scheme must be https:// or http://".to_owned());
        }
        if rest.contains(['?', '#']) {
            return Err("a URL must hold no query and no fragment here".to_owned());
        }
        let malformed = || {
            "a URL is written \"https://mirror.example.com\", with a port or a path if need be"
                .to_owned()
        };
        let parsed: Uri = format!("{scheme}://{}", rest.trim_end_matches('/'))
            .parse()
            .map_err(|_| malformed())?;
        let authority = parsed.authority().ok_or_else(malformed)?;
        if authority.host().is_empty() {
            return Err(malformed());
        }
        // http::Uri accepts any text after the colon.
        let port = authority.as_str()[authority.host().len()..].strip_prefix(':');
        if port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0)) {
            return Err("the port must be a number from 1 to 65535".to_owned());
        }
        Ok(Self {
            url: parsed,
            ca: None,
            insecure_skip_verify: false,
            client: None,
        })
    }
}
