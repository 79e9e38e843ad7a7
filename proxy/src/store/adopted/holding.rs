//! What this node holds for other members, too: the tier's blobs, and those of the runtime that are hashed and that a
//! repository is known to hold.

use larder_shared::Digest;

use super::{Adopted, Entry, State};
use crate::store::{self, Gone, Store, index::is_of_part, lock};

impl Entry {
    /// What other members may count on.
    pub(super) fn held(&self) -> Option<store::Entry> {
        let held = self.proven && matches!(self.state, State::Sound(_));
        held.then_some(store::Entry {
            size: self.size,
            used: self.used,
        })
    }
}

impl Adopted {
    /// These are not here any more; other members may have counted on some.
    pub(super) fn note_gone(&self, entries: impl Iterator<Item = (Digest, Entry)>) {
        for (digest, _) in entries.filter(|(_, entry)| entry.held().is_some()) {
            self.gone.note(Gone {
                digest,
                expired: false,
            });
        }
    }

    /// What left since the last call.
    pub(in crate::store) fn take_gone(&self) -> Vec<Gone> {
        self.gone.take()
    }

    /// It was used then. A blob that the runtime does not list has no such time here.
    pub(in crate::store) fn note_used(&self, digest: &Digest, used: u64) {
        if let Some(entry) = self.lock().listed.get_mut(digest) {
            entry.used = entry.used.max(used);
        }
    }
}

impl Store {
    /// A repository is known to hold a blob of the runtime. Whether other members may count on it now and could not before.
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

    /// All of them.
    pub fn holdings(&self) -> Vec<(Digest, store::Entry)> {
        self.holdings_part(0, 1)
    }

    /// A part of them: those that begin with the same bits. `parts` parts are all.
    pub fn holdings_part(&self, part: u16, parts: u16) -> Vec<(Digest, store::Entry)> {
        let mut digests = lock(&self.index).part(part, parts);
        digests.extend(self.adopted_part(part, parts));
        digests.sort_unstable();
        digests.dedup();
        let holding = |digest: Digest| Some((digest, self.holding(&digest)?));
        digests.into_iter().filter_map(holding).collect()
    }

    /// How many they are, give or take those that lie here twice.
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

    /// What a container runs is used, whether clients ask for it or not.
    fn used_by_containers(&self, digest: &Digest, entry: store::Entry) -> store::Entry {
        let used = entry.used.max(self.in_use().used(digest));
        store::Entry { used, ..entry }
    }
}
