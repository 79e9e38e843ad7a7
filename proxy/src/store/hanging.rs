//! The calls to the disk that hang now, and the time after which a call counts as hanging.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::lock;

/// While this many calls hang, the disk is left alone until some of them return: each fill would leave threads behind.
const MOST: usize = 16;

/// How long a write, or the end of a fill, may take before the disk counts as failing.
pub const HANGS: Duration = Duration::from_secs(10);

/// The same for a call that waits for an fsync: earlier writes in the file system's journal may be large.
pub const FLUSHED_WITHIN: Duration = Duration::from_mins(1);

/// A disk that takes fewer bytes a second than this counts as failing.
pub const SLOWEST: u64 = 4 << 20;

/// The calls that hang now, by name.
#[derive(Clone, Default, Debug)]
pub(super) struct Hanging(Arc<Mutex<HashSet<String>>>);

impl Hanging {
    /// Whether the disk may be asked for more.
    pub(super) fn is_bearable(&self) -> bool {
        lock(&self.0).len() < MOST
    }

    /// Takes note that `what` hangs, until the returned guard is dropped. `None` if that is known already.
    pub(super) fn begin(&self, what: &str) -> Option<Hung> {
        let new = lock(&self.0).insert(what.to_owned());
        new.then(|| Hung {
            all: self.clone(),
            what: what.to_owned(),
        })
    }

    pub(super) fn has(&self, what: &str) -> bool {
        lock(&self.0).contains(what)
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }
}

/// A call hangs, for as long as this guard lives.
#[derive(Debug)]
pub struct Hung {
    all: Hanging,
    what: String,
}

impl Drop for Hung {
    fn drop(&mut self) {
        lock(&self.all.0).remove(&self.what);
    }
}
