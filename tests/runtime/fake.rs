//! A runtime that answers as the test wants, or not at all: gRPC on a socket.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Collected, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

/// The fake's answer to a call.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// These messages.
    All(Vec<Bytes>),
    /// These messages, and then silence for ever.
    Stuck(Vec<Bytes>),
    /// This gRPC status code.
    Code(u8),
}

/// gRPC status codes.
pub(crate) const INTERNAL: u8 = 13;
pub(crate) const UNIMPLEMENTED: u8 = 12;

impl Reply {
    pub(crate) fn empty() -> Self {
        Self::All(vec![Bytes::new()])
    }

    pub(crate) fn nothing() -> Self {
        Self::All(Vec::new())
    }
}

/// A runtime on a socket. Dropping it closes the socket and every connection.
#[derive(Debug)]
pub(crate) struct Fake {
    task: JoinHandle<()>,
    connections: Arc<AtomicUsize>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// Answers each call, named by its last two words (`Images/List`), with what `reply` gives.
    pub(crate) fn start(
        socket: &Path,
        reply: impl Fn(&str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_asked(socket, move |asked, _| reply(asked))
    }

    /// As [`start`](Self::start); `reply` gets the request's message too.
    pub(crate) fn start_asked(
        socket: &Path,
        reply: impl Fn(&str, &[u8]) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = UnixListener::bind(socket).expect("a socket");
        let connections = Arc::new(AtomicUsize::new(0));
        let (counted, reply) = (Arc::clone(&connections), Arc::new(reply));
        let task = tokio::spawn(async move {
            // They end together with this task.
            let mut conversations = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let reply = Arc::clone(&reply);
                let service = service_fn(move |request: Request<Incoming>| {
                    let reply = Arc::clone(&reply);
                    async move {
                        let path = request.uri().path().to_owned();
                        let body = request.into_body().collect().await;
                        let body = body.map(Collected::to_bytes).unwrap_or_default();
                        let message = body.get(5..).unwrap_or_default();
                        Ok::<_, Infallible>(respond(reply(question(&path), message)))
                    }
                });
                let conversation = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                conversations.spawn(async move {
                    let _ = conversation.await;
                });
            }
        });
        Self { task, connections }
    }

    /// Accepts connections and never answers.
    pub(crate) fn silent(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).expect("a socket");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                held.push(stream);
            }
        });
        Self { task, connections }
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

fn question(path: &str) -> &str {
    let start = path.rfind('.').map_or(0, |dot| dot + 1);
    &path[start..]
}

type Frames = stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>;

fn respond(reply: Reply) -> Response<StreamBody<Frames>> {
    use futures_util::StreamExt as _;
    let (messages, code) = match reply {
        Reply::All(messages) => (messages, Some(0)),
        Reply::Stuck(messages) => (messages, None),
        Reply::Code(code) => (Vec::new(), Some(code)),
    };
    let frames = stream::iter(messages).map(|message| Ok(Frame::data(framed(&message))));
    let end: Frames = match code {
        Some(code) => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", u16::from(code).into());
            stream::iter([Ok(Frame::trailers(trailers))]).boxed()
        }
        None => stream::pending().boxed(),
    };
    let response = Response::builder().header("content-type", "application/grpc");
    let body = StreamBody::new(frames.chain(end).boxed());
    response.body(body).expect("a response")
}

/// A message as gRPC frames it: not compressed, and its length.
fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(0);
    bytes.put_u32(message.len() as u32);
    bytes.put_slice(message);
    bytes.freeze()
}

/// A message with text in some of its fields, as most messages of a runtime are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(BytesMut);

impl Fields {
    pub(crate) fn text(self, tag: u32, text: &str) -> Self {
        self.part(tag, text.as_bytes())
    }

    pub(crate) fn message(self, tag: u32, fields: &Fields) -> Self {
        self.part(tag, &fields.0)
    }

    fn part(mut self, tag: u32, bytes: &[u8]) -> Self {
        prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, &mut self.0);
        prost::encoding::encode_varint(bytes.len() as u64, &mut self.0);
        self.0.put_slice(bytes);
        self
    }

    pub(crate) fn number(mut self, tag: u32, number: u64) -> Self {
        prost::encoding::encode_key(tag, prost::encoding::WireType::Varint, &mut self.0);
        prost::encoding::encode_varint(number, &mut self.0);
        self
    }

    /// An entry of a map of text to text.
    pub(crate) fn entry(self, tag: u32, key: &str, value: &str) -> Self {
        self.message(tag, &Fields::default().text(1, key).text(2, value))
    }

    pub(crate) fn bytes(self) -> Bytes {
        self.0.freeze()
    }
}

/// The answers of an empty containerd.
pub(crate) fn bare_containerd(question: &str) -> Reply {
    let fields = Fields::default;
    match question {
        "Version/Version" => Reply::All(vec![fields().text(1, "v9.9.9").bytes()]),
        "Namespaces/List" => {
            let named = fields().text(1, "k8s.io");
            Reply::All(vec![fields().message(1, &named).bytes()])
        }
        "Introspection/Plugins" => {
            let plugin = fields()
                .text(1, "io.containerd.snapshotter.v1")
                .text(2, "overlayfs");
            Reply::All(vec![fields().message(1, &plugin).bytes()])
        }
        "Images/List" => Reply::empty(),
        "Containers/ListStream" | "Snapshots/List" | "Content/List" => Reply::nothing(),
        "Events/Subscribe" => Reply::Stuck(Vec::new()),
        _ => Reply::Code(UNIMPLEMENTED),
    }
}
