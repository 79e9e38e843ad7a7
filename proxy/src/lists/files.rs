//! Lists on disk, a small file each. So a node knows its sets after a restart, even while the registry is down.

use std::{collections::HashSet, sync::Arc, time::Duration};

use larder_shared::Digest;

use super::{Kept, Told, Wanted};
use crate::{clock::unix_now, store::Store, sys::Calls};

/// How many files are read or written at once, and how long a caller waits.
const AT_ONCE: usize = 2;
const WITHIN: Duration = Duration::from_secs(5);

/// The files of a store.
#[derive(Debug)]
pub(super) struct Files {
    store: Arc<Store>,
    calls: Calls,
}

impl Files {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            calls: Calls::new(AT_ONCE, WITHIN),
        }
    }

    /// The list in its file. An unreadable file counts as absent.
    pub(super) async fn read(&self, thing: Digest) -> Option<Kept> {
        let store = Arc::clone(&self.store);
        let read = self.calls.run(move || store.list(&thing.hex())).await;
        let told: Told = serde_json::from_slice(&read.ok()??).ok()?;
        let (known, trouble) = told.understood(None, None, unix_now());
        Some(Kept::of(known, trouble))
    }

    /// Writes a list to its file. If the disk refuses, the list stays in memory; other parts report the disk.
    pub(super) async fn write(&self, thing: Digest, wanted: &Wanted, kept: &Kept) {
        let told = Told {
            of: format!("{}/{}", wanted.registry, wanted.repository),
            ..Told::of(kept, None)
        };
        let store = Arc::clone(&self.store);
        let write = move || {
            let text = serde_json::to_vec(&told).map_err(std::io::Error::from)?;
            store.keep_list(&thing.hex(), &text)
        };
        match self.calls.run(write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a list was not written down"),
            Err(hangs) => tracing::debug!(?hangs, "a list was not written down in time"),
        }
    }

    /// Removes the files of all other lists.
    pub(super) async fn retain(&self, things: Vec<Digest>) {
        let store = Arc::clone(&self.store);
        let names: HashSet<String> = things.iter().map(Digest::hex).collect();
        let removed = self.calls.run(move || store.keep_lists(&names)).await;
        if let Err(hangs) = removed {
            tracing::debug!(?hangs, "old lists were not removed in time");
        }
    }
}
