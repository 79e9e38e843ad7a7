//! The identity of a caller: anonymous, the holder of a credential, or the bearer of a registry's own token.
//!
//! Identities are compared by their fingerprints, which are keyed hashes. Only this node has the key, so verdicts can
//! be remembered without remembering secrets.

use std::{fmt, fs, io, path::Path, sync::Arc};

use aws_lc_rs::{constant_time, hmac, rand};
use data_encoding::HEXLOWER;

use crate::credentials::{Credential, Found, KnownAs, Secret};

/// A keyed hash of a credential. It says nothing about the credential without the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    const ANONYMOUS: Self = Self([0; 16]);

    /// Stands for the other members, where the caller on whose behalf they ask does not matter.
    pub const MEMBERS: Self = Self([0xff; 16]);

    /// Parses what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a caller shows for its identity.
#[derive(Clone)]
pub enum Proof {
    Nothing,
    Credential(Arc<Credential>),
    /// A token that the registry's own token server gave to the client.
    Token(Arc<Secret>),
    /// A token that another member has lent. It is used but never remembered.
    Lent(Arc<Secret>),
    /// The credential is gone: the verdicts that it got stay, but nothing can be asked with it.
    Lost,
}

/// A caller, for questions of access. Cheap to clone; prints no secret.
#[derive(Clone)]
pub struct Identity {
    proof: Proof,
    fingerprint: Fingerprint,
    /// The fingerprint under the cluster's key, if there is one.
    shared: Option<Fingerprint>,
}

impl Identity {
    pub const fn anonymous() -> Self {
        Self {
            proof: Proof::Nothing,
            fingerprint: Fingerprint::ANONYMOUS,
            shared: None,
        }
    }

    /// Approximate memory, in bytes.
    pub fn size(&self) -> usize {
        let proof = match &self.proof {
            Proof::Credential(credential) => credential.size(),
            Proof::Token(token) | Proof::Lent(token) => token.len(),
            Proof::Nothing | Proof::Lost => 0,
        };
        size_of::<Self>() + proof
    }

    pub fn is_anonymous(&self) -> bool {
        matches!(self.proof, Proof::Nothing)
    }

    /// The same identity without its credential.
    #[must_use]
    pub fn lost(&self) -> Self {
        Self {
            proof: Proof::Lost,
            fingerprint: self.fingerprint,
            shared: self.shared,
        }
    }

    /// Whether another member has lent it. The verdict is then that member's business.
    pub fn is_lent(&self) -> bool {
        matches!(self.proof, Proof::Lent(_))
    }

    pub fn is_lost(&self) -> bool {
        matches!(self.proof, Proof::Lost)
    }

    pub fn proof(&self) -> &Proof {
        &self.proof
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The fingerprint by which other members know it. `None` for an anonymous caller, or if the cluster has no key.
    pub fn shared(&self) -> Option<Fingerprint> {
        self.shared
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Identity {}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.proof {
            Proof::Nothing => "anonymous",
            Proof::Credential(_) => "credential",
            Proof::Token(_) => "token",
            Proof::Lent(_) => "lent token",
            Proof::Lost => "lost credential",
        })
    }
}

/// The keys of the fingerprints: one per store, and the cluster's, if it has one.
pub struct Key {
    own: hmac::Key,
    shared: Option<hmac::Key>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Length of a key in bytes.
const KEY: usize = 32;

/// The least length of the cluster's key, in bytes.
const SHARED: usize = 32;

impl Key {
    /// Reads the key from `path`, or makes one that only its owner may read (blocking).
    pub fn load(path: &Path) -> io::Result<Self> {
        use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
        match fs::read(path) {
            Ok(bytes) if bytes.len() == KEY => return Ok(Self::new(&bytes)),
            // A key that was cut short is replaced. Grants under the old key are void.
            Ok(_) => fs::remove_file(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut bytes = [0; KEY];
        rand::fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        Ok(Self::new(&bytes))
    }

    /// The key at `path` while another larder owns the file: nothing is written (blocking). If there is no key yet,
    /// this process gets its own, and what it learns is lost with it.
    pub fn borrow(path: &Path) -> io::Result<Self> {
        let mut bytes = fs::read(path).unwrap_or_default();
        if bytes.len() != KEY {
            bytes.resize(KEY, 0);
            rand::fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
        }
        Ok(Self::new(&bytes))
    }

    fn new(bytes: &[u8]) -> Self {
        Self {
            own: hmac::Key::new(hmac::HMAC_SHA256, bytes),
            shared: None,
        }
    }

    /// Reads the cluster's key, the same file on every member (blocking). Surrounding white space is ignored.
    pub fn share(&mut self, path: &Path) -> io::Result<()> {
        let bytes = fs::read(path)?;
        let bytes = bytes.trim_ascii();
        if bytes.len() < SHARED {
            let why = format!("it must have {SHARED} bytes or more, from a random source");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        self.shared = Some(hmac::Key::new(hmac::HMAC_SHA256, bytes));
        Ok(())
    }

    /// Whether the cluster has a key, so that members can prove to each other what they say.
    pub const fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// A proof that a member of this cluster says `said`, a statement of this `kind`. `None` if the cluster has no key.
    pub fn prove(&self, kind: &str, said: &[u8]) -> Option<[u8; 32]> {
        let tag = sign(self.shared.as_ref()?, &[kind.as_bytes(), said]);
        tag.as_ref().try_into().ok()
    }

    /// Whether a proof is right. Always `false` without a key.
    pub fn is_proof(&self, kind: &str, said: &[u8], proof: &[u8; 32]) -> bool {
        let right = self.prove(kind, said);
        right.is_some_and(|right| constant_time::verify_slices_are_equal(&right, proof).is_ok())
    }

    fn identity(&self, proof: Proof, fields: &[&[u8]]) -> Identity {
        Identity {
            proof,
            fingerprint: fingerprint(&self.own, fields),
            shared: self.shared.as_ref().map(|key| fingerprint(key, fields)),
        }
    }

    /// The holder of a credential.
    pub fn credential(&self, credential: Credential) -> Identity {
        let credential = Arc::new(credential);
        let proof = Proof::Credential(Arc::clone(&credential));
        match &*credential {
            Credential::Basic { username, password } => {
                let password = password.expose().as_bytes();
                self.identity(proof, &[b"basic", username.as_bytes(), password])
            }
            Credential::IdentityToken(token) => {
                self.identity(proof, &[b"identity", token.expose().as_bytes()])
            }
        }
    }

    /// The holder of one of the node's own credentials. If a cloud gives it, verdicts are remembered for the configured
    /// identity, because the token changes every hour.
    pub fn found(&self, found: Found) -> Identity {
        match found.known_as {
            Some(known_as) => {
                self.configured(&known_as, Proof::Credential(Arc::new(found.credential)))
            }
            None => self.credential(found.credential),
        }
    }

    /// The same identity while there is no token: verdicts stay remembered, but nothing can be asked.
    pub fn known(&self, known_as: &KnownAs) -> Identity {
        self.configured(known_as, Proof::Lost)
    }

    fn configured(&self, known_as: &KnownAs, proof: Proof) -> Identity {
        let configured = known_as.configured.as_bytes();
        // Two members may have the same configuration and different accounts. So the identity is shared only if the
        // cloud has named the account.
        let shared = self.shared.as_ref().zip(known_as.principal.as_ref());
        Identity {
            proof,
            fingerprint: fingerprint(&self.own, &[b"configured", configured]),
            shared: shared.map(|(key, principal)| {
                fingerprint(key, &[b"configured", configured, principal.as_bytes()])
            }),
        }
    }

    /// The caller for which another member asks, by the token that the member has lent.
    pub fn lent(&self, token: Secret) -> Identity {
        let token = Arc::new(token);
        let proof = Proof::Lent(Arc::clone(&token));
        self.identity(proof, &[b"token", token.expose().as_bytes()])
    }

    /// The bearer of a registry's own token.
    pub fn token(&self, token: Secret) -> Identity {
        let token = Arc::new(token);
        let proof = Proof::Token(Arc::clone(&token));
        self.identity(proof, &[b"token", token.expose().as_bytes()])
    }
}

fn sign(key: &hmac::Key, fields: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    for field in fields {
        // Each field has its length in front, so that no two lists of fields give the same bytes.
        context.update(&(field.len() as u64).to_le_bytes());
        context.update(field);
    }
    context.sign()
}

fn fingerprint(key: &hmac::Key, fields: &[&[u8]]) -> Fingerprint {
    let mut short = [0; 16];
    short.copy_from_slice(&sign(key, fields).as_ref()[..16]);
    Fingerprint(short)
}

/// A random text that cannot be guessed.
pub fn random_text() -> String {
    let mut bytes = [0; 32];
    // Without randomness there must be no token, and the process could not do TLS either.
    rand::fill(&mut bytes).expect("the system has randomness");
    HEXLOWER.encode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Credential {
        Credential::Basic {
            username: username.into(),
            password: Secret::new(password),
        }
    }

    #[test]
    fn the_key_outlives_the_process_and_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let first = Key::load(&path).unwrap().credential(basic("u", "p"));
        let second = Key::load(&path).unwrap().credential(basic("u", "p"));
        assert_eq!(first, second);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(&path, b"short").unwrap();
        let third = Key::load(&path).unwrap().credential(basic("u", "p"));
        assert_ne!(first, third);
    }

    /// A right belongs to the configured identity: a renewed token has it, another identity does not. Other members
    /// know the identity only together with the account that the cloud has named.
    #[test]
    fn a_clouds_identity_stays_while_its_tokens_turn() {
        let mut key = Key::new(&[7; KEY]);
        key.shared = Some(hmac::Key::new(hmac::HMAC_SHA256, &[8; SHARED]));
        let known_as = |configured: &str, principal: Option<&str>| KnownAs {
            configured: configured.to_owned(),
            principal: principal.map(ToOwned::to_owned),
        };
        let found = |token: &str, known_as: KnownAs| {
            key.found(Found {
                credential: basic("oauth2accesstoken", token),
                known_as: Some(known_as),
            })
        };
        let first = found("one", known_as("identity=google", Some("a@p")));
        let renewed = found("two", known_as("identity=google", Some("a@p")));
        assert_eq!(first, renewed);
        assert_eq!(first.shared(), renewed.shared());
        assert!(first.shared().is_some());
        let lost = key.known(&known_as("identity=google", None));
        assert_eq!(first, lost);
        assert!(lost.is_lost() && lost.shared().is_none());
        let account = found("one", known_as("identity=google", Some("b@p")));
        assert_ne!(first.shared(), account.shared());
        assert_ne!(first, found("one", known_as("identity=aws", Some("a@p"))));
        assert_ne!(first, key.credential(basic("oauth2accesstoken", "one")));
    }

    #[test]
    fn different_credentials_differ_and_nothing_is_printed() {
        let key = Key::new(&[7; KEY]);
        let all = [
            Identity::anonymous(),
            key.credential(basic("u", "p")),
            key.credential(basic("up", "")),
            key.credential(basic("", "up")),
            key.credential(Credential::IdentityToken(Secret::new("hunter2"))),
            key.token(Secret::new("hunter2")),
        ];
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                assert_eq!(a == b, i == j);
            }
            assert!(!format!("{a:?}").contains("hunter2"));
            assert_eq!(
                Fingerprint::parse(&a.fingerprint().to_string()),
                Some(a.fingerprint())
            );
        }
    }
}
