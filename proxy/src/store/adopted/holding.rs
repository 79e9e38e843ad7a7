//! What this node holds for other members, too: the tier's blobs, and each blob of the runtime that is hashed and that
//! a repository is known to hold.

use larder_shared::Digest;

use super::{Adopted, Entry, State};
use crate::store::{self, Gone, Store, index::is_of_part, lock};

impl Entry {
    /// The entry that other members may count on; `None` if the blob is not hashed, or no repository is known to hold
    /// it.
    pub(super) fn held(&self) -> Option<store::Entry> {
        let held = self.proven && matches!(self.state, State::Sound(_));
        held.then_some(store::Entry {
            size: self.size,
            used: self.used,
        })
    }
}

impl Adopted {
    /// Takes note of entries that are not here any more, as far as other members may have counted on them.
    pub(super) fn note_gone(&self, entries: impl Iterator<Item = (Digest, Entry)>) {
        for (digest, _) in entries.filter(|(_, entry)| entry.held().is_some()) {
            self.gone.note(Gone {
                digest,
                expired: false,
            });
        }
    }

    /// The holdings that left since the last call.
    pub(in crate::store) fn take_gone(&self) -> Vec<Gone> {
        self.gone.take()
    }

    /// Takes note that a blob was used at `used`. Does nothing for a blob that the runtime does not list.
    pub(in crate::store) fn note_used(&self, digest: &Digest, used: u64) {
        if let Some(entry) = self.lock().listed.get_mut(digest) {
            entry.used = entry.used.max(used);
        }
    }
}

impl Store {
    /// Takes note that a repository is known to hold a blob of the runtime. Returns whether other members may count on
    /// the blob now and could not before.
    pub fn note_proven(&self, digest: &Digest) -> bool {
        let mut known = self.adopted.lock();
        let Some(entry) = known.listed.get_mut(digest) else {
            return false;
        };
        let before = std::mem::replace(&mut entry.proven, true);
        !before && entry.held().is_some()
    }

    /// What is known of a blob that this node holds for other members, too.
    pub fn holding(&self, digest: &Digest) -> Option<store::Entry> {
        let own = lock(&self.index).entry(digest);
        let adopted = self.adopted.lock().listed.get(digest).and_then(Entry::held);
        let adopted = adopted.map(|entry| self.used_by_containers(digest, entry));
        match (own, adopted) {
            (Some(own), Some(adopted)) => Some(store::Entry {
                used: own.used.max(adopted.used),
                ..own
            }),
            (own, adopted) => own.or(adopted),
        }
    }

    /// Whether this node holds a blob for other members, too.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.holding(digest).is_some()
    }

    /// All blobs that this node holds for other members, too.
    pub fn holdings(&self) -> Vec<(Digest, store::Entry)> {
        self.holdings_part(0, 1)
    }

    /// One part of them, `part` of `0..parts`, by the first bits of the digest. All parts together are all holdings.
    pub fn holdings_part(&self, part: u16, parts: u16) -> Vec<(Digest, store::Entry)> {
        let mut digests = lock(&self.index).part(part, parts);
        digests.extend(self.adopted_part(part, parts));
        digests.sort_unstable();
        digests.dedup();
        let holding = |digest: Digest| Some((digest, self.holding(&digest)?));
        digests.into_iter().filter_map(holding).collect()
    }

    /// The number of holdings. A blob counts twice if it lies in the tier and in the runtime's store.
    pub fn count_holdings(&self) -> u64 {
        self.totals().blobs + self.adopted_part(0, 1).len() as u64
    }

    fn adopted_part(&self, part: u16, parts: u16) -> Vec<Digest> {
        let known = self.adopted.lock();
        let held = known
            .listed
            .iter()
            .filter(|(digest, entry)| entry.held().is_some() && is_of_part(digest, part, parts));
        held.map(|(digest, _)| *digest).collect()
    }

    /// A blob that a container uses counts as used, whether clients ask for it or not.
    fn used_by_containers(&self, digest: &Digest, entry: store::Entry) -> store::Entry {
        let used = entry.used.max(self.in_use().used(digest));
        store::Entry { used, ..entry }
    }
}
