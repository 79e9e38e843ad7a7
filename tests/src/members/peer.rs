//! A fake member: it hears nodes' requests, and answers as badly as the test asks.
//!
//! It knows no routes. A request that names the digest of something it holds gets that, whatever the path; any other
//! request gets a 404.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::fake::Content;

/// How long a stalled answer lasts.
const STALL: Duration = Duration::from_mins(1);
/// The largest head or body that it reads.
const MAX_BYTES: usize = 1 << 20;

/// How the fake answers nodes that ask for its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// With the right bytes.
    Honest,
    /// With as many bytes, all of them wrong.
    WrongBytes,
    /// With the right bytes, but a claimed size that is 4096 bytes too large.
    WrongSize,
    /// With a head, and then silence on an open connection.
    StallsAfterHead,
    /// With silence on an open connection.
    Silent,
    /// With this status.
    Says(u16),
    /// With bytes that are no HTTP.
    Garbage,
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// As sent.
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// Names in lower case, values as sent.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Heard {
    /// The first header of this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The whole request as text, to look for a secret in it.
    pub fn text(&self) -> String {
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        let body = String::from_utf8_lossy(&self.body);
        format!(
            "{} {}\n{}\n\n{body}",
            self.method,
            self.target,
            headers.join("\n")
        )
    }
}

#[derive(Debug)]
struct State {
    manner: Manner,
    contents: HashMap<String, Content>,
    /// The media type that it gives to all its content.
    label: String,
    heard: Vec<Heard>,
    /// How many answers it has given about its content.
    answers: usize,
}

/// A running fake member. It ends when dropped.
#[derive(Debug)]
pub struct FakePeer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

impl FakePeer {
    /// Listens at `address`; over plain HTTP if there is no `tls`.
    pub async fn start(
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        manner: Manner,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free address");
        let state = Arc::new(Mutex::new(State {
            manner,
            contents: HashMap::new(),
            label: "application/octet-stream".to_owned(),
            heard: Vec::new(),
            answers: 0,
        }));
        let accepting = tokio::spawn(accept(listener, tls, Arc::clone(&state)));
        Self {
            address,
            state,
            accepting,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it claims to hold this.
    pub fn hold(&self, digest: &str, content: &Content) {
        let mut state = lock(&self.state);
        state.contents.insert(digest.to_owned(), content.clone());
    }

    /// From now on it gives this media type to all its content.
    pub fn label(&self, media_type: &str) {
        media_type.clone_into(&mut lock(&self.state).label);
    }

    /// Sets how it answers from now on.
    pub fn behave(&self, manner: Manner) {
        lock(&self.state).manner = manner;
    }

    /// All requests that came, in order.
    pub fn heard(&self) -> Vec<Heard> {
        lock(&self.state).heard.clone()
    }

    /// How often a node has asked for its content.
    pub fn answers(&self) -> usize {
        lock(&self.state).answers
    }
}

impl Drop for FakePeer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, tls: Option<Arc<ServerConfig>>, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((tcp, _)) = accepted else { continue };
                let (tls, state) = (tls.clone(), Arc::clone(&state));
                // A connection that breaks is the node's concern.
                connections.spawn(async move { drop(connect(tcp, tls, &state).await) });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(
    tcp: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    state: &Mutex<State>,
) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    match tls {
        Some(tls) => serve(TlsAcceptor::from(tls).accept(tcp).await?, state).await,
        None => serve(tcp, state).await,
    }
}

async fn serve(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    state: &Mutex<State>,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(heard) = request(&mut io, &mut buffer).await? {
        let (manner, label, content) = {
            let mut state = lock(state);
            let found = state
                .contents
                .iter()
                .find(|(digest, _)| heard.target.contains(digest.as_str()));
            let content = found.map(|(digest, content)| (digest.clone(), content.clone()));
            state.answers += usize::from(content.is_some());
            state.heard.push(heard.clone());
            (state.manner, state.label.clone(), content)
        };
        match content {
            None => not_found(&mut io).await?,
            Some((digest, content)) => {
                if !answer(&mut io, &heard, manner, &label, &digest, &content).await? {
                    return io.shutdown().await;
                }
            }
        }
    }
    Ok(())
}

/// The next request; `None` when the other side has closed.
async fn request(
    io: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> std::io::Result<Option<Heard>> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if buffer.len() > MAX_BYTES {
            return Err(std::io::Error::other("the head is too long"));
        }
        if io.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let mut heard = Heard {
        method: words.next().unwrap_or_default().to_owned(),
        target: words.next().unwrap_or_default().to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let header = (name.to_ascii_lowercase(), value.trim().to_owned());
        heard.headers.push(header);
    }
    let length = heard.header("content-length");
    let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    if length > MAX_BYTES {
        return Err(std::io::Error::other("the body is too long"));
    }
    while buffer.len() < length {
        if io.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    heard.body = buffer.drain(..length).collect();
    Ok(Some(heard))
}

async fn not_found(io: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    let head = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    io.write_all(head.as_bytes()).await?;
    io.flush().await
}

/// Answers; says whether the connection can take another request.
async fn answer(
    io: &mut (impl AsyncWrite + Unpin),
    heard: &Heard,
    manner: Manner,
    label: &str,
    digest: &str,
    content: &Content,
) -> std::io::Result<bool> {
    match manner {
        Manner::Garbage => {
            io.write_all(&[0x5a; 4096]).await?;
            return Ok(false);
        }
        Manner::Silent => {
            tokio::time::sleep(STALL).await;
            return Ok(false);
        }
        Manner::Says(status) => {
            let head = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n");
            io.write_all(head.as_bytes()).await?;
            io.flush().await?;
            return Ok(true);
        }
        Manner::Honest | Manner::WrongBytes | Manner::WrongSize | Manner::StallsAfterHead => {}
    }
    let more = if manner == Manner::WrongSize { 4096 } else { 0 };
    let size = content.len() + more;
    let part = heard.header("range").and_then(|range| wanted(range, size));
    let span = part.clone().unwrap_or(0..size);
    let status = match &part {
        Some(part) => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {}-{}/{size}\r\n",
            part.start,
            part.end - 1
        ),
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
    };
    let length = span.end - span.start;
    let head = format!(
        "{status}Content-Type: {label}\r\nAccept-Ranges: bytes\r\n\
         Docker-Content-Digest: {digest}\r\nContent-Length: {length}\r\n\r\n"
    );
    io.write_all(head.as_bytes()).await?;
    io.flush().await?;
    if heard.method == "HEAD" {
        return Ok(true);
    }
    if manner == Manner::StallsAfterHead {
        tokio::time::sleep(STALL).await;
        return Ok(false);
    }
    let mut sent = 0;
    for piece in content.pieces(span.clone()) {
        sent += piece.len() as u64;
        if manner == Manner::WrongBytes {
            let wrong: Vec<u8> = piece.iter().map(|byte| !byte).collect();
            io.write_all(&wrong).await?;
        } else {
            io.write_all(&piece).await?;
        }
    }
    // Bytes beyond the content's end.
    let rest = (span.end - span.start).saturating_sub(sent);
    io.write_all(&vec![0; rest as usize]).await?;
    io.flush().await?;
    Ok(true)
}

/// A single range, cut to the size.
fn wanted(range: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => first..last.saturating_add(1).min(size),
        (Ok(first), Err(_)) => first..size,
        (Err(_), Ok(suffix)) => size.saturating_sub(suffix)..size,
        _ => return None,
    };
    (range.start < range.end).then_some(range)
}
