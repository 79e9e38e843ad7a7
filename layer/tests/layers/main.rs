//! Layers and their indexes, without a kernel: spans, what is refused, what is broken.

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
