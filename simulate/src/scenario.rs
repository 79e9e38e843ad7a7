//! The parameters of a simulation: the cluster, its links, the image, and the failures. This module only holds numbers.

use larder::cluster::placement;

/// How many relays each run has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relays {
    /// The square root of the members from this many members on, as in production.
    From(usize),
    /// This many, whatever the number of members.
    Exactly(usize),
}

impl Relays {
    /// How many relays a run has among this many members.
    pub fn among(self, members: usize) -> usize {
        let wanted = match self {
            Self::From(placement::RELAYS_FROM) => placement::relays(members),
            Self::From(from) if members < from => 0,
            Self::From(_) => members.isqrt(),
            Self::Exactly(relays) => relays,
        };
        wanted.min(members.saturating_sub(1))
    }
}

/// The order in which a node fetches what its reader does not wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Order {
    /// `placement::turn`.
    Turn,
    /// From the first run to the last.
    Sequential,
    /// An order of its own.
    Shuffled,
    /// All that it is the root of, then the rest, each in an order of its own.
    OwnFirst,
}

/// All parameters of one simulation. Rates are in bytes a second, times in seconds.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub nodes: usize,
    /// The layers of an image, in bytes.
    pub layers: Vec<u64>,
    /// The unit of placement, in bytes.
    pub run: u64,
    pub up: f64,
    pub down: f64,
    /// From the upstream to all nodes together.
    pub upstream: f64,
    /// From the upstream to one connection.
    pub connection: f64,
    /// One way between nodes.
    pub hop: f64,
    /// One way to the upstream.
    pub upstream_hop: f64,
    /// How many transfers a node keeps under way for one blob.
    pub streams: usize,
    /// How many blobs a node pulls at once.
    pub blobs: usize,
    pub relays: Relays,
    pub order: Order,
    /// The time within which the pulls begin.
    pub spread: f64,
    /// How many different images there are; each node pulls one.
    pub images: usize,
    /// Exponent of the images' popularity: 0 is even.
    pub zipf: f64,
    /// The share of nodes that die during the pull.
    pub dying: f64,
    /// The share of nodes that become members during the pull, and begin their own pull then.
    pub joining: f64,
    /// The time that a node loses when it asks a dead peer for the first time.
    pub stall: f64,
    /// The time between two looks at the members.
    pub refresh: f64,
    /// The step of time.
    pub step: f64,
    pub seed: u64,
}

impl Scenario {
    /// The bytes of one image.
    pub fn image(&self) -> u64 {
        self.layers.iter().sum()
    }

    /// The same scenario with a single node, which neither dies nor joins.
    pub fn alone(&self) -> Self {
        Self {
            nodes: 1,
            spread: 0.0,
            images: 1,
            dying: 0.0,
            joining: 0.0,
            step: fitting_step(1),
            ..self.clone()
        }
    }
}

/// A step that is short compared to a transfer, and long enough to simulate this many nodes.
pub fn fitting_step(nodes: usize) -> f64 {
    match nodes {
        0..200 => 0.001,
        200..2000 => 0.005,
        _ => 0.02,
    }
}

/// Links of 1 Gbit/s and a small image of one layer, for tests.
#[cfg(test)]
pub fn small(nodes: usize) -> Scenario {
    Scenario {
        nodes,
        layers: vec![64 << 20],
        run: placement::RUN,
        up: 125e6,
        down: 125e6,
        upstream: 125e6,
        connection: f64::INFINITY,
        hop: 0.0,
        upstream_hop: 0.0,
        streams: 8,
        blobs: 3,
        relays: Relays::From(placement::RELAYS_FROM),
        order: Order::Turn,
        spread: 0.0,
        images: 1,
        zipf: 1.0,
        dying: 0.0,
        joining: 0.0,
        stall: 1.0,
        refresh: 5.0,
        step: fitting_step(nodes),
        seed: 1,
    }
}
