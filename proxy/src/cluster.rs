//! The cluster tier: the other nodes, and the object store behind all of them.
//!
//! Owns who the members are, who fetches what, and how members are asked. Knows neither this node's disk nor registries:
//! where bytes go and whether somebody may have them is decided by who calls.

pub mod hints;
pub mod members;
pub mod peers;
pub mod placement;
pub mod tls;

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use larder_shared::{Digest, Role};

use self::{hints::Hints, members::Members, peers::Peers, placement::Key};
use crate::{config::Config, metrics::Metrics};

/// So many members are asked for a run, one after the other, before a node fetches it itself.
const ASKED: usize = 2;

/// Holder hints and tag records of a thing are kept by so many members, the first in rank for it.
pub const KEEPERS: usize = 3;

/// This node's side of the cluster.
#[derive(Debug)]
pub struct Cluster {
    pub members: Arc<Members>,
    pub peers: Arc<Peers>,
    pub hints: Hints,
}

impl Cluster {
    pub fn new(config: Arc<ArcSwap<Config>>, metrics: Arc<Metrics>) -> Arc<Self> {
        let members = Arc::new(Members::new(Arc::clone(&config)));
        Arc::new(Self {
            peers: Arc::new(Peers::new(config, Arc::clone(&members), metrics)),
            members,
            hints: Hints::default(),
        })
    }

    /// Whether there are other members.
    pub fn has_others(&self) -> bool {
        self.members.view().has_others()
    }

    /// Whom to ask for `run` of `digest`, best first: those that are worth asking. Nobody where this node is the root, and
    /// none that would stand deeper than `depth` allows.
    pub fn candidates(&self, digest: &Digest, run: u64, depth: u8) -> Vec<(SocketAddr, Role)> {
        let view = self.members.view();
        let asked = placement::candidates(&view.keys, view.own, digest, run, depth, ASKED);
        let address = |(index, role): (usize, Role)| (view.addresses[index], role);
        asked.into_iter().map(address).collect()
    }

    /// Where `run` stands in the order in which this node fetches what nobody waits for.
    pub fn turn(&self, digest: &Digest, run: u64) -> u64 {
        let view = self.members.view();
        let own = view.own.map_or_else(|| Key::of(""), |own| view.keys[own]);
        let root = placement::rank(&view.keys, digest, run, 1);
        placement::turn(
            own,
            view.own.is_some() && root.first() == view.own.as_ref(),
            run,
        )
    }

    /// Who keeps what is known of `thing`, this node perhaps among them.
    pub fn keepers(&self, thing: &Digest) -> Vec<SocketAddr> {
        let view = self.members.view();
        let ranked = placement::rank(&view.keys, thing, 0, KEEPERS);
        ranked
            .into_iter()
            .map(|index| view.addresses[index])
            .collect()
    }
}
