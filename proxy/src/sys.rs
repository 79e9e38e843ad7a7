//! The machine: everything that is `unsafe` or needs a system call that std does not offer.
//!
//! Owns the mapping of a file ([`Mapping`]), the socket that sends mapped files by sendfile ([`FileSocket`]), process
//! groups ([`Group`]), a signal ([`hang_up`]), what this process uses ([`usage`]), and the questions about file systems
//! ([`disk`]). Knows nothing of blobs, HTTP or larder.

pub mod disk;
mod mapping;
pub mod net;
mod process;
mod sendfile;
mod usage;

pub use mapping::Mapping;
pub use process::{Group, hang_up};
pub use sendfile::{FileSocket, Regions};
pub use usage::{Usage, usage};
