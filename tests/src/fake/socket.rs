//! A client's socket, plain or TLS, which a test can end as no HTTP library does.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

/// How long a reset waits until the peer has taken the bytes sent before.
const ARRIVAL: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    pub(super) async fn accept(
        tcp: TcpStream,
        tls: Option<&Arc<ServerConfig>>,
    ) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        match tls {
            Some(tls) => {
                let stream = TlsAcceptor::from(Arc::clone(tls)).accept(tcp).await?;
                Ok(Self::Tls(Box::new(stream)))
            }
            None => Ok(Self::Plain(tcp)),
        }
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Ends the connection by RST, after the written bytes have arrived: the kernel would drop bytes that it still
    /// holds.
    pub(super) async fn reset(self) -> io::Result<()> {
        let (here, there) = (self.tcp().local_addr()?, self.tcp().peer_addr()?);
        let deadline = Instant::now() + ARRIVAL;
        while unacknowledged(here, there)? > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.tcp().set_zero_linger()
    }
}

/// Bytes written to a socket of this process that the peer's kernel has not acknowledged, from
/// `net/tcp` in `/proc` (its `tx_queue`), since asking the socket itself takes an ioctl.
fn unacknowledged(here: SocketAddr, there: SocketAddr) -> io::Result<u64> {
    let (SocketAddr::V4(here), SocketAddr::V4(there)) = (here, there) else {
        return Ok(0);
    };
    let [here, there] = [here, there].map(|address| {
        let ip = u32::from_ne_bytes(address.ip().octets());
        format!("{ip:08X}:{:04X}", address.port())
    });
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
    for line in table.lines() {
        let columns: Vec<_> = line.split_whitespace().collect();
        if let [_, local, remote, _, queues, ..] = columns[..]
            && local == here
            && remote == there
        {
            let (waiting, _) = queues.split_once(':').unwrap_or_default();
            return Ok(u64::from_str_radix(waiting, 16).unwrap_or(0));
        }
    }
    Ok(0)
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
