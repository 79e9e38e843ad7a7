//! The cluster tier: the other nodes, and the object store behind all of them.
//!
//! Owns who the members are, who fetches what, and how members are asked. Knows neither this node's disk nor registries:
//! where bytes go and whether somebody may have them is decided by who calls.

pub mod placement;
