//! The nodes and their transfers, moved on in small steps of time.
//!
//! Owns which node has how much of which run, and the transfers under way. larder's own `placement` decides which
//! member is asked for a run, `links` how links are shared, and `pull` which run comes next.
//!
//! The model, and its simplifications:
//!
//! * Time goes in steps of 1 to 20 ms. Within a step, links are shared max-min fairly. A transfer may take at most what
//!   its sender has at the begin of the step. So bytes are forwarded as they come, one step later at each hop.
//! * A request costs two hops before its first byte. There is no slow start, no loss, no header, no processor, no disk.
//! * A run that a node fetches for another counts as one of its streams of that blob, but is never put off.
//! * All nodes see the same members, looked up every `refresh` seconds. A node that asks a dead peer loses `stall`
//!   seconds, once. Then it asks the next in rank, and goes on at the byte that it has.
//! * A root asks the upstream, and no holders: nothing is left from earlier pulls.

use std::collections::HashSet;

use larder::cluster::placement::{self, Key};
use larder_shared::Role;

use crate::{
    catalog::Catalog,
    links::{Links, Want, share},
    node::{self, Node},
    pull::Pull,
    report::Outcome,
    scenario::Scenario,
    transfer::{DONE, NONE, Transfer, under_way},
};

/// How many peers are asked before the upstream.
const PEERS: usize = 2;

#[derive(Debug)]
pub struct Swarm<'a> {
    scenario: &'a Scenario,
    random: fastrand::Rng,
    catalog: Catalog,
    keys: Vec<Key>,
    nodes: Vec<Node>,
    now: f64,
    /// The members, as all nodes see them, and each node's place among them.
    members: Vec<usize>,
    member_keys: Vec<Key>,
    place: Vec<Option<usize>>,
    /// For each run, its first members in rank, as places among the members.
    ranks: Vec<Option<Vec<usize>>>,
    relays: usize,
    looked: f64,
    known_dead: HashSet<(usize, usize)>,
    /// By node and run: how many bytes are here, and the state.
    have: Vec<u32>,
    state: Vec<u8>,
    /// By node and blob: transfers under way.
    streams: Vec<u16>,
    transfers: Vec<Transfer>,
    up: Links,
    down: Links,
    sent: Vec<f64>,
    received: Vec<f64>,
}

impl<'a> Swarm<'a> {
    pub fn new(scenario: &'a Scenario) -> Self {
        let count = scenario.nodes;
        let mut random = fastrand::Rng::with_seed(scenario.seed);
        let catalog = Catalog::new(scenario);
        let nodes = node::all(scenario, &catalog, &mut random);
        let mut rates = vec![scenario.up; count];
        rates.push(scenario.upstream);
        let runs = catalog.sizes.len();
        let mut swarm = Self {
            scenario,
            random,
            keys: (0..count)
                .map(|i| Key::of(&format!("10.{}.{}.{}:7422", i >> 16, i >> 8 & 255, i & 255)))
                .collect(),
            nodes,
            now: 0.0,
            members: Vec::new(),
            member_keys: Vec::new(),
            place: vec![None; count],
            ranks: Vec::new(),
            relays: 0,
            looked: 0.0,
            known_dead: HashSet::new(),
            have: vec![0; count * runs],
            state: vec![NONE; count * runs],
            streams: vec![0; count * catalog.blobs.len()],
            transfers: Vec::new(),
            up: Links::new(rates),
            down: Links::new(vec![scenario.down; count]),
            sent: vec![0.0; count + 1],
            received: vec![0.0; count],
            catalog,
        };
        swarm.look();
        swarm
    }

    /// Runs until every living node has its image.
    pub fn run(mut self) -> Outcome {
        let (mut wants, mut open, mut moving, mut completed) = (vec![], vec![], vec![], vec![]);
        while self.nodes.iter().any(|n| !n.dead && n.finished.is_none()) {
            self.events();
            wants.clear();
            moving.clear();
            for (index, transfer) in self.transfers.iter().enumerate() {
                let bytes = self.wanted(transfer);
                if bytes > 0.0 {
                    moving.push(index);
                    wants.push(Want {
                        from: transfer.from,
                        to: transfer.to,
                        bytes,
                        got: 0.0,
                    });
                }
            }
            let step = self.scenario.step;
            share(&mut wants, &mut self.up, &mut self.down, step, &mut open);
            self.now += step;
            completed.clear();
            for (index, want) in moving.iter().zip(&wants) {
                let transfer = &mut self.transfers[*index];
                let at = transfer.to as usize * self.catalog.sizes.len() + transfer.run as usize;
                let size = self.catalog.sizes[transfer.run as usize];
                transfer.got += want.got;
                self.sent[transfer.from as usize] += want.got;
                self.received[transfer.to as usize] += want.got;
                if transfer.got >= f64::from(size) - 0.5 {
                    self.have[at] = size;
                    completed.push(*index);
                } else {
                    self.have[at] = transfer.got as u32;
                }
            }
            // The last one first, so that the others keep their places.
            let done: Vec<Transfer> = completed
                .iter()
                .rev()
                .map(|index| self.transfers.swap_remove(*index))
                .collect();
            for transfer in &done {
                self.complete(transfer.to as usize, transfer.run as usize);
            }
        }
        self.outcome()
    }

    /// How much `transfer` could take in this step.
    fn wanted(&self, transfer: &Transfer) -> f64 {
        if transfer.begins > self.now {
            return 0.0;
        }
        if transfer.from as usize == self.nodes.len() {
            let rest = f64::from(self.catalog.sizes[transfer.run as usize]) - transfer.got;
            rest.min(self.scenario.connection * self.scenario.step)
        } else {
            let at = transfer.from as usize * self.catalog.sizes.len() + transfer.run as usize;
            f64::from(self.have[at]) - transfer.got
        }
    }

    fn events(&mut self) {
        for node in 0..self.nodes.len() {
            let it = &self.nodes[node];
            if it.dies <= self.now && !it.dead {
                self.die(node);
            } else if it.begins <= self.now && !it.began && !it.dead {
                self.nodes[node].began = true;
                self.advance(node);
            }
        }
        if self.now >= self.looked + self.scenario.refresh {
            self.look();
        }
    }

    /// All nodes learn the members: every living node that is not yet to join.
    fn look(&mut self) {
        self.looked = self.now;
        let joins = |node: &Node| node.joins && !node.began;
        let members: Vec<usize> = (0..self.nodes.len())
            .filter(|i| !self.nodes[*i].dead && !joins(&self.nodes[*i]))
            .collect();
        if members == self.members {
            return;
        }
        self.place.fill(None);
        for (place, node) in members.iter().enumerate() {
            self.place[*node] = Some(place);
        }
        self.member_keys = members.iter().map(|node| self.keys[*node]).collect();
        self.relays = self.scenario.relays.among(members.len());
        self.ranks = vec![None; self.catalog.sizes.len()];
        self.members = members;
    }

    fn die(&mut self, node: usize) {
        self.nodes[node].dead = true;
        self.nodes[node].pulls.clear();
        self.transfers.retain(|t| t.to as usize != node);
        for index in 0..self.transfers.len() {
            if self.transfers[index].from as usize == node {
                self.transfers[index].from = self.nodes.len() as u32;
                self.turn_to(index, self.now, self.transfers[index].depth, Some(node));
            }
        }
    }

    /// Begins blobs while there is room for them. Records the time when the last one is here.
    fn advance(&mut self, node: usize) {
        while self.nodes[node].pulls.len() < self.scenario.blobs {
            let Some(number) = self.nodes[node].waiting.next() else {
                break;
            };
            let (first, runs) = {
                let blob = &self.catalog.blobs[number];
                (blob.first, blob.runs)
            };
            let at = node * self.catalog.sizes.len();
            let missing = (first..first + runs)
                .filter(|run| self.state[at + run] != DONE)
                .count();
            let is_root: Vec<bool> = (first..first + runs)
                .map(|run| {
                    let place = self.place[node];
                    place.is_some() && self.ranked(run).first().copied() == place
                })
                .collect();
            if missing > 0 {
                let (order, key) = (self.scenario.order, self.keys[node]);
                let pull = Pull::new(number, order, key, &is_root, missing, &mut self.random);
                self.nodes[node].pulls.push(pull);
            }
        }
        if self.nodes[node].pulls.is_empty() {
            self.nodes[node].finished.get_or_insert(self.now);
        }
        self.fetch_more(node);
    }

    fn fetch_more(&mut self, node: usize) {
        let mut index = 0;
        while index < self.nodes[node].pulls.len() {
            let pull = &mut self.nodes[node].pulls[index];
            let streams = self.streams[node * self.catalog.blobs.len() + pull.blob];
            let first = self.catalog.blobs[pull.blob].first;
            let state = &self.state[node * self.catalog.sizes.len() + first..];
            let next = if usize::from(streams) < self.scenario.streams {
                pull.next(|run| state[run] != NONE, |run| state[run] == DONE)
            } else {
                None
            };
            match next {
                Some(run) => self.fetch(node, first + run, self.now, 2),
                None => index += 1,
            }
        }
    }

    fn complete(&mut self, node: usize, run: usize) {
        let number = self.catalog.blob_of[run] as usize;
        self.state[node * self.catalog.sizes.len() + run] = DONE;
        self.streams[node * self.catalog.blobs.len() + number] -= 1;
        let pulls = &mut self.nodes[node].pulls;
        if let Some(index) = pulls.iter().position(|pull| pull.blob == number) {
            pulls[index].missing -= 1;
            if pulls[index].missing == 0 {
                pulls.remove(index);
                self.advance(node);
            } else {
                self.fetch_more(node);
            }
        }
    }

    fn ranked(&mut self, run: usize) -> &[usize] {
        self.ranks[run].get_or_insert_with(|| {
            let digest = &self.catalog.blobs[self.catalog.blob_of[run] as usize].digest;
            let most = placement::standings(self.relays, PEERS);
            let within = self.catalog.run_in_blob(run);
            placement::rank(&self.member_keys, digest, within, most)
        })
    }

    /// Begins a transfer of `run` to `node` at the time `at`, over at most `depth` others.
    fn fetch(&mut self, node: usize, run: usize, at: f64, depth: u8) {
        let number = self.catalog.blob_of[run] as usize;
        self.streams[node * self.catalog.blobs.len() + number] += 1;
        self.transfers.push(Transfer {
            from: self.nodes.len() as u32,
            to: node as u32,
            run: run as u32,
            depth: 0,
            begins: at,
            got: f64::from(self.have[node * self.catalog.sizes.len() + run]),
        });
        self.turn_to(self.transfers.len() - 1, at, depth, None);
    }

    /// Finds a sender for the transfer `index`: the first candidate that lives, or else the upstream.
    fn turn_to(&mut self, index: usize, at: f64, depth: u8, died: Option<usize>) {
        let (node, run) = (
            self.transfers[index].to as usize,
            self.transfers[index].run as usize,
        );
        self.ranked(run);
        let ranked = self.ranks[run].as_deref().unwrap_or_default();
        let candidates = placement::choose(
            &self.member_keys,
            ranked,
            self.relays,
            self.place[node],
            self.catalog.run_in_blob(run),
            depth,
            PEERS,
        );
        let mut at = at;
        let mut lost = |peer: usize| {
            if self.known_dead.insert((node, peer)) {
                at += self.scenario.stall;
            }
        };
        if let Some(peer) = died {
            lost(peer);
        }
        let mut found = None;
        for (place, role) in candidates {
            let peer = self.members[place];
            if !self.nodes[peer].dead {
                found = Some((peer, role));
                break;
            }
            lost(peer);
        }
        let (from, hop, depth) = match found {
            Some((peer, role)) => (peer, self.scenario.hop, role.depth() + 1),
            None => (self.nodes.len(), self.scenario.upstream_hop, 0),
        };
        let transfer = &mut self.transfers[index];
        transfer.from = from as u32;
        transfer.depth = depth;
        transfer.begins = at + 2.0 * hop;
        self.state[node * self.catalog.sizes.len() + run] = under_way(depth);
        if let Some((peer, role)) = found {
            self.ask(peer, run, at + hop, role);
        }
    }

    /// `node` is asked for `run`. If its own source is further away than its role allows, it finds another one now.
    fn ask(&mut self, node: usize, run: usize, at: f64, role: Role) {
        let state = self.state[node * self.catalog.sizes.len() + run];
        if state == NONE {
            self.fetch(node, run, at, role.depth());
        } else if state != DONE && state > under_way(role.depth()) {
            let fed = |t: &Transfer| t.to as usize == node && t.run as usize == run;
            if let Some(index) = self.transfers.iter().position(fed) {
                self.turn_to(index, at, role.depth(), None);
            }
        }
    }

    fn outcome(self) -> Outcome {
        let image = self.scenario.image() as f64;
        let lived = || self.nodes.iter().filter(|node| !node.dead);
        let upstream = self.sent[self.nodes.len()] / image;
        Outcome {
            nodes: self.nodes.len(),
            lived: lived().count(),
            relays: self.relays,
            images: lived().map(|n| n.image).collect::<HashSet<_>>().len(),
            sent: self.sent[..self.nodes.len()]
                .iter()
                .map(|b| b / image)
                .collect(),
            received: self.received.iter().map(|b| b / image).collect(),
            upstream,
            times: lived()
                .filter_map(|node| Some(node.finished? - node.begins))
                .collect(),
            peak: self.up.peak.max(self.down.peak),
        }
    }
}

#[cfg(test)]
#[path = "swarm_tests.rs"]
mod tests;
