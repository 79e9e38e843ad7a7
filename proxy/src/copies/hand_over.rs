//! A holder's last act: before it stops, others fetch the blobs that it alone holds.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use larder_shared::Digest;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Copies,
    life::Life,
    wire::{Answer, Item, LINKED_BATCH},
};

/// Less than the time of the drain.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(20);

/// Members that are busy or silent are asked again for this long. A restart takes less.
const OFFERED_WITHIN: Duration = Duration::from_secs(10);

/// Members to which a copy is offered, one after another.
const OFFERED: usize = 4;

/// How often the node checks whether copies that were taken have arrived.
const GLANCE: Duration = Duration::from_millis(300);

/// Blobs that could not be handed over.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Left {
    blobs: usize,
    bytes: u64,
    private: usize,
}

impl Copies {
    /// Has others fetch the blobs that this node alone holds, within [`HANDED_OVER_WITHIN`]. Logs which are left.
    pub async fn hand_over(self: &Arc<Self>) {
        self.leaving.store(true, Ordering::Relaxed);
        if self.wanted() < 2 || !self.cluster.has_others() {
            return;
        }
        let deadline = Instant::now() + HANDED_OVER_WITHIN;
        let Ok(alone) = timeout_at(deadline, self.held_alone()).await else {
            tracing::warn!(
                "the members do not say in time what this node alone holds; nothing was handed over"
            );
            return;
        };
        if alone.is_empty() {
            return;
        }
        let mut left: HashMap<Digest, u64> =
            alone.iter().map(|item| (item.digest, item.size)).collect();
        let private: HashSet<Digest> = alone
            .iter()
            .filter(|item| item.links.is_empty())
            .map(|item| item.digest)
            .collect();
        let handing = async {
            let mut open: Vec<Item> = alone.into_iter().filter(|i| !i.links.is_empty()).collect();
            let mut taken: Vec<Digest> = Vec::new();
            let offered_until = Instant::now() + OFFERED_WITHIN;
            loop {
                let offered = self.offer_all(open).await;
                taken.extend(offered.taken);
                for digest in offered.held {
                    left.remove(&digest);
                }
                open = offered.again;
                if Instant::now() >= offered_until {
                    open.clear();
                }
                if taken.is_empty() && open.is_empty() {
                    break;
                }
                sleep(GLANCE).await;
                let standings = self.standings(&taken).await;
                taken.retain(|digest| {
                    let held = standings.get(digest).is_some_and(|s| s.others > 0);
                    if held {
                        left.remove(digest);
                    }
                    !held
                });
            }
        };
        let _ = timeout_at(deadline, handing).await;
        let left = Left {
            blobs: left.len(),
            bytes: left.values().sum(),
            private: left
                .keys()
                .filter(|digest| private.contains(*digest))
                .count(),
        };
        if left.blobs > left.private {
            tracing::warn!(
                blobs = left.blobs,
                size_bytes = left.bytes,
                private = left.private,
                "these blobs are on this node alone, and others could not take them before it stops"
            );
        } else if left.private > 0 {
            tracing::info!(
                private = left.private,
                "private blobs are on this node alone; [cluster] copies_private lets others have copies"
            );
        }
    }

    /// Offers of all blobs that no other member holds.
    async fn held_alone(self: &Arc<Self>) -> Vec<Item> {
        let entries = self.store.holdings();
        let young = |age: Duration| self.ttl().is_none_or(|ttl| age <= ttl);
        let digests: Vec<Digest> = entries
            .iter()
            .filter(|(_, entry)| young(self.store.clock().age(entry.used)))
            .map(|(digest, _)| *digest)
            .collect();
        let standings = self.standings(&digests).await;
        let alone: Vec<Digest> = digests
            .into_iter()
            // If no keeper answers, nothing says that another member holds it.
            .filter(|digest| standings.get(digest).is_none_or(|s| s.others == 0))
            .collect();
        let own = self.own();
        let mut items = Vec::new();
        for some in alone.chunks(LINKED_BATCH) {
            for (digest, links) in some.iter().zip(self.links_of(some).await) {
                if let (Some(entry), true) = (self.store.holding(digest), links.here) {
                    let held = self.held(digest, &entry);
                    items.push(Item {
                        digest: *digest,
                        size: held.size,
                        age: held.age,
                        from: own.into_iter().collect(),
                        links: links.links,
                        hurry: true,
                    });
                }
            }
        }
        items
    }

    /// Offers each blob to the members in rank until one takes it. A member that was missed lately may be back, so it
    /// comes after the living ones. A member that is new on the list counts as living.
    async fn offer_all(self: &Arc<Self>, items: Vec<Item>) -> Offered {
        let members = self.members();
        let own = self.own();
        let waited = members.addresses.iter().copied();
        let waited: HashSet<SocketAddr> = waited
            .filter(|member| self.life(*member) == Life::Waited)
            .collect();
        let mut offered = Offered::default();
        let mut next = items;
        let mut again: HashSet<Digest> = HashSet::new();
        for standing in 0..OFFERED {
            let mut offers: BTreeMap<SocketAddr, Vec<Item>> = BTreeMap::new();
            let mut declined = Vec::new();
            for item in next.drain(..) {
                let mut others = members.ranked(&item.digest, members.addresses.len());
                others.retain(|member| Some(*member) != own);
                others.sort_by_key(|member| waited.contains(member));
                match others.get(standing) {
                    Some(to) => offers.entry(*to).or_default().push(item),
                    None => declined.push(item),
                }
            }
            for (to, items) in offers {
                for some in items.chunks(LINKED_BATCH) {
                    let answers = self.answers_of(to, some).await;
                    for (item, answer) in some.iter().zip(answers) {
                        match answer {
                            Answer::Taken => offered.taken.push(item.digest),
                            Answer::Held => offered.held.push(item.digest),
                            // The member may have room soon, or answer again.
                            Answer::Busy => {
                                again.insert(item.digest);
                                next.push(item.clone());
                            }
                            Answer::Full | Answer::Off | Answer::Old => next.push(item.clone()),
                        }
                    }
                }
            }
            next.extend(declined);
        }
        next.retain(|item| again.contains(&item.digest));
        offered.again = next;
        offered
    }
}

/// The result of offers.
#[derive(Default, Debug)]
struct Offered {
    taken: Vec<Digest>,
    /// Members have them already.
    held: Vec<Digest>,
    /// No member took these, but a busy one may do so later.
    again: Vec<Item>,
}
