//! Content digests, and the streaming hasher that verifies them.
//!
//! Owns the grammar of `algorithm:hex` (OCI image-spec, descriptor.md "Digests") for the two registered algorithms.
//! Also owns a hasher whose state can be saved and restored, so that a download goes on after a restart without reading
//! again the bytes that are hashed already.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use sha2::{
    Digest as _, Sha256, Sha512,
    digest::common::hazmat::{SerializableState, SerializedState},
};

/// A registered digest algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    /// Every algorithm larder knows.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The name that stands before the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the raw hash in bytes.
    const fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// The address of some bytes: an algorithm and the hash. Copied freely; compares by value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    raw: [u8; 64],
}

/// Why a text is not a digest.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("a digest is `algorithm:hex`, as in sha256:<64 hex digits>")]
    Form,
    #[error("digest algorithm is not sha256 or sha512")]
    Algorithm,
    #[error("{0} takes {1} lower-case hex digits")]
    Hex(&'static str, usize),
}

impl Digest {
    /// The digest of `bytes`, held in memory.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The sha256 of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, bytes)
    }

    /// The digest with this sha256 as its hash.
    pub fn from_sha256(hash: [u8; 32]) -> Self {
        let mut raw = [0; 64];
        raw[..32].copy_from_slice(&hash);
        Self {
            algorithm: Algorithm::Sha256,
            raw,
        }
    }

    /// The algorithm of the hash.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash in lower-case hex, without the algorithm.
    pub fn hex(&self) -> String {
        HEXLOWER.encode(self.as_bytes())
    }

    /// The raw hash, 32 or 64 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.raw[..self.algorithm.len()]
    }

    /// A digest from an algorithm and lower-case hex, as in the file names of the node tier.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Result<Self, DigestError> {
        let len = algorithm.len();
        let wrong = DigestError::Hex(algorithm.as_str(), len * 2);
        if hex.len() != len * 2 {
            return Err(wrong);
        }
        let mut raw = [0; 64];
        match HEXLOWER.decode_mut(hex.as_bytes(), &mut raw[..len]) {
            Ok(_) => Ok(Self { algorithm, raw }),
            Err(_) => Err(wrong),
        }
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Form)?;
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|a| a.as_str() == algorithm)
            .ok_or(DigestError::Algorithm)?;
        Self::from_hex(algorithm, hex)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex())
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Digest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Digest".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "`sha256:` or `sha512:` and the hash in lower-case hexadecimal.",
            "pattern": "^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$"
        })
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes a stream of bytes into a [`Digest`]. Its state can be saved in the middle and restored.
#[derive(Clone)]
pub enum Hasher {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256(_) => "Hasher(sha256)",
            Self::Sha512(_) => "Hasher(sha512)",
        })
    }
}

impl Hasher {
    /// The format of the state that [`Self::save`] returns. A state of another format cannot be restored. The `sha2`
    /// crate defines the format, and may change it.
    pub const FORMAT: u32 = 1;

    /// A hasher without any bytes yet.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Box::new(Sha512::new())),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes so far.
    pub fn finish(self) -> Digest {
        let mut raw = [0; 64];
        let algorithm = match self {
            Self::Sha256(hasher) => {
                raw[..32].copy_from_slice(&hasher.finalize());
                Algorithm::Sha256
            }
            Self::Sha512(hasher) => {
                raw.copy_from_slice(&hasher.finalize());
                Algorithm::Sha512
            }
        };
        Digest { algorithm, raw }
    }

    /// The state so far, for [`Self::restore`].
    pub fn save(&self) -> Vec<u8> {
        match self {
            Self::Sha256(hasher) => hasher.serialize().to_vec(),
            Self::Sha512(hasher) => hasher.serialize().to_vec(),
        }
    }

    /// The hasher whose state [`Self::save`] returned, or `None` if the bytes are not such a state.
    pub fn restore(algorithm: Algorithm, saved: &[u8]) -> Option<Self> {
        match algorithm {
            Algorithm::Sha256 => {
                let state = SerializedState::<Sha256>::try_from(saved).ok()?;
                Some(Self::Sha256(Sha256::deserialize(&state).ok()?))
            }
            Algorithm::Sha512 => {
                let state = SerializedState::<Sha512>::try_from(saved).ok()?;
                Some(Self::Sha512(Box::new(Sha512::deserialize(&state).ok()?)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_answers() {
        assert_eq!(
            Digest::sha256(b"").to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert!(
            Digest::of(Algorithm::Sha512, b"abc")
                .to_string()
                .starts_with("sha512:ddaf35a193617abacc417349ae204131")
        );
    }

    #[test]
    fn refuses_what_the_grammar_does_not_allow() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for text in [
            "",
            "sha256",
            hex,
            "sha256:",
            &format!("sha256:{}", &hex[1..]),
            &format!("sha256:{hex}0"),
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("sha512:{hex}"),
            &format!("md5:{hex}"),
            &format!("SHA256:{hex}"),
            "sha256:../../../../etc/passwd",
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    /// If this fails after an update of `sha2`, raise [`Hasher::FORMAT`].
    #[test]
    fn a_saved_state_is_of_the_format_that_is_named() {
        let saved = |algorithm| {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&[7; 200]);
            Digest::sha256(&hasher.save()).to_string()
        };
        assert_eq!(Hasher::FORMAT, 1);
        assert_eq!(
            saved(Algorithm::Sha256),
            "sha256:6308cd634b44e54b7f72c255eb43c008de8300119787d8eac83297ac8bab05c6"
        );
        assert_eq!(
            saved(Algorithm::Sha512),
            "sha256:5617195def6502b1b072ea77820ec3ff2a32361ef47eba7ce4bae95451a9e8aa"
        );
    }

    proptest! {
        #[test]
        fn parse_never_panics(text in "\\PC*") {
            let _ = text.parse::<Digest>();
        }

        #[test]
        fn round_trip(bytes in any::<Vec<u8>>(), wide in any::<bool>()) {
            let algorithm = if wide { Algorithm::Sha512 } else { Algorithm::Sha256 };
            let digest = Digest::of(algorithm, &bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        }

        #[test]
        fn a_saved_hasher_goes_on(bytes in any::<Vec<u8>>(), cut in any::<prop::sample::Index>(), wide in any::<bool>()) {
            let algorithm = if wide { Algorithm::Sha512 } else { Algorithm::Sha256 };
            let cut = cut.index(bytes.len() + 1);
            let mut first = Hasher::new(algorithm);
            first.update(&bytes[..cut]);
            let mut second = Hasher::restore(algorithm, &first.save()).unwrap();
            second.update(&bytes[cut..]);
            prop_assert_eq!(second.finish(), Digest::of(algorithm, &bytes));
        }

        #[test]
        fn a_foreign_state_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            // Of a wrong state, only its length can be noticed. It must never panic.
            let _ = Hasher::restore(Algorithm::Sha256, &bytes);
        }
    }
}
