//! The paths of everything on disk.
//!
//! ```text
//! <store>/version                            the layout's version, "1"
//! <store>/lock                               held by the larder that owns the store: see `tenure`
//! <store>/blobs/sha256/ab/<hex>              committed: verified, immutable, read-only
//! <store>/checksums/sha256/ab/<hex>          checksums of a blob's pieces: see `sums`
//! <store>/indexes/sha256/ab/<hex>            the index of a layer: see `indexes`
//! <store>/partial/sha256/<hex>               a sparse file that is being filled
//! <store>/partial/sha256/<hex>.spans         its checkpoint: which spans are present, and how far it is hashed
//! <store>/repositories/<registry>/<repo>/_log    what is known of a repository, a line of JSON each
//! <store>/grants                             keyed hashes of credentials that opened a repository
//! <store>/grants.key                         the key of those hashes, for its owner alone
//! <store>/clock                              how much time has passed for what lies here, in seconds: see `clock`
//! <store>/in-use                             what containers use, one digest a line; its time says when: see `in_use`
//! <store>/adopted                            hashed files of the container runtime, one a line: see `adopted`
//! <store>/warm/<set>                         what a warm set holds: see `warm`
//! <store>/pins                               digests that are never evicted, one a line
//! <store>/quarantine/                        blobs that were found damaged, for a day
//! <store>/tmp/                               files on their way to a rename
//! ```
//!
//! No component of a repository name begins with `_`, so `_log` collides with none.

use std::{
    collections::HashSet,
    fs::{self, File, FileTimes},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use larder_shared::{Algorithm, Digest, RegistryName, Repository};

use super::claim::Claim;
use crate::clock::{Clock, unix_now};

/// What `version` holds.
pub const VERSION: &str = "1";

/// Paths under one store directory.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
    next_tmp: AtomicU64,
    claim: Claim,
    clock: OnceLock<Clock>,
    /// Digests of which a partial with its checkpoint lies here.
    left: Mutex<HashSet<Digest>>,
}

impl Layout {
    /// Paths under `root`, which need not exist.
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            next_tmp: AtomicU64::new(0),
            claim: Claim::default(),
            clock: OnceLock::new(),
            left: Mutex::default(),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The lock, which says whether this larder may read and change what lies here.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Makes the directories that must exist.
    pub fn create(&self) -> io::Result<()> {
        for algorithm in Algorithm::ALL {
            fs::create_dir_all(self.root.join("blobs").join(algorithm.as_str()))?;
            fs::create_dir_all(self.root.join("partial").join(algorithm.as_str()))?;
        }
        fs::create_dir_all(self.repositories())?;
        fs::create_dir_all(self.quarantine())?;
        fs::create_dir_all(self.tmp())
    }

    /// The clock by which ages are counted. While another larder owns the store, nothing here has an age, and this is
    /// the node's clock.
    pub fn clock(&self) -> Clock {
        let begun = self.clock.get().copied();
        begun.unwrap_or_else(|| Clock::from(unix_now()))
    }

    /// Lets time go on from where the last process stopped (blocking). If no file says where that was, no time has
    /// passed since the last use of any blob: the node's clock says nothing of the ages here.
    pub fn begin_clock(&self) {
        self.clock.get_or_init(|| {
            let passed = fs::read_to_string(self.clock_file()).ok();
            let passed = passed.and_then(|text| text.trim().parse().ok());
            let passed = passed.or_else(|| self.last_use());
            Clock::from(passed.unwrap_or_else(unix_now))
        });
    }

    /// When any of the blobs was last used, as their files say (blocking: looks at all of them).
    fn last_use(&self) -> Option<u64> {
        let listed = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
        let all = Algorithm::ALL.into_iter();
        let shards = all.flat_map(|algorithm| listed(&self.blobs(algorithm)));
        let blobs = shards.flat_map(|shard| listed(&shard.path()));
        let used = |blob: fs::DirEntry| Some(blob.metadata().ok()?.atime().max(0) as u64);
        blobs.filter_map(used).max()
    }

    /// Writes down how much time has passed (blocking).
    pub fn save_clock(&self) -> io::Result<()> {
        let passed = format!("{}\n", self.clock().now());
        // On disk before it replaces the old file: after a crash the file could be empty and say nothing.
        self.write_atomic(&self.clock_file(), passed.as_bytes(), true)
    }

    fn clock_file(&self) -> PathBuf {
        self.root.join("clock")
    }

    /// The partials that lie here: those that the listing at the start found, and this process's own.
    pub fn left(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn version(&self) -> PathBuf {
        self.root.join("version")
    }

    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }

    pub fn adopted(&self) -> PathBuf {
        self.root.join("adopted")
    }

    pub fn in_use(&self) -> PathBuf {
        self.root.join("in-use")
    }

    pub fn warm(&self) -> PathBuf {
        self.root.join("warm")
    }

    pub fn grants(&self) -> PathBuf {
        self.root.join("grants")
    }

    pub fn grants_key(&self) -> PathBuf {
        self.root.join("grants.key")
    }

    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    pub fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("blobs").join(algorithm.as_str())
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.blobs(digest.algorithm()).join(&hex[..2]).join(hex)
    }

    pub fn all_sums(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("checksums").join(algorithm.as_str())
    }

    pub fn sums(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.all_sums(digest.algorithm()).join(&hex[..2]).join(hex)
    }

    pub fn indexes(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("indexes").join(algorithm.as_str())
    }

    pub fn index(&self, layer: &Digest, foreign: bool) -> PathBuf {
        let hex = layer.hex();
        let path = self.indexes(layer.algorithm()).join(&hex[..2]).join(hex);
        if foreign {
            path.with_extension("foreign")
        } else {
            path
        }
    }

    pub fn wrong_indexes(&self) -> PathBuf {
        self.root.join("indexes").join("wrong")
    }

    pub fn partials(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("partial").join(algorithm.as_str())
    }

    pub fn partial(&self, digest: &Digest) -> PathBuf {
        self.partials(digest.algorithm()).join(digest.hex())
    }

    pub fn spans(&self, digest: &Digest) -> PathBuf {
        self.partials(digest.algorithm())
            .join(format!("{}.spans", digest.hex()))
    }

    pub fn repositories(&self) -> PathBuf {
        self.root.join("repositories")
    }

    pub fn repository_log(&self, registry: &RegistryName, repository: &Repository) -> PathBuf {
        self.repositories()
            .join(registry.as_str())
            .join(repository.as_str())
            .join("_log")
    }

    /// An unused path below `tmp`.
    pub fn new_tmp(&self) -> PathBuf {
        let n = self.next_tmp.fetch_add(1, Ordering::Relaxed);
        self.tmp().join(format!("{}-{n}", std::process::id()))
    }

    /// Puts `bytes` at `path` so that a reader sees the old file or the whole new one. With `durable`, the file
    /// and its name are on disk when this returns.
    pub fn write_atomic(&self, path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
        let tmp = self.new_tmp();
        let written = (|| {
            let mut file = File::create(&tmp)?;
            file.write_all(bytes)?;
            if durable {
                file.sync_all()?;
            }
            self.put_in_place(&tmp, path, durable)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&tmp);
        }
        written
    }

    /// As [`Self::write_atomic`], durable, for a file that must not replace another one: a reader that has the other
    /// one open keeps a file with a name.
    pub fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let tmp = self.new_tmp();
        let written = (|| {
            let mut file = File::create(&tmp)?;
            file.write_all(bytes)?;
            self.stamp(&file)?;
            file.sync_all()?;
            let dir = path.parent().unwrap_or(&self.root);
            fs::create_dir_all(dir)?;
            match fs::hard_link(&tmp, path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // Not every file system has hard links.
                Err(_) => fs::rename(&tmp, path)?,
                Ok(()) => {}
            }
            self.sync_dir(path)
        })();
        let _ = fs::remove_file(&tmp);
        written
    }

    /// Sets a new blob's last use to now.
    pub fn stamp(&self, file: &File) -> io::Result<()> {
        file.set_times(FileTimes::new().set_accessed(self.clock().stamp()))
    }

    /// Renames `from` to `to`, making the directory of `to` when it is missing.
    pub fn put_in_place(&self, from: &Path, to: &Path, durable: bool) -> io::Result<()> {
        let dir = to.parent().unwrap_or(&self.root);
        match fs::rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(dir)?;
                fs::rename(from, to)?;
            }
            done => done?,
        }
        if durable {
            self.sync_dir(to)?;
        }
        Ok(())
    }

    /// Waits until the name of what is at `path` is on disk.
    pub fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path.parent().unwrap_or(&self.root))?.sync_all()
    }
}
