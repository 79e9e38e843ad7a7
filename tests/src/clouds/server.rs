//! The base of all these fakes: a small HTTP server that notes every request, and whose mood a test sets.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinHandle, JoinSet};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// Without the `?`; empty if there is none.
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Asked {
    /// The one header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn new(status: u16, content_type: &str, body: impl Into<String>) -> Self {
        Self {
            status,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            body: body.into(),
        }
    }

    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// How a server behaves.
#[derive(Clone, Debug, Default)]
pub enum Mood {
    /// It answers correctly.
    #[default]
    Well,
    /// It accepts requests and never answers, as when a reply packet is lost.
    Silent,
    /// It answers every request with this.
    Says(Reply),
}

/// A server's answer to a request; the error says what is wrong with the request.
type Answering = dyn Fn(&Asked) -> Result<Reply, String> + Send + Sync;

#[derive(Default)]
struct State {
    mood: Mood,
    asked: Vec<Asked>,
    wrong: Vec<String>,
}

struct Inner {
    name: &'static str,
    answer: Box<Answering>,
    state: Mutex<State>,
}

/// A server on a loopback port. It ends when dropped.
pub struct CloudServer {
    addr: SocketAddr,
    inner: Arc<Inner>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for CloudServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.inner.name, self.addr)
    }
}

impl CloudServer {
    /// Starts a server with these answers.
    pub async fn start(
        name: &'static str,
        answer: impl Fn(&Asked) -> Result<Reply, String> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let inner = Arc::new(Inner {
            name,
            answer: Box::new(answer),
            state: Mutex::default(),
        });
        Self {
            addr: listener.local_addr().expect("an address"),
            accepting: Mutex::new(Some(tokio::spawn(accept(listener, Arc::clone(&inner))))),
            inner,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    pub fn mood(&self, mood: Mood) {
        self.inner.state().mood = mood;
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.inner.state().asked.clone()
    }

    /// How many requests of this path came.
    pub fn count(&self, path: &str) -> usize {
        self.asked()
            .iter()
            .filter(|asked| asked.path == path)
            .count()
    }

    /// Fails if a request had another form than the real server takes.
    pub fn assert_exact(&self) {
        let wrong = self.inner.state().wrong.clone();
        assert!(wrong.is_empty(), "{self:?} was asked wrongly: {wrong:#?}");
    }

    /// Closes the port and all connections: from then on connections are refused.
    pub async fn stop(&self) {
        let accepting = self
            .accepting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(accepting) = accepting {
            accepting.abort();
            // The task ends by being cancelled, which is no error here.
            let _ = accepting.await;
        }
    }

    /// Listens on the same port again.
    pub async fn start_again(&self) {
        self.stop().await;
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket
            .bind(self.addr)
            .expect("the port that was bound before");
        let listener = socket.listen(64).expect("a listener");
        let accepting = tokio::spawn(accept(listener, Arc::clone(&self.inner)));
        *self
            .accepting
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(accepting);
    }
}

impl Drop for CloudServer {
    fn drop(&mut self) {
        let accepting = self
            .accepting
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(accepting) = accepting {
            accepting.abort();
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: there is never an answer.
    fn reply(&self, asked: &Asked) -> Option<Reply> {
        let mood = {
            let mut state = self.state();
            state.asked.push(asked.clone());
            state.mood.clone()
        };
        match mood {
            Mood::Silent => None,
            Mood::Says(reply) => Some(reply),
            Mood::Well => Some((self.answer)(asked).unwrap_or_else(|wrong| {
                let line = format!("{} {}: {wrong}", asked.method, asked.path);
                self.state().wrong.push(line.clone());
                Reply::new(400, "text/plain", line)
            })),
        }
    }
}

/// Connections end with the task that accepts them.
async fn accept(listener: TcpListener, inner: Arc<Inner>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let inner = Arc::clone(&inner);
        connections.spawn(async move {
            let answer = service_fn(|request: Request<hyper::body::Incoming>| {
                let inner = Arc::clone(&inner);
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.map(Collected::to_bytes);
                    let asked = Asked {
                        method: parts.method.to_string(),
                        path: parts.uri.path().to_owned(),
                        query: parts.uri.query().unwrap_or_default().to_owned(),
                        headers: parts.headers,
                        body: body.unwrap_or_default(),
                    };
                    let Some(reply) = inner.reply(&asked) else {
                        std::future::pending::<()>().await;
                        unreachable!("it is pending for ever");
                    };
                    let mut response = Response::builder().status(reply.status);
                    for (name, value) in &reply.headers {
                        response = response.header(name, value);
                    }
                    let response = response.body(Full::new(Bytes::from(reply.body)));
                    Ok::<_, Infallible>(response.expect("a response"))
                }
            });
            let http = hyper::server::conn::http1::Builder::new();
            // A client that breaks off is not the server's concern.
            let _ = http.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}
