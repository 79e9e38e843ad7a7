//! larder: a node-local image larder, daemon and CLI.
//!
//! The modules stand in the order of ARCHITECTURE.md, lowest first; each imports only what stands above it.

pub mod store;
pub mod sys;
