//! Files that the daemon serves and a holder holds (docs/holder.md), with the kernel's FUSE and EROFS, in mount
//! namespaces of the tests. Needs root. Whatever dies, a reader gets the right bytes, waits or gets an error, and never
//! reads zeros.
//!
//! The test program is also the daemon and the readers: it starts itself again, so that these can be killed.

mod daemon;
mod ends;
mod erofs;
mod kills;
mod peers;
mod reading;
mod setup;
mod takeover;

/// Not a test: the process that [`reading::Readers::start`] starts.
#[test]
fn as_readers() {
    if let Ok(readers) = std::env::var(reading::READERS) {
        reading::run(readers.parse().expect("a number"));
    }
}

/// Not a test: the process that [`setup::Setup::daemon`] starts.
#[test]
fn as_daemon() {
    if let Some(socket) = std::env::var_os(daemon::SOCKET) {
        daemon::run(socket.into());
    }
}
