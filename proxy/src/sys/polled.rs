//! Descriptors that the async runtime waits for.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

use tokio::io::{Interest, unix::AsyncFd};

/// An owned descriptor: it stays the same, and open, until it is dropped.
pub(super) trait Owned: AsRawFd {}
impl Owned for OwnedFd {}
impl Owned for Arc<OwnedFd> {}

/// Must be called within a runtime.
#[allow(unsafe_code)]
pub(super) fn polled<T: Owned>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: see `Owned`.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
