//! Several nodes that are members of one cluster: on loopback addresses of their own, or each in a host.
//!
//! A [`Plan`] says which members know which others and how, and starts a [`Cluster`]. [`Door`] is how a client pulls
//! through one node. [`FakePeer`] is a member that lies. The upstream and its content are the test's.

mod certificates;
mod door;
mod lease;
mod peer;
mod plan;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

pub use self::certificates::{Authority, Identity, MEMBER};
pub use self::door::{Door, Got, measure};
pub use self::peer::{FakePeer, Heard, Manner};
pub use self::plan::{PEER_PORT, Plan, alias};
use crate::fake::FakeRegistry;
use crate::hosts::Net;
use crate::image::Image;
use crate::node::Node;

/// The metric of bytes that a node has sent to other members.
pub const SENT: &str = "larder_peer_sent_bytes_total";
/// The metric of how often a node has found a member lying.
pub const DISTRUSTED: &str = "larder_peer_distrusted_total";

/// Running nodes. Dropping it ends them all.
#[derive(Debug)]
pub struct Cluster {
    plan: Plan,
    nodes: Vec<Node>,
    /// Certificates and keys, a directory for each node.
    dirs: Vec<TempDir>,
}

impl Cluster {
    /// A plan of nodes on loopback addresses.
    pub fn of(count: usize) -> Plan {
        Plan::here(count)
    }

    /// A plan of nodes in the hosts of a net, one in each.
    pub fn in_hosts(net: &Net) -> Plan {
        Plan::in_hosts(net, net.len())
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The plan that started it.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// A node, counted from 0.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    /// A node, counted from 0, to be changed.
    pub fn node_mut(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number]
    }

    /// All nodes, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Where the others reach this node.
    pub fn peer_address(&self, number: usize) -> SocketAddr {
        self.plan.address(number)
    }

    /// How a client on this node pulls from a repository of this registry.
    pub fn door(&self, number: usize, fake: &FakeRegistry, repository: &str) -> Door {
        Door::of(&self.nodes[number], &fake.host(), repository)
    }

    /// Starts one more node, with the next number. The members' lists still have to name it.
    pub async fn add(&mut self) {
        let (node, dir) = self.plan.start_one(self.nodes.len()).await;
        self.nodes.push(node);
        self.dirs.push(dir);
    }

    /// Stops a node in the middle of whatever it does, as if its machine hung.
    pub fn freeze(&mut self, number: usize) {
        self.nodes[number].signal(Signal::SIGSTOP);
    }

    /// Lets a frozen node go on.
    pub fn thaw(&mut self, number: usize) {
        self.nodes[number].signal(Signal::SIGCONT);
    }

    /// Bytes that a node has sent to other members since it started.
    pub async fn sent(&self, number: usize) -> u64 {
        self.nodes[number].metric_sum(SENT).await as u64
    }

    /// Bytes that every node has sent to other members since it started.
    pub async fn all_sent(&self) -> Vec<u64> {
        let mut all = Vec::new();
        for number in 0..self.nodes.len() {
            all.push(self.sent(number).await);
        }
        all
    }

    /// Waits until this node has found a member lying, and gives its log; panics after `limit`.
    pub async fn until_distrusted(&self, number: usize, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        while self.nodes[number].metric_sum(DISTRUSTED).await < 1.0 {
            let late = Instant::now() > deadline;
            assert!(!late, "node {number} distrusts nobody after {limit:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.nodes[number].log()
    }
}

/// Body bytes that the upstream has sent for the blobs of an image.
pub fn upstream_bytes(fake: &FakeRegistry, image: &Image) -> u64 {
    let layers = image.layers.iter().map(|layer| &layer.digest);
    let blobs = layers.chain([&image.config_digest]);
    blobs.map(|digest| fake.blob_bytes_sent(digest)).sum()
}
