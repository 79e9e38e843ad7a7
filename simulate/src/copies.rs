//! Copies under churn: members die and are replaced, or restart, with larder's own decisions ([`larder::copies`]) and
//! ranking. Each transfer has a rate. Messages between members are counted, and cost no time.
//!
//! All members see the same at the same time, except for the times that larder itself waits. A dead member stays on the
//! list for a while, is waited for, and only then is replaced.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use larder::{
    cluster::{KEEPERS, placement},
    copies::{
        decide::{Question, Verdict, decide},
        life::{Life, Lives},
    },
};
use larder_shared::Digest;

use crate::report::Spread;

/// Seconds of a step: a keeper's round.
const STEP: u64 = 10;
/// A dead member leaves the list after this long, as a pod's address does.
const LISTED: u64 = 40;
/// A restart takes this long.
const DOWN: u64 = 30;
/// How much later a blob is looked at that was just pulled.
const FRESH: u64 = larder::cluster::holdings::FRESH;
/// How many of the first members in rank are considered.
const CONSIDERED: usize = 16;
/// Bytes of a message about one digest to a keeper, and the seconds after which all messages are repeated.
const LINE: f64 = 105.0;
const AGAIN: f64 = 7200.0;

/// The parameters. Rates are in bytes a second.
#[derive(Clone, Debug)]
pub struct Churn {
    pub nodes: usize,
    pub images: usize,
    pub layers: usize,
    /// The mean size of a layer; sizes are between an eighth of it and three times as much.
    pub layer: f64,
    /// How many nodes pull an image, on average; most images are pulled by one.
    pub pullers: f64,
    pub copies: usize,
    pub rate: f64,
    pub hours: u64,
    /// The shares of the members that die, and that restart, in an hour.
    pub dying: f64,
    pub restarting: f64,
    pub seed: u64,
}

struct Blob {
    digest: Digest,
    size: u64,
    holders: BTreeSet<usize>,
    coming: Vec<usize>,
    /// Since when fewer living members than `copies` have it.
    short: Option<u64>,
    lost: bool,
}

struct Member {
    key: placement::Key,
    holds: Vec<usize>,
    queue: VecDeque<usize>,
    /// How many bytes of the first blob in the queue are here.
    received: f64,
    copied: f64,
    died: Option<u64>,
    down_until: u64,
}

impl Member {
    fn new(number: usize) -> Self {
        let [a, b] = [number / 256, number % 256];
        Self {
            key: placement::Key::of(&format!("10.{}.{}.{b}:7422", a / 256, a % 256)),
            holds: Vec::new(),
            queue: VecDeque::new(),
            received: 0.0,
            copied: 0.0,
            died: None,
            down_until: 0,
        }
    }
}

/// The results.
#[derive(Debug)]
pub struct Kept {
    pub nodes: usize,
    pub died: usize,
    pub restarted: usize,
    /// The bytes that were copied before the first member died, and the bytes that had to be.
    pub first: (f64, f64),
    /// The same after that.
    pub later: (f64, f64),
    /// Bytes that the busiest member fetched, in units of the mean, before the first member died.
    pub busiest: f64,
    /// Seconds from a death until enough members have a blob again.
    pub whole: Spread,
    pub repaired: usize,
    pub lost: usize,
    pub blobs: usize,
    /// Bytes a second that a member sends to keepers, on average.
    pub said: f64,
}

struct World<'a> {
    churn: &'a Churn,
    random: fastrand::Rng,
    blobs: Vec<Blob>,
    members: Vec<Member>,
    listed: BTreeSet<usize>,
    lives: Lives<usize>,
    due: BTreeMap<u64, BTreeSet<usize>>,
    now: u64,
    repairs: Vec<f64>,
    lines: f64,
    deaths: usize,
    restarts: usize,
    needed: f64,
}

/// Runs the simulation: an hour without churn, then the wanted hours with churn.
pub fn run(churn: &Churn) -> Kept {
    let mut world = World::new(churn);
    world.pull();
    while world.now < 3600 {
        world.step(false);
    }
    let copied: Vec<f64> = world.members.iter().map(|member| member.copied).collect();
    let (first, needed) = (copied.iter().sum::<f64>(), world.needed);
    let mean = first / copied.len() as f64;
    let busiest = copied.iter().copied().fold(0.0, f64::max) / mean.max(1.0);
    let end = 3600 * (1 + churn.hours);
    while world.now < end {
        world.step(true);
    }
    // Lets the missing copies finish.
    while world.now < end + 3600 && world.blobs.iter().any(|blob| blob.short.is_some()) {
        world.step(false);
    }
    let all: f64 = world.members.iter().map(|member| member.copied).sum();
    Kept {
        nodes: churn.nodes,
        died: world.deaths,
        restarted: world.restarts,
        first: (first, needed),
        later: (all - first, world.needed - needed),
        busiest,
        whole: Spread::of(&world.repairs),
        repaired: world.repairs.len(),
        lost: world.blobs.iter().filter(|blob| blob.lost).count(),
        blobs: world.blobs.len(),
        said: world.lines * LINE / world.now as f64 / churn.nodes as f64,
    }
}

impl<'a> World<'a> {
    fn new(churn: &'a Churn) -> Self {
        let mut random = fastrand::Rng::with_seed(churn.seed);
        let count = churn.images * churn.layers;
        let blobs = (0..count).map(|number| Blob {
            digest: Digest::sha256(&(number as u64 ^ churn.seed << 40).to_le_bytes()),
            size: (churn.layer * (0.125 + 2.875 * random.f64().powi(2))) as u64,
            holders: BTreeSet::new(),
            coming: Vec::new(),
            short: None,
            lost: false,
        });
        Self {
            churn,
            blobs: blobs.collect(),
            members: (0..churn.nodes).map(Member::new).collect(),
            listed: (0..churn.nodes).collect(),
            lives: Lives::default(),
            due: BTreeMap::new(),
            now: 0,
            random,
            repairs: Vec::new(),
            lines: 0.0,
            deaths: 0,
            restarts: 0,
            needed: 0.0,
        }
    }

    /// Every image is pulled by at least one node, and by a few more on average.
    fn pull(&mut self) {
        for image in 0..self.churn.images {
            let more = -(1.0 - self.random.f64()).ln() * (self.churn.pullers - 1.0);
            let pullers = (1 + more.round() as usize).min(self.churn.nodes);
            let at = self.random.u64(0..600);
            for _ in 0..pullers {
                let node = self.random.usize(..self.churn.nodes);
                for layer in 0..self.churn.layers {
                    self.come(image * self.churn.layers + layer, node);
                }
            }
            for layer in 0..self.churn.layers {
                let blob = image * self.churn.layers + layer;
                let lacks = self
                    .churn
                    .copies
                    .saturating_sub(self.blobs[blob].holders.len());
                self.needed += (lacks as u64 * self.blobs[blob].size) as f64;
                self.due.entry(at + FRESH).or_default().insert(blob);
            }
        }
    }

    fn come(&mut self, blob: usize, node: usize) {
        if self.blobs[blob].holders.insert(node) {
            self.members[node].holds.push(blob);
            self.lines += KEEPERS as f64;
        }
        self.blobs[blob].coming.retain(|coming| *coming != node);
    }

    fn step(&mut self, churns: bool) {
        self.now += STEP;
        if churns {
            self.churn();
        }
        let (now, listed) = (self.now, self.listed.clone());
        self.lives.list(listed.iter().copied(), now);
        let mut gone = Vec::new();
        for member in &listed {
            let known = &self.members[*member];
            if known.died.is_none() && known.down_until <= now {
                self.lives.heard(*member, now);
            } else {
                self.lives.missed(*member, now);
            }
        }
        for (number, member) in self.members.iter().enumerate() {
            let newly = member.died.is_some() && !member.holds.is_empty();
            if newly && self.lives.life(number, now) == Life::Gone {
                gone.push(number);
            }
        }
        for number in gone {
            let holds = std::mem::take(&mut self.members[number].holds);
            for blob in holds {
                self.blobs[blob].holders.remove(&number);
                self.due.entry(now).or_default().insert(blob);
            }
            for blob in std::mem::take(&mut self.members[number].queue) {
                self.blobs[blob].coming.retain(|coming| *coming != number);
                self.due.entry(now).or_default().insert(blob);
            }
        }
        let holdings: usize = self.members.iter().map(|member| member.holds.len()).sum();
        self.lines += (holdings * KEEPERS) as f64 * STEP as f64 / AGAIN;
        self.decide();
        self.transfer();
    }

    fn churn(&mut self) {
        let part = STEP as f64 / 3600.0;
        for number in self.listed.clone() {
            if self.members[number].died.is_some() {
                if self.members[number]
                    .died
                    .is_some_and(|at| self.now >= at + LISTED)
                {
                    self.listed.remove(&number);
                }
            } else if self.random.f64() < self.churn.dying * part {
                self.die(number);
            } else if self.random.f64() < self.churn.restarting * part {
                self.members[number].down_until = self.now + DOWN;
                self.restarts += 1;
            }
        }
    }

    /// A member dies, and an empty one with another address takes its place.
    fn die(&mut self, number: usize) {
        self.deaths += 1;
        self.members[number].died = Some(self.now);
        for blob in self.members[number].holds.clone() {
            let living = self.living(blob);
            let blob = &mut self.blobs[blob];
            if living == 0 {
                blob.lost = true;
                blob.short = None;
            } else if living < self.churn.copies && !blob.lost {
                self.needed += blob.size as f64;
                blob.short.get_or_insert(self.now);
            }
        }
        // The new keepers of the dead member's records are told.
        let holdings: usize = self.members.iter().map(|member| member.holds.len()).sum();
        self.lines += 2.0 * (holdings * KEEPERS) as f64 / self.churn.nodes as f64;
        self.listed.insert(self.members.len());
        self.members.push(Member::new(self.members.len()));
    }

    fn living(&self, blob: usize) -> usize {
        let holders = self.blobs[blob].holders.iter();
        holders
            .filter(|member| self.members[**member].died.is_none())
            .count()
    }

    fn decide(&mut self) {
        let mut later = self.due.split_off(&(self.now + 1));
        let due: BTreeSet<usize> = std::mem::take(&mut self.due)
            .into_values()
            .flatten()
            .collect();
        std::mem::swap(&mut self.due, &mut later);
        if due.is_empty() {
            return;
        }
        let members = self.lives.not_gone(self.now);
        let keys: Vec<placement::Key> = members.iter().map(|m| self.members[*m].key).collect();
        let held_back = self.lives.too_many_are_missing(self.now);
        for number in due {
            let with_life = |member: usize| (member, self.lives.life(member, self.now));
            let blob = &self.blobs[number];
            let ranked = placement::rank(&keys, &blob.digest, 0, CONSIDERED);
            let ranked: Vec<_> = ranked
                .into_iter()
                .map(|at| with_life(members[at]))
                .collect();
            let holders: Vec<_> = blob
                .holders
                .iter()
                .map(|holder| with_life(*holder))
                .collect();
            let verdict = decide(&Question {
                copies: self.churn.copies,
                held_back,
                own: ranked[0].0,
                ranked: &ranked,
                holders: &holders,
                coming: &blob.coming,
                declined: &[],
            });
            match verdict {
                Verdict::Copy { to, .. } => {
                    for taker in to {
                        self.blobs[number].coming.push(taker);
                        self.members[taker].queue.push_back(number);
                    }
                }
                Verdict::Waits => {
                    self.due
                        .entry(self.now + 2 * STEP)
                        .or_default()
                        .insert(number);
                }
                Verdict::Enough | Verdict::NotOurs | Verdict::Short => {}
            }
        }
    }

    /// Every member fetches its copies one after another.
    fn transfer(&mut self) {
        for number in 0..self.members.len() {
            let mut room = self.churn.rate * STEP as f64;
            let member = &self.members[number];
            if member.died.is_some() || member.down_until > self.now {
                continue;
            }
            while let Some(blob) = self.members[number].queue.front().copied() {
                if self.living(blob) == 0 {
                    self.members[number].queue.pop_front();
                    self.members[number].received = 0.0;
                    self.blobs[blob].coming.retain(|coming| *coming != number);
                    continue;
                }
                let member = &mut self.members[number];
                let missing = self.blobs[blob].size as f64 - member.received;
                let bytes = missing.min(room);
                member.received += bytes;
                member.copied += bytes;
                room -= bytes;
                if bytes < missing {
                    break;
                }
                member.queue.pop_front();
                member.received = 0.0;
                self.come(blob, number);
                if self.living(blob) >= self.churn.copies
                    && let Some(since) = self.blobs[blob].short.take()
                {
                    self.repairs.push((self.now - since) as f64);
                }
            }
        }
    }
}

pub const HEAD: &str = "\
| nodes | died | restarted | bytes / needed, first | busiest / mean | bytes / needed, then | repaired | whole again p50 s | p99 s | max s | lost | of | B/s said |
|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|";

/// A line of the table, in Markdown.
pub fn line(kept: &Kept) -> String {
    let ratio = |(bytes, needed): (f64, f64)| {
        if needed > 0.0 {
            format!("{:.2}", bytes / needed)
        } else {
            "-".to_owned()
        }
    };
    format!(
        "| {} | {} | {} | {} | {:.2} | {} | {} | {:.0} | {:.0} | {:.0} | {} | {} | {:.1} |",
        kept.nodes,
        kept.died,
        kept.restarted,
        ratio(kept.first),
        kept.busiest,
        ratio(kept.later),
        kept.repaired,
        kept.whole.p50,
        kept.whole.p99,
        kept.whole.max,
        kept.lost,
        kept.blobs,
        kept.said,
    )
}

#[cfg(test)]
#[path = "copies_tests.rs"]
mod tests;
