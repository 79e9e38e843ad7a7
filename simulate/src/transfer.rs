//! A run on its way to a node, and a node's state of a run. Only values; `swarm` moves them.

/// A node's state of a run: nothing yet, all of it, or a transfer under way, with the depth of its answer.
pub const NONE: u8 = 0;
pub const DONE: u8 = u8::MAX;

/// The state of a run under way, with the largest distance of its source from the upstream.
pub const fn under_way(depth: u8) -> u8 {
    1 + depth
}

/// A run on its way to a node.
#[derive(Debug)]
pub struct Transfer {
    /// A node's number, or the number after the last one for the upstream.
    pub from: u32,
    pub to: u32,
    pub run: u32,
    /// The most nodes that may stand between the receiver and the upstream.
    pub depth: u8,
    /// When the first byte may come.
    pub begins: f64,
    pub got: f64,
}
