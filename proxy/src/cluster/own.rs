//! This node's own records, for callers that must not wait for the disk: a record whose read hangs counts as not known,
//! and the other records are still found.

use std::{io, sync::Arc, time::Duration};

use larder_shared::Digest;
use tokio::sync::OwnedMutexGuard;

use super::{
    Cluster,
    records::{PeerRecord, PeerRecords},
};
use crate::{
    clock::unix_now,
    coalesce::Coalesce,
    sys::{Calls, Hangs},
};

/// Records that are read or written at once, and how long a caller waits for one.
const AT_ONCE: usize = 32;
const WITHIN: Duration = Duration::from_secs(1);

/// Records are in this many groups, by their first byte. One record of a group is written at a time: each write takes a
/// thread, and may hang.
const GROUPS: usize = 16;

/// Records on disk, asked on threads of their own.
#[derive(Debug)]
pub struct OwnRecords {
    pub records: Arc<PeerRecords>,
    calls: Calls,
    reading: Coalesce<Digest, Result<Option<PeerRecord>, Hangs>>,
    groups: [Arc<tokio::sync::Mutex<()>>; GROUPS],
}

impl OwnRecords {
    pub(super) fn new(records: PeerRecords) -> Self {
        Self {
            records: Arc::new(records),
            calls: Calls::new(AT_ONCE, WITHIN),
            reading: Coalesce::default(),
            groups: Default::default(),
        }
    }

    async fn group(&self, thing: &Digest) -> OwnedMutexGuard<()> {
        let group = usize::from(thing.as_bytes()[0]) % GROUPS;
        Arc::clone(&self.groups[group]).lock_owned().await
    }
}

impl Cluster {
    /// What this node keeps of `thing`.
    pub async fn kept(&self, thing: &Digest) -> Option<PeerRecord> {
        let own = &self.own;
        if let Some(kept) = own.records.known(thing) {
            return Some(kept);
        }
        let (records, calls, key) = (Arc::clone(&own.records), own.calls.clone(), *thing);
        let read = async move { calls.to_its_end(move || records.get(&key)).await };
        let read = own.reading.run(*thing, read);
        own.calls.wait(read).await.ok()??.ok()?
    }

    /// Keeps `news` of `thing` on this node.
    pub async fn keep(&self, thing: &Digest, news: PeerRecord) -> io::Result<()> {
        let own = &self.own;
        let (records, key) = (Arc::clone(&own.records), *thing);
        let putting = async {
            let group = own.group(thing).await;
            let put = move || {
                let _group = group;
                records.put(&key, news, unix_now())
            };
            own.calls.to_its_end(put).await
        };
        let late = |Hangs| io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer");
        own.calls.wait(putting).await.map_err(late)?.map_err(late)?
    }
}
