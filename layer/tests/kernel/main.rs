//! Indexes of layers and the kernel: what it mounts is what GNU tar extracts. Needs root, for mounts.

#[path = "../made.rs"]
mod made;

mod directory;
mod machine;
mod mutated;
mod overlay;
mod random;
mod trees;
