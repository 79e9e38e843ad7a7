//! A small HTTP/1.1 client that hides nothing: one connection for each request, no redirects, no retries, and an exact
//! report of how a body ended.

use std::fmt::{self, Display};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use http::{HeaderMap, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

mod tls;

/// How long to wait for a head, and for each piece of a body.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a body ended before it was whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The peer closed in order.
    Fin,
    /// The peer reset the connection.
    Reset,
    /// Nothing came for 30 s.
    Silent,
    /// Anything else, in words.
    Other(String),
}

impl Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fin => f.write_str("ended early by FIN"),
            Self::Reset => f.write_str("reset"),
            Self::Silent => write!(f, "silent for {PATIENCE:?}"),
            Self::Other(error) => f.write_str(error),
        }
    }
}

impl std::error::Error for Broken {}

impl From<hyper::Error> for Broken {
    fn from(error: hyper::Error) -> Self {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(cause) = source {
            let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
            let hyper = cause.downcast_ref::<hyper::Error>();
            match kind {
                Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => return Self::Reset,
                Some(ErrorKind::UnexpectedEof) => return Self::Fin,
                _ if hyper.is_some_and(hyper::Error::is_incomplete_message) => return Self::Fin,
                _ => source = cause.source(),
            }
        }
        Self::Other(error.to_string())
    }
}

/// An answer that has ended.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// As received.
    pub headers: HeaderMap,
    /// The body, as far as it came.
    pub body: Bytes,
    /// Whether the body is complete.
    pub complete: bool,
    /// Why it is not.
    pub error: Option<Broken>,
}

impl Response {
    /// The first header of this name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON; panics, with the body, when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The result of a body that was only counted and hashed.
#[derive(Clone, Debug)]
pub struct Digested {
    /// The status code.
    pub status: u16,
    /// As received.
    pub headers: HeaderMap,
    /// Body bytes that came.
    pub len: u64,
    /// Their digest, with its `sha256:`.
    pub digest: String,
    /// Why the body was not whole.
    pub error: Option<Broken>,
}

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Call {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    ca_pem: Option<String>,
    from: IpAddr,
}

impl Call {
    /// Any method and an absolute URL.
    pub fn new(method: &str, url: impl Into<String>) -> Self {
        Self {
            method: method.to_owned(),
            url: url.into(),
            headers: Vec::new(),
            body: Bytes::new(),
            ca_pem: None,
            from: Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// A GET.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Trusts this authority, and no other, for `https`.
    #[must_use]
    pub fn ca_pem(mut self, pem: &str) -> Self {
        self.ca_pem = Some(pem.to_owned());
        self
    }

    /// Connects from this address, which may be any in 127.0.0.0/8. 127.0.0.1 otherwise.
    #[must_use]
    pub fn from_address(mut self, address: impl Into<IpAddr>) -> Self {
        self.from = address.into();
        self
    }

    /// Sends it on a connection of its own and waits for the head of the answer.
    pub async fn open(self) -> anyhow::Result<Stream> {
        let uri: Uri = self.url.parse().context(self.url.clone())?;
        let authority = uri.authority().context("a URL without a host")?.clone();
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = http::Request::builder()
            .method(self.method.as_str())
            .uri(path)
            .header("host", authority.as_str());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(self.body.clone()))?;
        let tls = uri.scheme_str() == Some("https");
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let address = SocketAddr::new(authority.host().parse().context("not an IP address")?, port);
        let tcp = connect(self.from, address).await?;
        if tls {
            let ca_pem = self.ca_pem.as_deref().context("no authority to trust")?;
            let io = tls::connect(tcp, address.ip(), ca_pem).await?;
            exchange(io, request).await
        } else {
            exchange(tcp, request).await
        }
    }

    /// Sends it and reads the answer to its end, complete or not.
    pub async fn send(self) -> anyhow::Result<Response> {
        Ok(self.open().await?.rest().await)
    }
}

async fn connect(from: IpAddr, address: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if from != IpAddr::from(Ipv4Addr::LOCALHOST) {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let connected = timeout(PATIENCE, socket.connect(address)).await?;
    let tcp = connected.with_context(|| format!("cannot connect to {address}"))?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Sends one request on an open connection of any kind, and waits for the head.
pub(crate) async fn exchange(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Full<Bytes>>,
) -> anyhow::Result<Stream> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    let mut stream = Stream {
        status: 0,
        headers: HeaderMap::new(),
        body: None,
        unread: BytesMut::new(),
        connection: tokio::spawn(async move { drop(connection.await) }),
    };
    let answer = match timeout(PATIENCE, sender.send_request(request)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(Broken::from(error)).context("no head came"),
        Err(_) => bail!("no head came within {PATIENCE:?}"),
    };
    let (head, body) = answer.into_parts();
    stream.status = head.status.as_u16();
    stream.headers = head.headers;
    stream.body = Some(body);
    Ok(stream)
}

/// An answer whose body is still coming. Dropping it closes the connection.
#[derive(Debug)]
pub struct Stream {
    /// The status code.
    pub status: u16,
    /// As received.
    pub headers: HeaderMap,
    body: Option<Incoming>,
    unread: BytesMut,
    connection: JoinHandle<()>,
}

impl Stream {
    /// The first header of this name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The next piece as it comes; `None` at the proper end.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        if !self.unread.is_empty() {
            return Ok(Some(self.unread.split().freeze()));
        }
        loop {
            let Some(body) = &mut self.body else {
                return Ok(None);
            };
            let Ok(frame) = timeout(PATIENCE, body.frame()).await else {
                return Err(Broken::Silent);
            };
            match frame {
                None => self.body = None,
                Some(Err(error)) => {
                    self.body = None;
                    return Err(error.into());
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    _ => {}
                },
            }
        }
    }

    /// The next `n` bytes; the end before that is [`Broken::Fin`].
    pub async fn read_exactly(&mut self, n: usize) -> Result<Bytes, Broken> {
        let mut bytes = BytesMut::with_capacity(n);
        while bytes.len() < n {
            let mut chunk = self.next_chunk().await?.ok_or(Broken::Fin)?;
            let take = chunk.len().min(n - bytes.len());
            bytes.extend_from_slice(&chunk.split_to(take));
            self.unread.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    /// Reads to the end, complete or not.
    pub async fn rest(mut self) -> Response {
        let mut body = BytesMut::new();
        let error = loop {
            match self.next_chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        Response {
            status: self.status,
            headers: self.headers.clone(),
            body: body.freeze(),
            complete: error.is_none(),
            error,
        }
    }

    /// Closes the connection now, before the body's end.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// GETs a URL and reads the answer to its end, complete or not.
pub async fn get(url: &str, headers: &[(&str, &str)]) -> anyhow::Result<Response> {
    call("GET", url, headers).send().await
}

/// HEADs a URL.
pub async fn head(url: &str, headers: &[(&str, &str)]) -> anyhow::Result<Response> {
    call("HEAD", url, headers).send().await
}

/// GETs a URL and waits for the head of the answer only.
pub async fn open(url: &str, headers: &[(&str, &str)]) -> anyhow::Result<Stream> {
    call("GET", url, headers).open().await
}

fn call(method: &str, url: &str, headers: &[(&str, &str)]) -> Call {
    let call = Call::new(method, url);
    let with = |call: Call, (name, value): &(&str, &str)| call.header(name, value);
    headers.iter().fold(call, with)
}

/// GETs a URL and hashes the body without holding it.
pub async fn get_digest(url: &str, headers: &[(&str, &str)]) -> anyhow::Result<Digested> {
    let mut stream = open(url, headers).await?;
    let mut hash = Sha256::new();
    let mut len = 0;
    let error = loop {
        match stream.next_chunk().await {
            Ok(Some(chunk)) => {
                len += chunk.len() as u64;
                hash.update(&chunk);
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    Ok(Digested {
        status: stream.status,
        headers: stream.headers.clone(),
        len,
        digest: format!("sha256:{}", HEXLOWER.encode(&hash.finalize())),
        error,
    })
}

/// Sends any bytes to `host:port`. Gives all that comes back until the peer closes or is silent for two seconds.
pub async fn raw(address: &str, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    const SILENCE: Duration = Duration::from_secs(2);
    let mut tcp = timeout(PATIENCE, TcpStream::connect(address)).await??;
    // The peer may refuse before it has read everything; only its answer matters.
    let _ = tcp.write_all(bytes).await;
    let mut answer = Vec::new();
    while let Ok(Ok(read)) = timeout(SILENCE, tcp.read_buf(&mut answer)).await {
        if read == 0 {
            break;
        }
    }
    Ok(answer)
}
