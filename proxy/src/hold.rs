//! The holder, and the daemon's side of it: a connection of FUSE outlives the processes that serve it.
//!
//! `larder hold` ([`Hold`]) is the third role of the executable. It opens a connection, mounts it where the container runtime
//! sees it, keeps the descriptor, and gives a copy to the daemon, over a socket. It never reads a request. The daemon
//! ([`attend`]) serves the files and needs no right for it. A connection lives while any process has its descriptor: a
//! daemon that dies finds it with the holder, and a holder that dies alone finds it with the daemon. docs/holder.md has
//! each case.
//!
//! Owns the socket's protocol ([`wire`]), the place of the mount ([`mounting`]), and the end of an absence ([`absence`]). What
//! the requests mean, [`crate::flat`] knows.

mod absence;
mod daemon;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod holder;
mod mounting;
mod session;
mod talk;
mod uninstall;
mod wire;

pub use self::{
    daemon::{Link, Standing, attend},
    holder::Hold,
    uninstall::uninstall,
};

/// Where holder and daemon look for each other, unless they are told otherwise.
pub const DIRECTORY: &str = "/run/larder-hold";
