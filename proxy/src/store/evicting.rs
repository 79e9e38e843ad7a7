//! Eviction: the bounds that the operator allows, what may go, and how much of the tier never does.

use std::{
    collections::{HashMap, HashSet},
    io,
    time::Duration,
};

use larder_shared::{Digest, RegistryName};

use super::{
    Counts, Names, Store,
    bounds::{Around, Bounds, Candidate, Class, Facts, allowed, excess, victims},
    in_use::InUse,
    lock,
};

/// What the operator allows, as configured.
#[derive(Clone, Debug)]
pub struct Limits {
    pub max_size: crate::config::Amount,
    pub min_free: crate::config::Amount,
    pub ttl: Option<Duration>,
    /// Other TTLs, for content of these registries; `None` for ever.
    pub ttl_of: Vec<(RegistryName, Option<Duration>)>,
}

impl Limits {
    /// The bounds in bytes, on a file system of `total` bytes.
    pub fn bounds(&self, total: u64) -> Bounds {
        Bounds {
            max: self.max_size.of(total),
            min_free: self.min_free.of(total),
        }
    }

    /// The longest TTL; `None` for ever.
    fn longest(&self) -> Option<Duration> {
        let mut all = self.ttl_of.iter().map(|(_, ttl)| *ttl);
        all.try_fold(self.ttl?, |longest, ttl| Some(longest.max(ttl?)))
    }

    /// The shortest TTL; `None` if there is none.
    fn shortest(&self) -> Option<Duration> {
        let of = self.ttl_of.iter().filter_map(|(_, ttl)| *ttl);
        of.chain(self.ttl).min()
    }
}

/// What a round of keeping did.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Evicted {
    pub blobs: u64,
    pub bytes: u64,
    /// Those of them that had expired.
    pub expired_blobs: u64,
    pub expired_bytes: u64,
}

/// How much of the node tier is taken for good.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Room {
    /// Bytes that never go: pinned, or in use here and whole nowhere else.
    pub kept: u64,
    /// Bytes that the tier may take, by `max_size` and by the room that other files leave on the file system.
    pub allowed: u64,
}

impl Room {
    /// Whether `size` bytes could stay beside what never goes.
    pub const fn takes(&self, size: u64) -> bool {
        self.kept == 0 || self.kept.saturating_add(size) <= self.allowed
    }

    /// Bytes that are left beside what never goes.
    pub const fn left(&self) -> u64 {
        self.allowed.saturating_sub(self.kept)
    }
}

impl Store {
    /// Brings the tier within its limits (blocking). `active` says whether a digest is being filled now, `around` what
    /// others know of a digest. `around` is asked for every blob, and must be cheap.
    pub fn enforce(
        &self,
        limits: &Limits,
        counts: &Counts,
        active: impl Fn(&Digest) -> bool,
        around: impl Fn(&Digest) -> Around,
    ) -> io::Result<Evicted> {
        self.owned()?;
        let space = self.space()?;
        let bounds = Bounds {
            max: limits.max_size.of(space.total),
            min_free: limits.min_free.of(space.total),
        };
        let partials = self.leftovers();
        let held: u64 = partials.values().map(|(bytes, _)| bytes).sum();
        self.sweep_indexes();
        let ready = self.ready_totals();
        let taken = self.totals().bytes + held + self.bytes_of_layers();
        let in_use = self.in_use();
        *lock(&self.room) = Room {
            kept: self.kept(&in_use, limits, &around) + ready.kept,
            allowed: allowed(bounds, taken, space.free),
        };
        let mut over = excess(bounds, taken, space.free);
        over = over.saturating_sub(self.sweep(&partials, &active, limits.ttl, over));
        if over == 0 && !self.may_have_expired(limits) {
            self.ready_goes(limits, 0);
            return Ok(Evicted::default());
        }
        let mut candidates = self.candidates(limits, &in_use, &around);
        let expired = candidates.iter().filter(|c| c.class == Class::Expired);
        let expired: u64 = expired.map(|c| c.entry.size).sum();
        // Ready files go first, since they can be made again from the blobs. A file that is set aside waits for a
        // report before it is removed; it counts as freed, so that no blob goes in its place.
        over -= self
            .ready_goes(limits, over.saturating_sub(expired))
            .min(over.saturating_sub(expired));
        // Pins are looked up late: a pin that is set by then holds. The same is true of what a container begins to use.
        let stays = |digest: &Digest| {
            active(digest)
                || lock(&self.index).is_being_read(digest)
                || lock(&self.pins).contains(digest)
                || (!in_use.has(digest) && lock(&self.in_use).has(digest))
        };
        let gone = victims(&mut candidates, over, |digest| {
            stays(digest) || self.has_children(digest)
        });
        let known: HashMap<Digest, (u64, Class)> = candidates
            .iter()
            .map(|c| (c.digest, (c.entry.size, c.class)))
            .collect();
        let size = |digest: &Digest| known.get(digest).map_or(0, |(size, _)| *size);
        counts.expect(gone.len() as u64, gone.iter().map(size).sum());
        let mut evicted = Evicted::default();
        for digest in gone.iter().take_while(|_| !counts.is_stopped()) {
            // Choosing and removing take seconds: a blob may have been pinned or read since it was chosen.
            if stays(digest) {
                continue;
            }
            let class = known.get(digest).map(|(_, class)| *class);
            self.remove_as(digest, class == Some(Class::Expired));
            let size = size(digest);
            evicted.blobs += 1;
            evicted.bytes += size;
            if class == Some(Class::Expired) {
                evicted.expired_blobs += 1;
                evicted.expired_bytes += size;
            }
            tracing::debug!(blob.digest = %digest, size_bytes = size, class = class.map(Class::as_str), "evicted");
            counts.add(1, size);
        }
        Ok(evicted)
    }

    /// Whether the next round has to make room (blocking). Only then is it worth asking other members what they have.
    pub fn wants_room(&self, limits: &Limits) -> bool {
        let Ok(space) = self.space() else {
            return false;
        };
        let bounds = Bounds {
            max: limits.max_size.of(space.total),
            min_free: limits.min_free.of(space.total),
        };
        excess(bounds, self.taken(), space.free) > 0
    }

    /// Evicts ready files: old ones, and as many as free `over` bytes. Returns the bytes that went or are on their way
    /// out.
    fn ready_goes(&self, limits: &Limits, over: u64) -> u64 {
        let Some(ready) = self.ready() else {
            return 0;
        };
        // If ready files have a file system of their own, only they can make room there.
        let elsewhere = || {
            let space = ready.space().ok()?;
            let short = limits.min_free.of(space.total).saturating_sub(space.free);
            (short > 0 && !ready.is_beside(self.root())).then_some(short)
        };
        ready.round(over.max(elsewhere().unwrap_or(0)), limits.ttl)
    }

    /// The bytes of ready files that can be made without evicting anything for them (blocking). `None` if the bounds
    /// are exceeded already, or the disk does not answer.
    pub fn room_for_ready(&self, limits: &Limits) -> Option<u64> {
        let ready = self.ready()?;
        let (space, own) = (self.space().ok()?, ready.space().ok()?);
        let most = limits.max_size.of(space.total);
        let free = limits.min_free.of(own.total);
        Some(
            most.checked_sub(self.taken())?
                .min(own.free.checked_sub(free)?),
        )
    }

    /// All bytes that count in `max_size`: blobs, partials, ready files and indexes of layers (blocking).
    pub fn taken(&self) -> u64 {
        self.totals().bytes + self.partial_bytes() + self.bytes_of_layers()
    }

    /// Bytes that count in `max_size` besides blobs and partials: ready files and indexes of layers.
    pub fn bytes_of_layers(&self) -> u64 {
        self.ready_totals().bytes + self.indexes.totals().bytes()
    }

    /// How much of the tier never goes, as of the last round.
    pub fn room(&self) -> Room {
        *lock(&self.room)
    }

    /// Bytes that never go.
    fn kept(&self, in_use: &InUse, limits: &Limits, around: impl Fn(&Digest) -> Around) -> u64 {
        let pins = self.pins();
        let now = self.clock().now();
        let used = in_use.holds(now, limits.longest());
        let used = used.then(|| in_use.digests()).into_iter().flatten();
        let all: HashSet<&Digest> = pins.iter().chain(used).collect();
        let stays = |digest: &&Digest| {
            let facts = Facts {
                pinned: pins.contains(*digest),
                in_use: true,
                expired: false,
                around: around(digest),
            };
            Class::of(facts) == Class::Stays
        };
        let stay: Vec<_> = all.into_iter().filter(stays).collect();
        let index = lock(&self.index);
        let sizes = stay.iter().filter_map(|digest| index.size(digest));
        sizes.sum()
    }

    /// Whether any blob is older than the shortest TTL. Rounds are many, and most find nothing: an idle node must not
    /// sort its whole index for them.
    fn may_have_expired(&self, limits: &Limits) -> bool {
        let Some(shortest) = limits.shortest() else {
            return false;
        };
        let oldest = lock(&self.index).oldest_use();
        oldest.is_some_and(|used| self.clock().age(used) > shortest)
    }

    fn candidates(
        &self,
        limits: &Limits,
        in_use: &InUse,
        around: impl Fn(&Digest) -> Around,
    ) -> Vec<Candidate> {
        let mut own: HashMap<Digest, Option<Duration>> = HashMap::new();
        for (registry, ttl) in &limits.ttl_of {
            for digest in self.repositories.digests_of(registry) {
                // Content of several registries stays for the longest of their TTLs.
                let longest =
                    |a: Option<Duration>, b: Option<Duration>| a.zip(b).map(|(a, b)| a.max(b));
                let ttl = own.get(&digest).map_or(*ttl, |known| longest(*known, *ttl));
                own.insert(digest, ttl);
            }
        }
        let pins = self.pins();
        let clock = self.clock();
        let entries = self.entries();
        let candidate = |(digest, mut entry): (Digest, super::Entry)| {
            let ttl = own.get(&digest).copied().unwrap_or(limits.ttl);
            entry.used = entry.used.max(in_use.used(&digest));
            let expired = ttl.is_some_and(|ttl| clock.age(entry.used) > ttl);
            let facts = Facts {
                pinned: pins.contains(&digest),
                in_use: in_use.has(&digest) && in_use.holds(clock.now(), ttl),
                expired,
                around: around(&digest),
            };
            Candidate {
                digest,
                entry,
                class: Class::of(facts),
            }
        };
        entries.into_iter().map(candidate).collect()
    }

    /// Whether a blob is a manifest, and something that it names is still here: a manifest goes after what it names.
    fn has_children(&self, digest: &Digest) -> bool {
        let Some(bytes) = self.read_unseen(digest) else {
            return false;
        };
        let names = Names::of(&bytes);
        names
            .all()
            .any(|child| lock(&self.index).has(&child.digest))
    }
}
