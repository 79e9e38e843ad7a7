//! What a holder needs to know before it lets a blob go: which other members hold it.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use larder_shared::Digest;
use tokio::time::timeout;

use super::{Copies, decide::is_surplus, life::Life, lock, wire::BATCH};
use crate::cluster::holdings::Holding;

/// How many others hold a digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Other members that hold it and are not gone.
    pub others: usize,
    /// This node comes after the first `copies` living holders in rank: it need not keep the blob. All holders agree.
    pub surplus: bool,
}

/// How long the keepers may take to answer.
const LOOKED_AROUND_WITHIN: Duration = Duration::from_secs(3);

impl Copies {
    /// Finds out which of these blobs this node need not keep, because enough other members keep them.
    pub async fn look_around(self: &Arc<Self>, digests: &[Digest]) {
        if digests.is_empty() {
            lock(&self.surplus).clear();
            return;
        }
        let standings = timeout(LOOKED_AROUND_WITHIN, self.standings(digests)).await;
        let surplus = standings.unwrap_or_default().into_iter();
        let surplus = surplus.filter(|(_, standing)| standing.surplus);
        *lock(&self.surplus) = surplus.map(|(digest, _)| digest).collect();
    }

    /// Whether the last look found that enough other members keep a blob.
    pub fn is_surplus(&self, digest: &Digest) -> bool {
        lock(&self.surplus).contains(digest)
    }

    /// How many other members hold these digests, as their keepers know now. Leaves out a digest if no keeper answers.
    pub async fn standings(self: &Arc<Self>, digests: &[Digest]) -> HashMap<Digest, Standing> {
        let (Some(own), true) = (self.own(), self.cluster.has_others()) else {
            return HashMap::new();
        };
        let members = self.members();
        let mut known: HashMap<Digest, Vec<Holding>> = HashMap::new();
        let mut asked: BTreeMap<SocketAddr, Vec<Digest>> = BTreeMap::new();
        let now = self.now();
        for digest in digests {
            for keeper in members.keepers(digest) {
                if keeper == own {
                    let holders = self.cluster.holdings.of(digest, now);
                    known.entry(*digest).or_default().extend(holders);
                } else if self.life(keeper) == Life::Living {
                    asked.entry(keeper).or_default().push(*digest);
                }
            }
        }
        let batches = asked.into_iter().flat_map(|(keeper, digests)| {
            let batches: Vec<_> = digests.chunks(BATCH).map(<[Digest]>::to_vec).collect();
            batches
                .into_iter()
                .map(move |batch| self.ask_holders(keeper, batch))
        });
        for (digest, holders) in join_all(batches).await.into_iter().flatten() {
            known.entry(digest).or_default().extend(holders);
        }
        let copies = self.wanted();
        let standing = |(digest, holders): (Digest, Vec<Holding>)| {
            let mut others: Vec<SocketAddr> = holders.iter().map(|h| h.member).collect();
            others.sort_unstable();
            others.dedup();
            others.retain(|m| *m != own && self.life(*m) != Life::Gone);
            let living: Vec<SocketAddr> = others
                .iter()
                .copied()
                .filter(|m| self.life(*m) == Life::Living)
                .collect();
            let ranked = members.ranked(&digest, members.addresses.len());
            let surplus = copies > 1 && is_surplus(copies, own, &ranked, &living);
            (
                digest,
                Standing {
                    others: others.len(),
                    surplus,
                },
            )
        };
        known.into_iter().map(standing).collect()
    }
}
