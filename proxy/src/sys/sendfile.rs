//! A TCP socket for hyper whose vectored writes send slices of mapped files by sendfile(2).
//!
//! hyper hands queued body chunks to `poll_write_vectored` uncopied (`Builder::writev(true)`). A chunk whose address
//! lies in one of the connection's [`Regions`] is sent from the file; all other chunks are written as they are. If a
//! mapping was not registered, writev still sends its slices correctly, only slower.
//!
//! While file pages are being sent, the socket is corked (TCP_CORK), so that the head and the pages leave in full
//! segments although TCP_NODELAY is set. hyper flushes once everything queued was taken, and the flush uncorks the
//! socket.

use std::{
    future::Future as _,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use nix::sys::{sendfile::sendfile64, socket::setsockopt};
use tokio::{
    io::Interest,
    net::TcpStream,
    time::{Instant, Sleep},
};

use super::Mapping;

/// The mappings from which one connection may send. Cloned into each response body of the connection.
#[derive(Clone, Default, Debug)]
pub struct Regions(Arc<Mutex<Vec<Weak<Mapping>>>>);

impl Regions {
    /// From now on, slices of `mapping` go by sendfile on this connection, as long as the mapping lives.
    pub fn add(&self, mapping: &Arc<Mapping>) {
        let mut regions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        regions.retain(|known| known.strong_count() > 0);
        let new = Arc::downgrade(mapping);
        if !regions.iter().any(|known| known.ptr_eq(&new)) {
            regions.push(new);
        }
    }

    fn find(&self, slice: &[u8]) -> Option<(Arc<Mapping>, u64)> {
        if slice.is_empty() {
            return None;
        }
        let regions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        regions.iter().find_map(|region| {
            let mapping = region.upgrade()?;
            let offset = mapping.offset_of(slice)?;
            Some((mapping, offset))
        })
    }
}

/// A client that takes no bytes for this long counts as gone. containerd itself gives up after five minutes without
/// progress.
const STALLED: Duration = Duration::from_mins(6);

/// The most bytes for one sendfile, which runs until the socket is full. If the client keeps up, or if pages are still
/// on the disk, an unlimited call would keep a worker thread for the whole blob.
const AT_ONCE: usize = 2 << 20;

/// Writes of fewer bytes are not corked.
const CORK_FROM: usize = 64 << 10;

mod option {
    //! Socket options that nix does not name.
    use nix::{libc, setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// Only full segments leave while it is set, for at most 200 ms.
        TcpCork, SetOnly, libc::IPPROTO_TCP, libc::TCP_CORK, bool
    );
}

/// The accepting side of a plain TCP connection, for `hyper::server::conn::http1`.
#[derive(Debug)]
pub struct FileSocket {
    io: TokioIo<TcpStream>,
    regions: Regions,
    stalls_after: Duration,
    /// Runs while the client takes no bytes. Kept and reset rather than made anew, since a full socket is common.
    stalled: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    corked: bool,
}

impl FileSocket {
    pub fn new(stream: TcpStream, regions: Regions) -> Self {
        Self {
            io: TokioIo::new(stream),
            regions,
            stalls_after: STALLED,
            stalled: None,
            waiting: false,
            corked: false,
        }
    }

    /// The connection ends if the client takes no bytes for this long.
    #[must_use]
    pub fn stalls_after(mut self, long: Duration) -> Self {
        self.stalls_after = long;
        self
    }

    /// If it fails, the segments are not full; nothing else is lost.
    fn cork(&mut self, corked: bool) {
        if self.corked != corked && setsockopt(self.io.inner(), option::TcpCork, &corked).is_ok() {
            self.corked = corked;
        }
    }

    /// Passes a write's outcome on, unless the client has taken no bytes for too long.
    fn watch(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.waiting = false;
            return written;
        }
        let long = self.stalls_after;
        let sleep = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(long)));
        if !self.waiting {
            self.waiting = true;
            sleep.as_mut().reset(Instant::now() + long);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_sendfile(
        &self,
        cx: &mut Context<'_>,
        mapping: &Mapping,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        let socket = self.io.inner();
        loop {
            ready!(socket.poll_write_ready(cx))?;
            let mut at = offset as i64;
            let sent = socket.try_io(Interest::WRITABLE, || {
                sendfile64(socket, mapping.file(), Some(&mut at), len.min(AT_ONCE))
                    .map_err(io::Error::from)
            });
            match sent {
                // The file ends before the mapping does: it was cut short on disk.
                Ok(0) => {
                    mapping.set_damaged();
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => {
                    mapping.set_damaged();
                    return Poll::Ready(Err(error));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl Read for FileSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for FileSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = match this.regions.find(buf) {
            Some((mapping, offset)) => {
                if buf.len() >= CORK_FROM {
                    this.cork(true);
                }
                this.poll_sendfile(cx, &mapping, offset, buf.len())
            }
            None => Pin::new(&mut this.io).poll_write(cx, buf),
        };
        this.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        // The chunks before the first mapped slice go first, as one writev.
        let plain = bufs
            .iter()
            .take_while(|b| this.regions.find(b).is_none())
            .count();
        if bufs
            .get(plain)
            .is_some_and(|slice| plain > 0 && slice.len() >= CORK_FROM)
        {
            this.cork(true);
        }
        let written = match bufs.first() {
            _ if plain > 0 => Pin::new(&mut this.io).poll_write_vectored(cx, &bufs[..plain]),
            Some(slice) => return self.poll_write(cx, slice),
            None => Poll::Ready(Ok(0)),
        };
        this.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cork(false);
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
