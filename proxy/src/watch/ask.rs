//! One connection to a runtime's socket, and questions over it: gRPC, each within its time.

use std::{
    future::Future,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, uri::PathAndQuery};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use larder_shared::runtime::Software;
use tokio::{net::UnixStream, task::JoinHandle, time::timeout};
use tonic::{Code, Status, Streaming, body::Body, client::Grpc, metadata::MetadataValue};
use tonic_prost::ProstCodec;

use super::{
    trouble::Trouble,
    wire::{Empty, containerd, cri},
};

/// The header that tells containerd which namespace a request is about.
const NAMESPACE: &str = "containerd-namespace";

/// How much a runtime may send before it waits for this process to read on.
const WINDOW: u32 = 128 * 1024;

/// containerd sends no message larger than this.
const LARGEST: usize = 16 * 1024 * 1024;

/// What kind of runtime answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// containerd's own API, and whether its CRI plugin answers too.
    Containerd { cri: bool },
    /// The CRI alone, as of CRI-O.
    Cri,
}

/// A runtime that is connected.
#[derive(Debug)]
pub struct Runtime {
    http: Http2,
    limit: Duration,
    connection: JoinHandle<()>,
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // A runtime that hangs would keep the connection open for ever otherwise.
        self.connection.abort();
    }
}

impl Runtime {
    /// Connects. Each question may then take `limit`.
    pub async fn connect(socket: &Path, limit: Duration) -> Result<Self, Trouble> {
        let stream = timeout(limit, UnixStream::connect(socket))
            .await
            .map_err(|_| Trouble::Hangs("connect"))?
            .map_err(|error| Trouble::of_connecting(socket, &error))?;
        let handshake = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(2 * WINDOW)
            .handshake(TokioIo::new(stream));
        let (sender, connection) = timeout(limit, handshake)
            .await
            .map_err(|_| Trouble::Hangs("connect"))?
            .map_err(|_| Trouble::NotARuntime)?;
        let connection = tokio::spawn(async move {
            // If the connection fails, the question that is under way fails too, and reports it.
            let _ = connection.await;
        });
        Ok(Self {
            http: Http2(sender),
            limit,
            connection,
        })
    }

    /// Finds out which kind of runtime it is, and its version.
    pub async fn identify(&self) -> Result<(Kind, Software), Trouble> {
        let ours: Result<containerd::VersionResponse, _> =
            self.one(containerd::VERSION, "", Empty {}).await;
        let told = match ours {
            Ok(answer) => Some(answer.version),
            Err(Trouble::Closed(_)) => return Err(Trouble::NotARuntime),
            Err(trouble) if trouble.code() == Some(Code::Unimplemented) => None,
            Err(trouble) => return Err(trouble),
        };
        let other: Result<cri::VersionResponse, _> = self.one(cri::VERSION, "", Empty {}).await;
        let other = match other {
            Ok(answer) => Some(answer),
            Err(trouble) if trouble.code() == Some(Code::Unimplemented) => None,
            Err(trouble) => return Err(trouble),
        };
        match (told, other) {
            (Some(version), other) => Ok((
                Kind::Containerd {
                    cri: other.is_some(),
                },
                Software {
                    name: "containerd".to_owned(),
                    version,
                },
            )),
            (None, Some(cri)) => Ok((
                Kind::Cri,
                Software {
                    name: cri.runtime_name,
                    version: cri.runtime_version,
                },
            )),
            (None, None) => Err(Trouble::NotARuntime),
        }
    }

    /// Whether the runtime has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.http.0.is_closed()
    }

    /// A question with one answer. With an empty `namespace`, no namespace is named.
    pub async fn one<Q, A>(
        &self,
        question: &'static str,
        namespace: &str,
        request: Q,
    ) -> Result<A, Trouble>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        let asked = async {
            grpc.ready().await.map_err(closed)?;
            let path = PathAndQuery::from_static(question);
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(asking(request, namespace), path, codec).await
        };
        let answer = timeout(self.limit, asked).await;
        let answer = answer.map_err(|_| Trouble::Hangs(question))?;
        Ok(answer
            .map_err(|status| refused(question, &status))?
            .into_inner())
    }

    /// A question with many answers.
    pub async fn many<Q, A>(
        &self,
        question: &'static str,
        namespace: &str,
        request: Q,
    ) -> Result<Answers<A>, Trouble>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let opened = self.open(question, namespace, request);
        let stream = timeout(self.limit, opened).await;
        let stream = stream.map_err(|_| Trouble::Hangs(question))?;
        Ok(Answers {
            question,
            limit: self.limit,
            stream: stream.map_err(|status| refused(question, &status))?,
        })
    }

    /// A stream of answers without a time limit, because a runtime opens the stream only with its first answer.
    pub fn open<Q, A>(
        &self,
        question: &'static str,
        namespace: &str,
        request: Q,
    ) -> impl Future<Output = Result<Streaming<A>, Status>> + use<Q, A>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        let request = asking(request, namespace);
        async move {
            grpc.ready().await.map_err(closed)?;
            let path = PathAndQuery::from_static(question);
            let codec = ProstCodec::<Q, A>::default();
            let answer = grpc.server_streaming(request, path, codec).await?;
            Ok(answer.into_inner())
        }
    }

    fn grpc(&self) -> Grpc<Http2> {
        Grpc::with_origin(
            self.http.clone(),
            http::Uri::from_static("http://localhost"),
        )
        .max_decoding_message_size(LARGEST)
    }
}

fn asking<Q>(request: Q, namespace: &str) -> tonic::Request<Q> {
    let mut request = tonic::Request::new(request);
    // A name with characters that no header can hold is not the name of a namespace.
    if let (false, Ok(value)) = (namespace.is_empty(), MetadataValue::try_from(namespace)) {
        request.metadata_mut().insert(NAMESPACE, value);
    }
    request
}

fn closed(error: hyper::Error) -> Status {
    Status::from_error(Box::new(error))
}

fn refused(question: &'static str, status: &Status) -> Trouble {
    // An error of the connection has a source; a refusal by the runtime has none.
    if std::error::Error::source(status).is_some() {
        return Trouble::Closed(question);
    }
    Trouble::Refused {
        question,
        code: status.code(),
        message: status.message().to_owned(),
    }
}

/// The answers to a question, as they come.
#[derive(Debug)]
pub struct Answers<A> {
    question: &'static str,
    limit: Duration,
    stream: Streaming<A>,
}

impl<A> Answers<A> {
    /// The next one; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<A>, Trouble> {
        let next = timeout(self.limit, self.stream.message()).await;
        let next = next.map_err(|_| Trouble::Hangs(self.question))?;
        next.map_err(|status| refused(self.question, &status))
    }
}

/// A connection as a service of gRPC.
#[derive(Clone, Debug)]
struct Http2(http2::SendRequest<Body>);

impl tower::Service<Request<Body>> for Http2 {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
