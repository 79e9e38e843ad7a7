//! Files that rotate: read at every use, understood again only when they say something else.
//!
//! Reading is the one check that no way of rotating escapes: a file written in place, renamed over, or mounted by
//! Kubernetes behind a `..data` symbolic link that is swapped. Nothing of an earlier content survives.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest as _, Sha256};

use super::error::{CredentialError, Fault};

/// Longer is no file with credentials. Kubernetes' own limit for a Secret.
const LONGEST: u64 = 1024 * 1024;

/// A file's path and what it holds.
pub(super) struct Content {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

/// Runs `read` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    path: &Path,
    read: impl FnOnce(&Path) -> Result<T, CredentialError> + Send + 'static,
) -> Result<T, CredentialError> {
    let owned = path.to_owned();
    tokio::task::spawn_blocking(move || read(&owned))
        .await
        .unwrap_or_else(|_| {
            Err(CredentialError::new(
                Fault::File,
                path.display(),
                "reading it was cut off",
            ))
        })
}

/// Reads one file.
pub(super) fn read(path: &Path) -> Result<Content, CredentialError> {
    let wrong = |what: &str| CredentialError::new(Fault::File, path.display(), what);
    let failed = |error: io::Error| unreadable(path, &error);
    // A pipe would keep the thread until someone writes.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(wrong("not a file: name a regular file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    if bytes.len() as u64 > LONGEST {
        return Err(wrong("over 1 MiB long: is this the right file?"));
    }
    Ok(Content {
        path: path.to_owned(),
        bytes,
    })
}

/// What is said of a path that cannot be read.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> CredentialError {
    let what = match error.kind() {
        io::ErrorKind::NotFound => {
            "does not exist: mount the Secret there, or correct the path in larder's configuration"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "may not be read: give the user that larder runs as the right to".to_owned()
        }
        kind => format!("cannot be read: {kind}"),
    };
    CredentialError::new(Fault::File, path.display(), what)
}

/// By path: the hash of what was found there, and its meaning.
type Kept<T> = HashMap<PathBuf, ([u8; 32], Arc<T>)>;

/// What the files that are in use mean.
#[derive(Debug)]
pub(super) struct Understood<T> {
    kept: Mutex<Kept<T>>,
}

impl<T> Default for Understood<T> {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
        }
    }
}

impl<T> Understood<T> {
    /// The meaning of `files`, which were found at `path`: the one known, or what `understand` makes of them.
    pub(super) fn of(
        &self,
        path: &Path,
        files: &[Content],
        understand: impl FnOnce(&[Content]) -> Result<T, CredentialError>,
    ) -> Result<Arc<T>, CredentialError> {
        let mut hash = Sha256::new();
        for file in files {
            hash.update(file.bytes.len().to_le_bytes());
            hash.update(&file.bytes);
        }
        let hash: [u8; 32] = hash.finalize().into();
        if let Some((of, meaning)) = self.lock().get(path)
            && *of == hash
        {
            return Ok(Arc::clone(meaning));
        }
        let meaning = understand(files).map(Arc::new);
        match &meaning {
            Ok(meaning) => self
                .lock()
                .insert(path.to_owned(), (hash, Arc::clone(meaning))),
            Err(_) => self.lock().remove(path),
        };
        meaning
    }

    /// Forgets what was found at `path`, since it cannot be read any more.
    pub(super) fn forget(&self, path: &Path) {
        self.lock().remove(path);
    }

    fn lock(&self) -> MutexGuard<'_, Kept<T>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
