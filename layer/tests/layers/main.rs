//! Layers and their indexes, without a kernel: spans, refused layers, broken indexes.

#[path = "../made.rs"]
mod made;

mod broken;
mod compare;
mod entries;
mod flaws;
mod gzip;
mod memory;
mod ready;
mod refused;
mod spans;
