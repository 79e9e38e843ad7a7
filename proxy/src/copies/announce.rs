//! A holder's part: it tells the keepers of a digest that it holds it, when that has come, again and again, and when those
//! that should know have changed.
//!
//! | what is told | to | when |
//! |---|---|---|
//! | what has just come, what is gone | its keepers | at once; what comes meanwhile goes together |
//! | everything | its keepers | spread over two hours, or a quarter of the shortest `ttl` |
//! | everything | keepers that were not keepers before, that were started anew, or that did not hear | within a minute, evenly |
//!
//! No step looks at more than a part of the index, and what ranking costs is bounded by a second, so a hundred thousand
//! blobs and ten thousand members cost a fraction of a percent of a core.

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

/// Everything is told again within this time, or within a quarter of the shortest `ttl` if that is less.
const AGAIN: Duration = Duration::from_hours(2);
const LEAST: Duration = Duration::from_mins(1);

/// Parts of the index, of which each is told at once: many where a request would be too large, few where each keeper would
/// get a request of a few lines.
const PARTS: u64 = 256;
const LINES: u64 = 64;

/// Keepers that have changed are told after this long at the least, and again after this long: a roll-out changes many.
const RETOLD_AFTER: Duration = Duration::from_secs(5);
const RETOLD_EVERY: Duration = Duration::from_secs(20);

/// Rankings cost a step for each member. So many steps are made in a second.
const STEPS: u64 = 4_000_000;

/// What left the tier is told this often.
const GONE_EVERY: Duration = Duration::from_secs(5);

/// Keepers that are told at once.
const AT_ONCE: usize = 8;

/// Somewhat more or less, so that nodes that were started together do not speak together.
fn about(time: Duration) -> Duration {
    time.mul_f64(0.8 + 0.4 * fastrand::f64())
}

/// In how many parts the index is told, so that a request holds many lines and not too many.
fn parts(blobs: u64, members: u64) -> u16 {
    let parts = 3 * blobs / (LINES * members.max(1));
    parts.clamp(1, PARTS) as u16
}

impl Copies {
    /// Tells what comes and what goes.
    pub(super) async fn tell_news(self: Arc<Self>) {
        loop {
            // What left the tier rings no bell.
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
        // What came back meanwhile was told.
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

    /// How long it takes until everything was told again.
    fn again(&self) -> Duration {
        let config = self.config.load();
        let ttls = config
            .upstreams
            .values()
            .filter_map(|upstream| upstream.ttl);
        let shortest = ttls.flatten().chain(config.store.ttl).min();
        shortest.map_or(AGAIN, |ttl| (ttl / 4).clamp(LEAST, AGAIN))
    }

    /// Tells those keepers that do not know yet what others were told.
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

    /// The members are these now, or a keeper is another process than before.
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

    /// Tells keepers that this node holds these.
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

    /// Says something to a keeper, this node perhaps, and takes note of the answer. What it does not hear it is told later.
    /// With nothing to say it is a question whether the member lives. Whether it does.
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
                    // An older member refuses, and lives.
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

    /// A keeper that was started anew knows nothing of what it was told.
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
