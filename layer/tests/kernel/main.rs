//! Indexes of layers and the kernel: it shows the same files as GNU tar extracts. Needs root, for mounts.

#[path = "../made.rs"]
mod made;

mod directory;
mod machine;
mod mutated;
mod overlay;
mod random;
mod trees;
