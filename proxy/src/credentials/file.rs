//! Files that rotate: read at every use, parsed again only if their content has changed.
//!
//! Only reading notices every kind of rotation: a file written in place, one renamed over it, or a `..data` symbolic
//! link of Kubernetes that is swapped. Nothing of an earlier content is kept.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use super::error::{CredentialError, Fault};
use crate::{
    coalesce::Coalesce,
    sys::{Calls, Hangs},
};

/// A longer file holds no credentials. This is Kubernetes' own limit for a Secret.
const LONGEST: u64 = 1024 * 1024;

/// A file's path and content.
pub(super) struct Content {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

/// How many reads of all files run at once, and how long a caller waits for one. A read from a mount whose server is
/// gone keeps its thread until the server is back.
const AT_ONCE: usize = 16;
const WITHIN: Duration = Duration::from_secs(5);

/// The limits for reads of all files together.
pub(super) fn room() -> Calls {
    Calls::new(AT_ONCE, WITHIN)
}

/// Reads of one kind. Each path is read once at a time: simultaneous callers share the result.
pub(super) struct Readings<T> {
    calls: Calls,
    reading: Coalesce<Vec<PathBuf>, Option<Result<T, CredentialError>>>,
}

impl<T: Clone + Send + Sync + 'static> Readings<T> {
    pub(super) fn new(room: &Calls) -> Self {
        Self {
            calls: room.clone(),
            reading: Coalesce::default(),
        }
    }

    /// What `read` finds at `paths`. `read` may block.
    pub(super) async fn of<const N: usize>(
        &self,
        paths: [&Path; N],
        read: impl FnOnce([&Path; N]) -> Result<T, CredentialError> + Send + 'static,
    ) -> Result<T, CredentialError> {
        let owned = paths.map(Path::to_owned);
        let key = owned.to_vec();
        let calls = self.calls.clone();
        let reading = async move {
            let read = move || read(owned.each_ref().map(PathBuf::as_path));
            calls.to_its_end(read).await.ok()
        };
        let wrong = |what: &str| {
            let places: Vec<_> = paths
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            CredentialError::new(Fault::File, places.join(" and "), what)
        };
        match self.calls.wait(self.reading.run(key, reading)).await {
            Ok(Some(Some(found))) => found,
            Ok(_) => Err(wrong("reading it was cut off")),
            Err(Hangs) => Err(wrong(
                "the disk does not answer: look at what is mounted there",
            )),
        }
    }
}

/// Reads one file.
pub(super) fn read(path: &Path) -> Result<Content, CredentialError> {
    let wrong = |what: &str| CredentialError::new(Fault::File, path.display(), what);
    let failed = |error: io::Error| unreadable(path, &error);
    // A pipe would keep the thread until a process writes.
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

/// The error for a path that cannot be read.
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

/// By path: the hash of the content, and what was parsed from it.
type Parsed<T> = HashMap<PathBuf, ([u8; 32], Arc<T>)>;

/// The parsed files that are in use.
#[derive(Debug)]
pub(super) struct Understood<T> {
    kept: Mutex<Parsed<T>>,
}

impl<T> Default for Understood<T> {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
        }
    }
}

impl<T> Understood<T> {
    /// The parsed `files`, which were found at `path`: kept from before, or made now by `understand`.
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

    fn lock(&self) -> MutexGuard<'_, Parsed<T>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    };

    use super::*;

    /// A file is on a mount whose server is gone: of all callers, only one thread waits for it, and other files are
    /// read as usual.
    #[tokio::test]
    async fn a_file_that_hangs_is_read_once_at_a_time() {
        let room = Calls::new(AT_ONCE, Duration::from_millis(50));
        let readings = Readings::<u32>::new(&room);
        let (release, hangs) = mpsc::channel::<()>();
        let hangs = Arc::new(Mutex::new(hangs));
        let begun = Arc::new(AtomicU32::new(0));
        let ask = || {
            let (begun, hangs) = (Arc::clone(&begun), Arc::clone(&hangs));
            readings.of([Path::new("/gone")], move |_| {
                begun.fetch_add(1, Ordering::SeqCst);
                let _ = hangs.lock().unwrap().recv();
                Ok(1)
            })
        };
        for _ in 0..10 {
            let (one, other) = tokio::join!(ask(), ask());
            for said in [one, other] {
                let error = said.expect_err("it hangs").to_string();
                assert!(error.contains("/gone"), "{error}");
            }
            let there = readings.of([Path::new("/there")], |_| Ok(2)).await;
            assert_eq!(there.expect("it is read"), 2);
        }
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        drop(release);
        // The file is back, and is read anew.
        while ask().await.is_err() {}
        assert_eq!(ask().await.expect("it is read"), 1);
        assert!(begun.load(Ordering::SeqCst) >= 2);
    }
}
