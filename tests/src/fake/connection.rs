//! One connection: reads requests, and sends answers with the faults that apply. Written by hand, since an HTTP library
//! does not let a test send a wrong length or stop in the middle.

use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::fault::Fault;
use super::gate::Gate;
use super::ledger::Account;
use super::reply::Reply;
use super::request::{MAX_BYTES, Request};
use super::socket::Socket;

/// How an answer gives the length of its body.
#[derive(Clone, Copy, Debug)]
pub(super) enum Framing {
    Length,
    LengthOffBy(i64),
    /// Whatever the body's length is.
    Told(Option<u64>),
    Chunked,
    UntilClose,
    /// No answer at all.
    HungUp,
}

/// How a body ends too early.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Stall,
    Fin,
    Reset,
}

/// A reply, and the faults on its way.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) reply: Reply,
    pub(super) head_only: bool,
    pub(super) framing: Framing,
    /// For a 206, the total in `Content-Range`, and whether there is one.
    pub(super) total: Option<u64>,
    pub(super) tells_range: bool,
    /// Offsets in the content.
    flipped: Vec<u64>,
    gates: Vec<Gate>,
    bytes_per_second: Option<u64>,
    ending: Option<(u64, Ending)>,
}

impl Delivery {
    pub(super) fn new(reply: Reply, head_only: bool, faults: Vec<Fault>) -> Self {
        let mut delivery = Self {
            total: Some(reply.content.len()),
            tells_range: true,
            reply,
            head_only,
            framing: Framing::Length,
            flipped: Vec::new(),
            gates: Vec::new(),
            bytes_per_second: None,
            ending: None,
        };
        for fault in faults {
            delivery.suffer(fault);
        }
        delivery
    }

    fn suffer(&mut self, fault: Fault) {
        let digest = "Docker-Content-Digest";
        match fault {
            Fault::IgnoreRange => self.reply.unranged(),
            Fault::NoDigestHeader => self.reply.without(digest),
            Fault::WrongDigestHeader => {
                self.reply.without(digest);
                let other = format!("sha256:{}", "0bad".repeat(16));
                self.reply.headers.push((digest.to_owned(), other));
            }
            Fault::Odd(odd) => self.be_odd(odd),
            Fault::HangUp => self.framing = Framing::HungUp,
            Fault::NoLength => self.framing = Framing::Chunked,
            Fault::WrongLength(by) => self.framing = Framing::LengthOffBy(by),
            Fault::WrongBytes { at } => self.flipped.push(at),
            Fault::Gate(gate) => self.gates.push(gate),
            Fault::ThrottleBytesPerSecond(rate) => self.bytes_per_second = Some(rate.max(1)),
            Fault::StallAfter(bytes) => self.ending = Some((bytes, Ending::Stall)),
            Fault::TruncateAfter(bytes) => self.ending = Some((bytes, Ending::Fin)),
            Fault::ResetAfter(bytes) => self.ending = Some((bytes, Ending::Reset)),
            Fault::Delay(_)
            | Fault::Hold(_)
            | Fault::Status { .. }
            | Fault::Redirect { .. }
            | Fault::RedirectLoop => {}
        }
    }

    fn head(&self, keep_alive: bool) -> String {
        let reply = &self.reply;
        let version = match self.framing {
            Framing::UntilClose => "HTTP/1.0",
            _ => "HTTP/1.1",
        };
        let mut lines = vec![format!("{version} {} Fake", reply.status)];
        let headers = reply.headers.iter();
        lines.extend(headers.map(|(name, value)| format!("{name}: {value}")));
        if reply.partial && self.tells_range {
            let (first, last) = (reply.span.start, reply.span.end - 1);
            let len = self.total.map_or("*".to_owned(), |total| total.to_string());
            lines.push(format!("Content-Range: bytes {first}-{last}/{len}"));
        }
        let length = match self.framing {
            Framing::Length => Some(reply.len()),
            Framing::LengthOffBy(by) => Some(reply.len().saturating_add_signed(by)),
            Framing::Told(length) => length,
            Framing::Chunked | Framing::UntilClose | Framing::HungUp => None,
        };
        lines.extend(length.map(|length| format!("Content-Length: {length}")));
        if matches!(self.framing, Framing::Chunked) {
            lines.push("Transfer-Encoding: chunked".to_owned());
        }
        if !keep_alive {
            lines.push("Connection: close".to_owned());
        }
        lines.push("\r\n".to_owned());
        lines.join("\r\n")
    }
}

/// A connection, with bytes that were read from it but not parsed yet.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    buffer: BytesMut,
    /// When a throttle lets the next byte leave.
    paced: Instant,
}

impl Connection {
    pub(super) fn new(socket: Socket) -> Self {
        Self {
            socket,
            buffer: BytesMut::new(),
            paced: Instant::now(),
        }
    }

    /// The next request; `None` when the client has closed.
    pub(super) async fn request(&mut self) -> io::Result<Option<Request>> {
        loop {
            if let Some(request) = Request::take(&mut self.buffer).map_err(io::Error::other)? {
                return Ok(Some(request));
            }
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Resolves when the client closes. Bytes that it sends meanwhile are kept.
    pub(super) async fn closed(&mut self) {
        while self.buffer.len() < MAX_BYTES {
            if let Ok(0) | Err(_) = self.socket.read_buf(&mut self.buffer).await {
                return;
            }
        }
        pending::<()>().await;
    }

    /// Sends an answer. Gives the connection back if it can take another request.
    pub(super) async fn deliver(
        mut self,
        delivery: Delivery,
        keep_alive: bool,
        account: &Account,
    ) -> io::Result<Option<Self>> {
        if matches!(delivery.framing, Framing::HungUp) {
            self.socket.shutdown().await?;
            return Ok(None);
        }
        account.status(delivery.reply.status);
        let head = delivery.head(keep_alive);
        self.socket.write_all(head.as_bytes()).await?;
        self.socket.flush().await?;
        if !delivery.head_only {
            match self.body(&delivery, account).await? {
                None => {}
                Some(Ending::Reset) => {
                    self.socket.reset().await?;
                    return Ok(None);
                }
                Some(Ending::Stall) => {
                    self.closed().await;
                    return Ok(None);
                }
                Some(Ending::Fin) => {
                    self.socket.shutdown().await?;
                    return Ok(None);
                }
            }
        }
        if keep_alive
            && !matches!(
                delivery.framing,
                Framing::LengthOffBy(_) | Framing::UntilClose
            )
        {
            return Ok(Some(self));
        }
        self.socket.shutdown().await?;
        Ok(None)
    }

    /// Sends the body as far as the faults allow, and gives the fault's ending, if one ended it.
    async fn body(&mut self, delivery: &Delivery, account: &Account) -> io::Result<Option<Ending>> {
        let reply = &delivery.reply;
        let chunked = matches!(delivery.framing, Framing::Chunked);
        let mut pieces = reply.content.pieces(reply.span.clone());
        let mut piece = Bytes::new();
        let mut sent = 0;
        while sent < reply.len() {
            let mut may_send = u64::MAX;
            if let Some((end, ending)) = delivery.ending {
                if sent >= end {
                    return Ok(Some(ending));
                }
                may_send = end - sent;
            }
            for gate in &delivery.gates {
                tokio::select! {
                    limit = gate.pass(sent) => may_send = may_send.min(limit - sent),
                    () = self.closed() => return Err(io::ErrorKind::BrokenPipe.into()),
                }
            }
            if let Some(rate) = delivery.bytes_per_second {
                may_send = may_send.min((rate / 50).max(1));
            }
            if piece.is_empty() {
                piece = pieces.next().unwrap_or_default();
            }
            let take = may_send.min(piece.len() as u64) as usize;
            let part = flip(
                piece.split_to(take),
                reply.span.start + sent,
                &delivery.flipped,
            );
            self.write(&part, chunked, account).await?;
            sent += take as u64;
            if let Some(rate) = delivery.bytes_per_second {
                self.pace(take as u64, rate).await?;
            }
        }
        if chunked {
            self.socket.write_all(b"0\r\n\r\n").await?;
            self.socket.flush().await?;
        }
        Ok(None)
    }

    async fn write(&mut self, part: &[u8], chunked: bool, account: &Account) -> io::Result<()> {
        if chunked {
            let size = format!("{:x}\r\n", part.len());
            self.socket.write_all(size.as_bytes()).await?;
        }
        let mut rest = part;
        while !rest.is_empty() {
            let socket = &mut self.socket;
            let write = |cx: &mut Context<'_>| {
                account.write(|| Pin::new(&mut *socket).poll_write(cx, rest))
            };
            let written = poll_fn(write).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = &rest[written..];
        }
        if chunked {
            self.socket.write_all(b"\r\n").await?;
        }
        self.socket.flush().await
    }

    /// Waits until as much time has passed since the last byte as `bytes` take at `rate`.
    async fn pace(&mut self, bytes: u64, rate: u64) -> io::Result<()> {
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        self.paced = self.paced.max(Instant::now() - takes) + takes;
        let paced = self.paced;
        tokio::select! {
            () = tokio::time::sleep_until(paced) => Ok(()),
            () = self.closed() => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// Flips the bytes at these offsets of the content, within `piece`, which begins at `start`.
fn flip(piece: Bytes, start: u64, offsets: &[u64]) -> Bytes {
    let covered = start..start + piece.len() as u64;
    if !offsets.iter().any(|offset| covered.contains(offset)) {
        return piece;
    }
    let mut piece = Vec::from(piece);
    for offset in offsets.iter().filter(|offset| covered.contains(offset)) {
        piece[(offset - start) as usize] ^= 0xff;
    }
    piece.into()
}
