//! JSON Web Tokens: larder signs one for Google, and reads the claims of others' tokens.

use std::time::Duration;

use aws_lc_rs::{rand::SystemRandom, signature};
use data_encoding::BASE64URL_NOPAD;
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde_json::Value;

use super::super::secret::Secret;
use crate::clock::unix_now;

/// A token over `claims`, signed with RS256 (RFC 7515) by a private key in PEM.
pub(super) fn signed(key: &Secret, key_id: &str, claims: &Value) -> Result<Secret, &'static str> {
    let unusable = "`private_key` is no RSA key in PEM";
    let der = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|_| unusable)?;
    let pair = match &der {
        PrivateKeyDer::Pkcs8(der) => signature::RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => signature::RsaKeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err(unusable),
    };
    let pair = pair.map_err(|_| unusable)?;
    let header = serde_json::json!({"alg": "RS256", "typ": "JWT", "kid": key_id});
    let encoded = |part: &Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
    let text = format!("{}.{}", encoded(&header), encoded(claims));
    let mut bytes = vec![0; pair.public_modulus_len()];
    let padding = &signature::RSA_PKCS1_SHA256;
    pair.sign(padding, &SystemRandom::new(), text.as_bytes(), &mut bytes)
        .map_err(|_| "`private_key` signs nothing")?;
    Ok(Secret::new(format!(
        "{text}.{}",
        BASE64URL_NOPAD.encode(&bytes)
    )))
}

/// The claims of a token. larder verifies nothing: the server that accepts the token does.
pub(super) struct Claims(Value);

impl Claims {
    pub(super) fn of(token: &str) -> Option<Self> {
        let payload = token.split('.').nth(1)?;
        let bytes = BASE64URL_NOPAD
            .decode(payload.trim_end_matches('=').as_bytes())
            .ok()?;
        Some(Self(serde_json::from_slice(&bytes).ok()?))
    }

    /// A claim that is a plain word, which messages may contain.
    pub(super) fn word(&self, name: &str) -> Option<String> {
        let word = self.0.get(name)?.as_str()?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/@".contains(&byte);
        let shown = !word.is_empty() && word.len() <= 256 && word.bytes().all(plain);
        shown.then(|| word.to_owned())
    }

    /// The time until `exp`.
    pub(super) fn left(&self) -> Option<Duration> {
        let end = self.0.get("exp")?.as_f64()?;
        Some(Duration::from_secs((end as u64).saturating_sub(unix_now())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_token_says_of_itself() {
        let token = |payload: &str| format!("x.{}.y", BASE64URL_NOPAD.encode(payload.as_bytes()));
        let said = |payload: &str| Claims::of(&token(payload));
        let sub = |payload: &str| said(payload)?.word("sub");
        let account = "system:serviceaccount:larder:larder";
        assert_eq!(
            sub(&format!("{{\"sub\":\"{account}\"}}")).as_deref(),
            Some(account)
        );
        assert_eq!(sub("{\"sub\":\"a b\"}"), None);
        assert_eq!(sub("{\"sub\":7}"), None);
        assert_eq!(sub("no JSON"), None);
        assert!(Claims::of("opaque").is_none());
        assert!(Claims::of("a.%.c").is_none());
        let left = said(&format!("{{\"exp\":{}}}", unix_now() + 100))
            .unwrap()
            .left()
            .unwrap();
        assert!((98..=100).contains(&left.as_secs()), "{left:?}");
        assert_eq!(said("{\"exp\":1}").unwrap().left(), Some(Duration::ZERO));
        assert_eq!(said("{}").unwrap().left(), None);
    }
}
