//! The holder, and the daemon's side of it: a FUSE connection outlives the processes that serve it.
//!
//! `larder hold` ([`Hold`]) is the third role of the executable. It opens a connection, mounts it where the container
//! runtime sees it, keeps the descriptor, and gives the daemon a copy over a socket. It never reads a request. The
//! daemon ([`attend`]) serves the files and needs no privilege for that. A connection lives while any process has its
//! descriptor. So a daemon that is started again gets it from the holder, and a holder from the daemon. docs/holder.md
//! has each case.
//!
//! Owns the socket's protocol ([`wire`]), the place of the mount ([`mounting`]), and the end of an absence
//! ([`absence`]). [`crate::flat`] knows what the requests mean.

mod absence;
mod daemon;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod holder;
mod mounting;
mod record;
mod session;
mod talk;
mod uninstall;
mod wire;

pub use self::{
    daemon::{Link, Standing, attend},
    holder::Hold,
    uninstall::uninstall,
};

/// The socket at which holder and daemon meet by default.
pub const DIRECTORY: &str = "/run/larder-hold";
