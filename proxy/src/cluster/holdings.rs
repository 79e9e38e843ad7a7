//! Which members hold a digest: soft knowledge that holders report to a digest's keepers, renew, and take back.
//!
//! A fill asks this module where to fetch from, and [`crate::copies`] whether enough members hold a digest. A missing
//! or wrong entry costs a request, or one copy too many, never correctness. Times are in seconds of the cluster's
//! clock, which goes on with the process.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
};

use larder_shared::Digest;
use lru::LruCache;

/// How long a member's report is believed. The member renews it several times meanwhile.
pub const BELIEVED: u64 = 6 * 3600;

/// A member that was started anew has this long to say what it still holds.
const CONFIRMED: u64 = 600;

/// Digests with holders, and holders for each.
const DIGESTS: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();
const HOLDERS: usize = 6;

/// How long the keeper waits before it looks at a digest that was just committed somewhere: many nodes may be pulling
/// it.
pub const FRESH: u64 = 20;

/// The same for an old digest that is new to this keeper: its other holders will report it too.
pub const SETTLED: u64 = 150;

/// A use that is later than another one by less than this is no news.
const SAME_USE: u64 = 60;

/// One member that holds a digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holding {
    pub member: SocketAddr,
    /// Which process of that member said so. `None` where that is not known.
    pub boot: Option<u64>,
    /// When it last said so.
    pub heard: u64,
    /// When the digest was last used there.
    pub used: u64,
}

/// What is known of a digest.
#[derive(Clone, Default, Debug)]
pub struct Known {
    /// `None` while every holder has reported the digest without its size.
    pub size: Option<u64>,
    /// The holders, the latest report first.
    pub holders: Vec<Holding>,
    /// The keeper does not look at the digest before this time.
    ready: u64,
    due: Option<u64>,
    /// Members that have taken an offer, and until when they are waited for.
    pub coming: Vec<(SocketAddr, u64)>,
    /// Members that declined, and for how long.
    pub declined: Vec<(SocketAddr, u64)>,
}

impl Known {
    /// When it was last used anywhere.
    pub fn used(&self) -> u64 {
        self.holders.iter().map(|h| h.used).max().unwrap_or(0)
    }
}

/// One digest that a member says it holds.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub digest: Digest,
    pub size: Option<u64>,
    pub used: u64,
}

#[derive(Debug)]
struct Inner {
    known: LruCache<Digest, Known>,
    due: BTreeSet<(u64, Digest)>,
    /// The process of each member that last reported, and since when it was heard.
    boots: HashMap<SocketAddr, (u64, u64)>,
}

/// What other members have said to this node as a keeper.
#[derive(Debug)]
pub struct Holdings(Mutex<Inner>);

impl Default for Holdings {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            known: LruCache::new(DIGESTS),
            due: BTreeSet::new(),
            boots: HashMap::new(),
        }))
    }
}

impl Inner {
    fn set_due(&mut self, digest: Digest, at: u64) {
        let Some(known) = self.known.peek_mut(&digest) else {
            return;
        };
        if let Some(before) = known.due.replace(at) {
            self.due.remove(&(before, digest));
        }
        self.due.insert((at, digest));
    }

    /// Whether a holding still counts: it is not too old, nor from before its member was started anew.
    fn counts(&self, holding: &Holding, now: u64) -> bool {
        let renewed = now < holding.heard + BELIEVED;
        let confirmed = match (self.boots.get(&holding.member), holding.boot) {
            (Some((boot, since)), Some(said)) => *boot == said || now < since + CONFIRMED,
            _ => true,
        };
        renewed && confirmed
    }

    fn of(&self, digest: &Digest, now: u64) -> Vec<Holding> {
        let holders = self.known.peek(digest).map(|known| &known.holders);
        let holders = holders.into_iter().flatten().copied();
        holders
            .filter(|holding| self.counts(holding, now))
            .collect()
    }

    fn add(&mut self, digest: Digest, size: Option<u64>, new: Holding) {
        if !self.known.contains(&digest)
            && let Some((gone, lost)) = self.known.push(digest, Known::default())
            && let Some(due) = lost.due
        {
            self.due.remove(&(due, gone));
        }
        let Some(known) = self.known.get_mut(&digest) else {
            return;
        };
        known.size = size.or(known.size);
        known.coming.retain(|(member, _)| *member != new.member);
        known.holders.retain(|holding| holding.member != new.member);
        known.holders.insert(0, new);
        known.holders.truncate(HOLDERS);
    }
}

impl Holdings {
    /// Notes what `member` holds, as its process `boot` reports; `fresh` if that has just come there. A digest that is
    /// new to this keeper is not looked at before `settled`. Returns which of them were used elsewhere since, and when.
    pub fn told(
        &self,
        now: u64,
        (member, boot): (SocketAddr, Option<u64>),
        fresh: bool,
        held: &[Told],
        settled: u64,
    ) -> Vec<(usize, u64)> {
        let mut inner = self.lock();
        if let Some(boot) = boot
            && inner
                .boots
                .get(&member)
                .is_none_or(|(known, _)| *known != boot)
        {
            inner.boots.insert(member, (boot, now));
        }
        let mut younger = Vec::new();
        for (index, told) in held.iter().enumerate() {
            let new = !inner.known.contains(&told.digest);
            let heard = Holding {
                member,
                boot,
                heard: now,
                used: told.used.min(now),
            };
            inner.add(told.digest, told.size, heard);
            let Some(known) = inner.known.peek_mut(&told.digest) else {
                continue;
            };
            let used = known.used();
            if used > told.used + SAME_USE {
                younger.push((index, used));
            }
            if new {
                let later = if fresh { FRESH } else { SETTLED };
                known.ready = settled.max(now + later);
                let ready = known.ready;
                inner.set_due(told.digest, ready);
            }
        }
        younger
    }

    /// Takes over what another keeper knows of a digest that is known here.
    pub fn learn(&self, digest: &Digest, holders: &[Holding]) {
        let mut inner = self.lock();
        for holding in holders {
            let known = inner.known.peek(digest);
            let later = known.is_some_and(|known| {
                let ours = known.holders.iter().find(|h| h.member == holding.member);
                ours.is_none_or(|ours| ours.heard < holding.heard)
            });
            if later {
                inner.add(*digest, None, *holding);
            }
        }
    }

    /// Notes that `member` holds these digests no longer. `replace`: another member may have to take its place.
    pub fn dropped(&self, now: u64, member: SocketAddr, digests: &[Digest], replace: bool) {
        let mut inner = self.lock();
        for digest in digests {
            let Some(known) = inner.known.peek_mut(digest) else {
                continue;
            };
            known.holders.retain(|holding| holding.member != member);
            if replace && !known.holders.is_empty() {
                let at = known.ready.max(now + FRESH);
                inner.set_due(*digest, at);
            }
        }
    }

    /// The members that hold `digest`, the last to say so first.
    pub fn holders(&self, digest: &Digest, now: u64) -> Vec<SocketAddr> {
        let mut inner = self.lock();
        inner.known.promote(digest);
        let holders = inner.of(digest, now).into_iter();
        holders.map(|holding| holding.member).collect()
    }

    /// The same, with all that is known of each holding.
    pub fn of(&self, digest: &Digest, now: u64) -> Vec<Holding> {
        self.lock().of(digest, now)
    }

    /// What is known of a digest, with the holders that count and the offers that have not run out.
    pub fn look(&self, digest: &Digest, now: u64) -> Option<Known> {
        let inner = self.lock();
        let mut known = inner.known.peek(digest)?.clone();
        known.holders.retain(|holding| inner.counts(holding, now));
        known.coming.retain(|(_, until)| now < *until);
        known.declined.retain(|(_, until)| now < *until);
        Some(known)
    }

    /// Takes the digests that are due, at most so many. They are not due again until another call makes them so.
    pub fn take_due(&self, now: u64, most: usize) -> Vec<Digest> {
        let mut inner = self.lock();
        let ready = inner.due.iter().take_while(|(at, _)| *at <= now);
        let ready: Vec<(u64, Digest)> = ready.take(most).copied().collect();
        for entry in &ready {
            inner.due.remove(entry);
            if let Some(known) = inner.known.peek_mut(&entry.1) {
                known.due = None;
            }
        }
        ready.into_iter().map(|(_, digest)| digest).collect()
    }

    /// Has the digest looked at again at `at`, and not before.
    pub fn again(&self, digest: &Digest, at: u64) {
        self.lock().set_due(*digest, at);
    }

    /// Notes that `member` has taken an offer, or declined it, until `until`. The digest is looked at again at `again`.
    pub fn answered(
        &self,
        digest: &Digest,
        member: SocketAddr,
        taken: bool,
        until: u64,
        again: u64,
    ) {
        let mut inner = self.lock();
        if let Some(known) = inner.known.peek_mut(digest) {
            let list = if taken {
                &mut known.coming
            } else {
                &mut known.declined
            };
            list.retain(|(known, _)| *known != member);
            list.push((member, until));
        }
        inner.set_due(*digest, again);
    }

    /// Members have come or gone: all digests that are `wanted` are looked at from `at` on, a few each second. A digest
    /// that no member holds any more is forgotten.
    pub fn look_again(&self, now: u64, at: u64, wanted: impl Fn(&[Holding]) -> bool) {
        let mut inner = self.lock();
        let mut again = Vec::new();
        let mut empty = Vec::new();
        for (digest, known) in &inner.known {
            let counts = known.holders.iter().filter(|h| inner.counts(h, now));
            let holders: Vec<Holding> = counts.copied().collect();
            if holders.is_empty() {
                empty.push((*digest, known.due));
            } else if wanted(&holders) && known.due.is_none_or(|due| due > at) {
                again.push((*digest, known.ready));
            }
        }
        for (digest, due) in empty {
            inner.known.pop(&digest);
            if let Some(due) = due {
                inner.due.remove(&(due, digest));
            }
        }
        for (digest, ready) in again {
            inner.set_due(digest, ready.max(at));
        }
    }

    /// Digests of which a holder is known.
    pub fn count(&self) -> usize {
        self.lock().known.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
