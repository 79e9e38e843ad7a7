//! How the bytes of a connection arrive: as they come, or gathered by the kernel.
//!
//! A slow source's bytes come packet by packet. Each packet wakes the threads that read, write and pass it on, which
//! costs more than its bytes do. With `SO_RCVLOWAT` (socket(7)) the kernel wakes the reader once enough bytes are here.
//! The caller sees to it that so many will come, or takes the rest by itself after a while.

use std::{
    fmt,
    os::fd::RawFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::Extensions;

use crate::sys::net::wake_reader_at;

/// A connection whose kernel can be told when to wake the reader. Each of its responses has it among its extensions.
#[derive(Clone)]
pub(super) struct Connection(Arc<Mutex<Waking>>);

#[derive(Debug)]
struct Waking {
    /// `None` once the connection has ended: another one may have the number by then.
    socket: Option<RawFd>,
    /// The bytes that wake the reader.
    at_least: u32,
}

impl Connection {
    pub(super) fn new(socket: RawFd) -> Self {
        Self(Arc::new(Mutex::new(Waking {
            socket: Some(socket),
            at_least: 1,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Waking> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_at(&self, at_least: u32) {
        let mut waking = self.lock();
        if let Some(socket) = waking.socket
            && waking.at_least != at_least
            && wake_reader_at(socket, at_least)
        {
            waking.at_least = at_least;
        }
    }

    /// The connection ends.
    pub(super) fn end(&self) {
        self.lock().socket = None;
    }
}

/// How the bytes of one response arrive. Afterwards, when this is dropped, the connection's bytes come as they come: the
/// next response may be short. Without a connection, as in [`Self::default`], nothing changes.
#[derive(Default)]
pub struct Arrivals(Option<Connection>);

impl Arrivals {
    /// Those of the response with these extensions.
    pub fn of(extensions: &Extensions) -> Self {
        Self(extensions.get().cloned())
    }

    /// From now on the reader is woken once so many bytes are here. If they are here already, it is woken now.
    pub fn gather(&self, at_least: u32) {
        if let Some(connection) = &self.0 {
            connection.wake_at(at_least);
        }
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.gather(1);
    }
}

impl fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Arrivals")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        net::{TcpListener, TcpStream},
        os::fd::AsRawFd as _,
        time::Duration,
    };

    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn the_reader_is_woken_once_enough_bytes_are_here() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (reader, _) = listener.accept().unwrap();
        reader.set_nonblocking(true).unwrap();
        let mut reader = tokio::net::TcpStream::from_std(reader).unwrap();
        let arrivals = Arrivals(Some(Connection::new(reader.as_raw_fd())));
        let mut buffer = vec![0; 1 << 20];
        let soon = Duration::from_millis(200);

        arrivals.gather(1000);
        sender.write_all(&[1; 999]).unwrap();
        let waited = tokio::time::timeout(soon, reader.read(&mut buffer)).await;
        assert!(waited.is_err(), "999 bytes wake it");
        sender.write_all(&[1]).unwrap();
        assert_eq!(reader.read(&mut buffer).await.unwrap(), 1000);

        // The rest of a body is taken without waiting for more.
        sender.write_all(&[1; 10]).unwrap();
        let waited = tokio::time::timeout(soon, reader.read(&mut buffer)).await;
        assert!(waited.is_err(), "10 bytes wake it");
        arrivals.gather(1);
        assert_eq!(reader.read(&mut buffer).await.unwrap(), 10);

        // The next response may be short.
        arrivals.gather(1000);
        drop(arrivals);
        sender.write_all(&[1; 10]).unwrap();
        assert_eq!(reader.read(&mut buffer).await.unwrap(), 10);

        // The end of the connection wakes the reader in any case.
        let arrivals = Arrivals(Some(Connection::new(reader.as_raw_fd())));
        arrivals.gather(1000);
        drop(sender);
        assert_eq!(reader.read(&mut buffer).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_connection_that_has_ended_is_left_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (reader, _) = listener.accept().unwrap();
        reader.set_nonblocking(true).unwrap();
        let mut reader = tokio::net::TcpStream::from_std(reader).unwrap();
        let connection = Connection::new(reader.as_raw_fd());
        connection.end();
        connection.wake_at(1000);
        sender.write_all(&[1]).unwrap();
        let mut buffer = [0; 10];
        let read = tokio::time::timeout(Duration::from_mins(1), reader.read(&mut buffer)).await;
        assert_eq!(read.expect("one byte wakes it").unwrap(), 1);
    }
}
