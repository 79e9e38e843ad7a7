//! The machine: everything that is `unsafe` or needs a system call that std does not offer.
//!
//! Owns the mapping of a file ([`Mapping`]), the socket that sends mapped files by sendfile ([`FileSocket`]), process
//! groups ([`Group`]), a signal ([`hang_up`]), what this process uses ([`usage()`]), questions about file systems
//! ([`disk`]), calls that may hang ([`Calls`]), work of idle priority ([`be_idle`]), what a process gives up
//! ([`leave_unix_sockets_alone`], [`let_go_of_program`]), the list of mounts ([`mounts`]), FUSE connections ([`fuse`]),
//! and sockets that pass descriptors ([`passed`]). Knows nothing of blobs, HTTP or larder.

mod calls;
mod confine;
pub mod disk;
pub mod fuse;
mod heap;
mod idle;
mod mapping;
pub mod mounts;
pub mod net;
pub mod passed;
mod polled;
mod process;
mod program;
mod sendfile;
mod usage;

pub use calls::{Calls, Hangs, Ongoing, Turn, Turns};
pub use confine::leave_unix_sockets_alone;
pub use heap::{give_freed_memory_back, keep_freed_memory};
pub use idle::be_idle;
pub use mapping::Mapping;
pub use process::{Group, hang_up, open_files, raise_open_files, started};
pub use program::let_go_of_program;
pub use sendfile::{FileSocket, Regions};
pub use usage::{Usage, usage};
