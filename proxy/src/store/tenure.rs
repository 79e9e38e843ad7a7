//! Which larder owns the store.
//!
//! An upgrade may start a larder before the one that it replaces is gone. The store's lock says which of the two owns
//! the directory. The other one serves as a plain proxy, and reads, writes, evicts and appends nothing there. It goes
//! on asking for the lock, and its tenure begins when it has it. It then looks at the version, and adds what it learned
//! meanwhile to what its predecessor left. A tenure ends with the process.
//!
//! ```text
//! Store::open --+-- lock free --------------------------> Held
//!               +-- lock held --> Waiting -- take_over --> Held
//! ```

use std::{fs, io, path::Path, sync::Arc};

use super::{
    OpenError, Store,
    layout::{Layout, VERSION},
    lock,
    partial::list_left,
    warm::Held,
};
use crate::{clock::unix_now, sys::disk};

/// Whether this larder owns the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tenure {
    /// Another larder has the lock. This one is a plain proxy.
    Waiting,
    /// This larder has the lock, until its process ends.
    Held,
}

impl Tenure {
    /// For status and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Held => "held",
        }
    }
}

/// Whether an error is the disk's, and not a mistake in the choice of the directory.
fn is_of_the_disk(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull, TimedOut};
    matches!(
        error.kind(),
        StorageFull | QuotaExceeded | ReadOnlyFilesystem | TimedOut
    ) || error.raw_os_error() == Some(EIO)
}

/// The kernel's number for an error of the device.
const EIO: i32 = 5;

impl Store {
    /// Opens the store at `path`, making it when it is not there (blocking). What is in it is served at once;
    /// [`Self::scan`] fills the index. While another larder has it, this is an empty store that keeps nothing: see
    /// [`Self::take_over`].
    ///
    /// A store of another layout version is set aside, never read. If the disk is full, or fails, the store is opened
    /// later, and is such an empty store until then: a node whose disk is full must serve.
    pub fn open(path: &Path) -> Result<Arc<Self>, OpenError> {
        let store = Arc::new(Self::waiting(path));
        match store.take_over() {
            // A later `take_over` opens it, when there is room.
            Err(error) if is_of_the_disk(&error.source) => store.failed(&error.source),
            taken => {
                taken?;
            }
        }
        Ok(store)
    }

    /// Whether this larder owns the store now.
    pub fn tenure(&self) -> Tenure {
        if self.layout.claim().is_held() {
            Tenure::Held
        } else {
            Tenure::Waiting
        }
    }

    /// Takes the store over if no other larder has it (blocking). Returns the tenure after that. After an error, the
    /// caller tries again.
    pub fn take_over(&self) -> Result<Tenure, OpenError> {
        if self.tenure() == Tenure::Held {
            return Ok(Tenure::Held);
        }
        let io = |source| OpenError {
            path: self.root().to_owned(),
            source,
        };
        let layout = &self.layout;
        fs::create_dir_all(self.root()).map_err(io)?;
        let Some(taken) = disk::lock(&layout.lock()).map_err(io)? else {
            return Ok(Tenure::Waiting);
        };
        layout.begin_clock();
        check_version(layout).map_err(io)?;
        layout.create().map_err(io)?;
        let _ = fs::remove_dir_all(layout.tmp());
        fs::create_dir_all(layout.tmp()).map_err(io)?;
        *lock(&self.pins) = Self::read_pins(&layout.pins());
        *lock(&self.in_use) = Self::read_in_use(layout);
        self.adopted.remember(Self::read_hashed(layout));
        *lock(&self.warm) = Held::read(&layout.warm());
        list_left(layout);
        lock(&self.index).set_clock(layout.clock());
        layout.claim().hold(taken);
        self.works();
        self.repositories.take_over();
        Ok(Tenure::Held)
    }

    pub(super) fn is_held(&self) -> bool {
        self.tenure() == Tenure::Held
    }
}

fn check_version(layout: &Layout) -> io::Result<()> {
    match fs::read_to_string(layout.version()) {
        Ok(version) if version.trim() == VERSION => Ok(()),
        // The machine stopped before the first start had written the file.
        Ok(version) if version.trim().is_empty() => write_version(layout),
        Ok(version) => {
            let aside = layout.root().join(format!("set-aside-{}", unix_now()));
            tracing::warn!(
                version = version.trim(),
                aside = %aside.display(),
                "the store has another layout version; its content is set aside and may be deleted"
            );
            fs::create_dir_all(&aside)?;
            for name in ["blobs", "checksums", "partial", "repositories", "version"] {
                let from = layout.root().join(name);
                if from.exists() {
                    fs::rename(&from, aside.join(name))?;
                }
            }
            // The time for which it stays begins now.
            let _ =
                fs::File::open(&aside).and_then(|aside| aside.set_modified(layout.clock().stamp()));
            write_version(layout)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => write_version(layout),
        Err(error) => Err(error),
    }
}

/// On disk before anything else is, so that no store has content without a version.
fn write_version(layout: &Layout) -> io::Result<()> {
    fs::create_dir_all(layout.tmp())?;
    layout.write_atomic(&layout.version(), VERSION.as_bytes(), true)
}
