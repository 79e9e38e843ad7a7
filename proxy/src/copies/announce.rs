//! A holder's part: it tells a digest's keepers that it holds the blob, when the blob has come, at intervals, and when
//! the keepers have changed.
//!
//! | announced | to | when |
//! |---|---|---|
//! | blobs that have just come or gone | each blob's keepers | at once; blobs that come meanwhile go together |
//! | everything | each blob's keepers | spread over two hours, or a quarter of the shortest `ttl` |
//! | everything | keepers that are new, were started anew, or missed an announcement | within a minute, evenly |
//!
//! A step looks at one part of the index, and the steps of rankings are bounded per second. So a hundred thousand blobs
//! and ten thousand members cost a fraction of a percent of a core.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use http::Method;
use larder_shared::Digest;

use super::{
    Copies, Members, Retelling, WITHIN,
    life::Life,
    lock,
    wire::{Announcement, BATCH, HOLDINGS, Heard, Held},
};
use crate::store::Entry;

/// Everything is told again within this time, or within a quarter of the shortest `ttl` if that is shorter.
const AGAIN: Duration = Duration::from_hours(2);
const LEAST: Duration = Duration::from_mins(1);

/// The index is told in parts: many if one request would be too large, few if each keeper would get only a few lines.
const PARTS: u64 = 256;
const LINES: u64 = 64;

/// The pause before changed keepers are told, and the pause after that. A roll-out changes many keepers.
const RETOLD_AFTER: Duration = Duration::from_secs(5);
const RETOLD_EVERY: Duration = Duration::from_secs(20);

/// Steps of rankings in a second. A ranking takes one step for each member.
const STEPS: u64 = 4_000_000;

/// How often keepers are told which blobs left the tier.
const GONE_EVERY: Duration = Duration::from_secs(5);

/// Keepers that are told at the same time.
const AT_ONCE: usize = 8;

/// Varies a time by up to a fifth, so that nodes that were started together do not speak together.
fn about(time: Duration) -> Duration {
    time.mul_f64(0.8 + 0.4 * fastrand::f64())
}

/// The number of parts in which the index is told, so that a request holds many lines and not too many.
fn parts(blobs: u64, members: u64) -> u16 {
    let parts = 3 * blobs / (LINES * members.max(1));
    parts.clamp(1, PARTS) as u16
}

impl Copies {
    /// Tells keepers which blobs came and which went.
    pub(super) async fn tell_news(self: Arc<Self>) {
        loop {
            // A blob that left the tier notifies nobody, so the wait is bounded.
            let news = self.cluster.news.added.notified();
            let _ = tokio::time::timeout(GONE_EVERY, news).await;
            let come = self.cluster.news.take();
            let entry = |digest: Digest| Some((digest, self.store.holding(&digest)?));
            let come: Vec<_> = come.into_iter().filter_map(entry).collect();
            if !come.is_empty() {
                let members = self.members();
                self.tell(true, &come, |digest| members.keepers(digest))
                    .await;
            }
            self.tell_gone().await;
        }
    }

    async fn tell_gone(&self) {
        let gone = self.store.take_gone();
        if gone.is_empty() {
            return;
        }
        let members = self.members();
        let mut told: HashMap<SocketAddr, Announcement> = HashMap::new();
        // A blob that came back meanwhile was told as new.
        for gone in gone.iter().filter(|gone| !self.store.holds(&gone.digest)) {
            for keeper in members.keepers(&gone.digest) {
                let told = told.entry(keeper).or_default();
                let list = if gone.expired {
                    &mut told.expired
                } else {
                    &mut told.gone
                };
                list.push(gone.digest);
            }
        }
        let all = told
            .into_iter()
            .map(|(keeper, said)| self.say(keeper, said));
        stream::iter(all).buffer_unordered(AT_ONCE).count().await;
    }

    /// Tells everything again, a part at a time.
    pub(super) async fn tell_again(self: Arc<Self>) {
        let mut part = 0;
        loop {
            let members = self.members();
            let parts = parts(self.store.count_holdings(), members.addresses.len() as u64);
            tokio::time::sleep(about(self.again() / u32::from(parts))).await;
            if self.wanted() < 2 || members.addresses.len() < 2 {
                continue;
            }
            part = (part + 1) % parts;
            let entries = self.store.holdings_part(part, parts);
            self.tell_evenly(&entries, members.addresses.len(), |digest| {
                members.keepers(digest)
            })
            .await;
        }
    }

    /// The time within which everything is told again.
    fn again(&self) -> Duration {
        let config = self.config.load();
        let ttls = config
            .upstreams
            .values()
            .filter_map(|upstream| upstream.ttl);
        let shortest = ttls.flatten().chain(config.store.ttl).min();
        shortest.map_or(AGAIN, |ttl| (ttl / 4).clamp(LEAST, AGAIN))
    }

    /// Repeats earlier announcements to new keepers, and to keepers that missed some.
    pub(super) async fn retell(self: Arc<Self>) {
        loop {
            self.retell.notified().await;
            tokio::time::sleep(about(RETOLD_AFTER)).await;
            let (before, deaf, members) = {
                let mut retelling = lock(&self.retelling);
                let now = retelling.members.clone();
                let before = std::mem::replace(&mut retelling.before, now.clone());
                (
                    Members::new(before),
                    std::mem::take(&mut retelling.deaf),
                    Members::new(now),
                )
            };
            if self.wanted() < 2 || (before == members && deaf.is_empty()) {
                continue;
            }
            let new = |digest: &Digest| {
                let before = before.keepers(digest);
                let is_new =
                    |keeper: &SocketAddr| !before.contains(keeper) || deaf.contains(keeper);
                members.keepers(digest).into_iter().filter(is_new).collect()
            };
            let parts = parts(self.store.count_holdings(), members.addresses.len() as u64);
            for part in 0..parts {
                let entries = self.store.holdings_part(part, parts);
                let steps = before.addresses.len() + members.addresses.len();
                self.tell_evenly(&entries, steps, new).await;
            }
            tokio::time::sleep(about(RETOLD_EVERY)).await;
        }
    }

    /// Takes the current members, and returns whether they have changed. Rings `retell` if a keeper may lack something.
    pub(super) fn note_members(&self, members: Vec<SocketAddr>) -> bool {
        let mut retelling = lock(&self.retelling);
        let changed = retelling.members != members;
        retelling.members = members;
        if changed || !retelling.deaf.is_empty() {
            self.retell.notify_one();
        }
        changed
    }

    async fn tell_evenly(
        &self,
        entries: &[(Digest, Entry)],
        steps: usize,
        keepers: impl Fn(&Digest) -> Vec<SocketAddr>,
    ) {
        let at_once = (STEPS / 4 / steps.max(1) as u64).clamp(1, BATCH as u64) as usize;
        for entries in entries.chunks(at_once) {
            self.tell(false, entries, &keepers).await;
            let cost = (entries.len() * steps) as f64 / STEPS as f64;
            tokio::time::sleep(Duration::from_secs_f64(cost)).await;
        }
    }

    /// Tells keepers that this node holds these blobs.
    async fn tell(
        &self,
        fresh: bool,
        entries: &[(Digest, Entry)],
        keepers: impl Fn(&Digest) -> Vec<SocketAddr>,
    ) {
        let mut told: HashMap<SocketAddr, Vec<Held>> = HashMap::new();
        for (digest, entry) in entries {
            for keeper in keepers(digest) {
                told.entry(keeper)
                    .or_default()
                    .push(self.held(digest, entry));
            }
        }
        let batches = told.into_iter().flat_map(|(keeper, held)| {
            let batches: Vec<_> = held.chunks(BATCH).map(<[Held]>::to_vec).collect();
            batches.into_iter().map(move |held| (keeper, held))
        });
        let all = batches.map(|(keeper, held)| {
            let said = Announcement {
                fresh,
                held,
                ..Announcement::default()
            };
            self.say(keeper, said)
        });
        stream::iter(all).buffer_unordered(AT_ONCE).count().await;
    }

    pub(super) fn held(&self, digest: &Digest, entry: &Entry) -> Held {
        Held {
            digest: *digest,
            size: entry.size,
            age: self.store.clock().age(entry.used).as_secs(),
        }
    }

    /// Says something to a keeper, which may be this node, and notes the answer. A keeper that misses it is told later.
    /// An empty announcement only asks whether the member lives. Returns whether it does.
    pub(super) async fn say(&self, keeper: SocketAddr, said: Announcement) -> bool {
        let own = self.own();
        let said = Announcement {
            holder: own,
            boot: self.boot,
            ..said
        };
        if own == Some(keeper) {
            let heard = self.hear(&said).unwrap_or_default();
            self.note_younger(&said, &heard);
            return true;
        }
        if own.is_none() {
            return false;
        }
        let text = serde_json::to_vec(&said).unwrap_or_default().into();
        let asked = self
            .cluster
            .peers
            .call(keeper, Method::POST, HOLDINGS, text, WITHIN);
        let answer = asked.await;
        let matters = !said.held.is_empty() || !said.gone.is_empty() || !said.expired.is_empty();
        let now = self.now();
        let heard = match answer {
            Ok(text) => serde_json::from_slice::<Heard>(&text).ok(),
            Err(failure) => {
                tracing::debug!(%failure, "a keeper was not told what this node holds");
                let gone = matches!(failure, crate::cluster::peers::PeerFailure::Gone(..));
                if matters && lock(&self.lives).life(keeper, now) != Life::Gone {
                    lock(&self.retelling).deaf.insert(keeper);
                }
                if !gone {
                    // A member of an older version refuses the request, but it lives.
                    lock(&self.lives).heard(keeper, now);
                }
                return !gone;
            }
        };
        lock(&self.lives).heard(keeper, now);
        if let Some(heard) = heard {
            self.note_boot(keeper, heard.boot);
            self.note_younger(&said, &heard);
        }
        true
    }

    /// A keeper that was started anew has lost all announcements, so they are repeated.
    pub(super) fn note_boot(&self, keeper: SocketAddr, boot: u64) {
        let Retelling { boots, deaf, .. } = &mut *lock(&self.retelling);
        if boots
            .insert(keeper, boot)
            .is_some_and(|before| before != boot)
        {
            deaf.insert(keeper);
            self.retell.notify_one();
        }
    }

    fn note_younger(&self, said: &Announcement, heard: &Heard) {
        for (index, ago) in &heard.younger {
            if let Some(held) = said.held.get(*index) {
                self.store
                    .used_elsewhere(&held.digest, Duration::from_secs(*ago));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_holds_many_lines_and_a_part_is_never_the_whole_of_a_large_index() {
        for (blobs, members, expected) in [
            (0, 1, 1),
            (100, 3, 1),
            (100_000, 10, 256),
            (100_000, 1000, 4),
            (100_000, 10_000, 1),
        ] {
            assert_eq!(parts(blobs, members), expected, "{blobs} on {members}");
        }
    }
}
