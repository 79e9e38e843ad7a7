//! The file of grants: one line of JSON for each verdict, newest last. Only its owner may read it.

use std::{
    collections::HashMap,
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use larder_shared::{Reference, RegistryName, Repository};
use serde::{Deserialize, Serialize};

use crate::{access::Key, clock::unix_now, identity::Fingerprint};

#[derive(Serialize, Deserialize)]
struct Line {
    registry: RegistryName,
    repository: Repository,
    credential: String,
    /// When the credential was accepted (Unix seconds); 0 in the line of a refusal.
    at: u64,
    /// When the credential or the subject was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked: Option<u64>,
    /// The tag or digest, if the line concerns a single subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
}

/// The content of a file. Times are Unix seconds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// When the origin accepted a credential.
    pub(super) accepted: HashMap<Key, u64>,
    /// When the origin refused a credential.
    pub(super) refused: HashMap<Key, u64>,
    /// When the origin refused a single subject that it has not served since.
    pub(super) denied: HashMap<(Key, Reference), u64>,
}

/// Reads a file's text. Lines that cannot be read are left out.
pub(super) fn parse(text: &str) -> Contents {
    let mut contents = Contents::default();
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Line>(line) else {
            continue;
        };
        let Some(fingerprint) = Fingerprint::parse(&line.credential) else {
            continue;
        };
        let key = (line.registry, line.repository, fingerprint);
        // A time to come was written by a wrong clock. Bounded to now, so that the refusal does not last for ever.
        let refused = line.revoked.map(|at| at.min(unix_now()));
        if let Some(subject) = line.subject {
            let Ok(subject) = subject.parse() else {
                continue;
            };
            match refused {
                Some(at) => contents.denied.insert((key, subject), at),
                None => contents.denied.remove(&(key, subject)),
            };
            continue;
        }
        if let Some(at) = refused {
            contents.refused.insert(key.clone(), at);
        }
        contents.accepted.insert(key, line.at);
    }
    contents
}

/// The line of a credential that was accepted at that time.
pub(super) fn accepted(key: &Key, at: u64) -> String {
    text(key, at, None, None)
}

/// The line of a credential that was refused at that time. It voids the lines before it.
pub(super) fn refused(key: &Key, at: u64) -> String {
    text(key, 0, Some(at), None)
}

/// The line of a subject that was refused at that time.
pub(super) fn denied(key: &Key, subject: &Reference, at: u64) -> String {
    text(key, 0, Some(at), Some(subject))
}

/// The line of a subject that was refused and has been served since.
pub(super) fn served(key: &Key, subject: &Reference) -> String {
    text(key, 0, None, Some(subject))
}

fn text(key: &Key, at: u64, revoked: Option<u64>, subject: Option<&Reference>) -> String {
    let line = Line {
        registry: key.0.clone(),
        repository: key.1.clone(),
        credential: key.2.to_string(),
        at,
        revoked,
        subject: subject.map(ToString::to_string),
    };
    // Serializing these types to memory cannot fail.
    serde_json::to_string(&line).unwrap_or_default() + "\n"
}

/// Appends to the file, and creates it if necessary (blocking).
pub(super) fn append(path: &Path, text: &[u8]) -> io::Result<()> {
    private(path, false)?.write_all(text)
}

/// Replaces the file with a new one (blocking).
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    private(&new, true)?.write_all(text.as_bytes())?;
    fs::rename(new, path)
}

fn private(path: &Path, truncate: bool) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.create(true).mode(0o600);
    if truncate {
        options.write(true).truncate(true);
    } else {
        options.append(true);
    }
    options.open(path)
}
