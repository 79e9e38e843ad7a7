//! A run on its way to a node, and what a node knows of a run. Values only; `swarm` moves them.

/// What a node has of a run: nothing and nothing under way, all, or a transfer whose answer has that depth.
pub const NONE: u8 = 0;
pub const DONE: u8 = u8::MAX;

/// The state of a run that is on its way, and how far its source is from the upstream at the most.
pub const fn under_way(depth: u8) -> u8 {
    1 + depth
}

/// A run on its way to a node.
#[derive(Debug)]
pub struct Transfer {
    /// A node, or one more than the last for the upstream.
    pub from: u32,
    pub to: u32,
    pub run: u32,
    /// How many nodes stand between the receiver and the upstream, at the most.
    pub depth: u8,
    /// When the first byte may come.
    pub begins: f64,
    pub got: f64,
}
