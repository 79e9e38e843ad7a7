//! A bucket behind plain HTTP that misbehaves on demand.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// One request, as it was received.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) method: String,
    /// Without the bucket.
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
}

/// How the bucket misbehaves towards a request.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// No answer ever.
    Hang,
    /// This status, with this S3 error code.
    Status(u16, &'static str),
    /// The head and so many bytes of the body, and then nothing.
    StallAfter(usize),
    /// The head and so many bytes of the body, and then the end of the connection.
    CutAfter(usize),
}

type Choice = dyn Fn(&Asked) -> Option<Fault> + Send + Sync;

pub(super) struct Fake {
    pub(super) addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    count: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    parts: BTreeMap<usize, Vec<u8>>,
    asked: Vec<Asked>,
    fault: Option<Arc<Choice>>,
}

impl Fake {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            count: watch::channel(0).0,
        });
        let fake = Self {
            addr,
            shared: Arc::clone(&shared),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        fake
    }

    pub(super) fn fail(&self, choice: impl Fn(&Asked) -> Option<Fault> + Send + Sync + 'static) {
        self.state().fault = Some(Arc::new(choice));
    }

    pub(super) fn heal(&self) {
        self.state().fault = None;
    }

    pub(super) fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.state().objects.clone()
    }

    pub(super) fn put(&self, path: &str, bytes: &[u8]) {
        let bytes = bytes.to_vec();
        self.state().objects.insert(path.to_owned(), bytes);
    }

    /// The method and the first letters of the path of every request, with the name of its query if it has one.
    pub(super) fn asked(&self) -> Vec<String> {
        let line = |asked: &Asked| {
            let path = asked.path.rsplit('/').next().unwrap_or_default();
            let short = &path[..path.len().min(4)];
            match asked.query.split('=').next() {
                Some("") | None => format!("{} {short}", asked.method),
                Some(query) => format!("{} {short} {query}", asked.method),
            }
        };
        self.state().asked.iter().map(line).collect()
    }

    pub(super) fn last(&self) -> Asked {
        self.state().asked.last().cloned().unwrap()
    }

    /// Waits until so many requests have been received.
    pub(super) async fn received(&self, count: usize) {
        let mut seen = self.shared.count.subscribe();
        seen.wait_for(|seen| *seen >= count).await.unwrap();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    while let Some(asked) = receive(&mut stream).await {
        let (fault, answer) = {
            let mut state = shared.state.lock().unwrap();
            state.asked.push(asked.clone());
            let fault = state.fault.clone().and_then(|choice| choice(&asked));
            let refused = matches!(fault, Some(Fault::Hang | Fault::Status(..)));
            let answer = (!refused).then(|| state.answer(&asked));
            (fault, answer)
        };
        shared.count.send_modify(|count| *count += 1);
        let is_head = asked.method == "HEAD";
        let (status, headers, body) = match (&fault, answer) {
            (Some(Fault::Status(status, word)), _) => (
                *status,
                String::new(),
                format!("<Error><Code>{word}</Code></Error>").into_bytes(),
            ),
            (_, Some(answer)) => answer,
            _ => std::future::pending().await,
        };
        let head = format!(
            "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nlast-modified: Sun, 22 Nov 2026 10:00:00 GMT\r\n{headers}\r\n",
            body.len()
        );
        let sent: &[u8] = match fault {
            _ if is_head => &[],
            Some(Fault::StallAfter(n) | Fault::CutAfter(n)) => &body[..n.min(body.len())],
            _ => &body,
        };
        let whole = [head.as_bytes(), sent].concat();
        if stream.write_all(&whole).await.is_err() {
            return;
        }
        match fault {
            Some(Fault::StallAfter(_)) => std::future::pending().await,
            Some(Fault::CutAfter(_)) => return,
            _ => {}
        }
    }
}

async fn receive(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?);
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers
        .get("content-length")
        .map_or(0, |l| l.parse().unwrap());
    let mut body = bytes[end + 4..].to_vec();
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Some(Asked {
        method,
        path: path.strip_prefix("/bucket/")?.to_owned(),
        query: query.to_owned(),
        headers,
        body,
    })
}

type ObjectAnswer = (u16, String, Vec<u8>);

impl State {
    fn answer(&mut self, asked: &Asked) -> ObjectAnswer {
        let plain = |status| (status, String::new(), Vec::new());
        let tagged = |status| (status, "etag: \"e\"\r\n".to_owned(), Vec::new());
        match (asked.method.as_str(), asked.query.as_str()) {
            ("GET" | "HEAD", _) => {
                let Some(object) = self.objects.get(&asked.path) else {
                    return plain(404);
                };
                ranged(object, asked.headers.get("range").map(String::as_str))
            }
            ("PUT", "") => {
                let create = asked.headers.get("if-none-match").is_some_and(|v| v == "*");
                if create && self.objects.contains_key(&asked.path) {
                    return plain(412);
                }
                self.objects.insert(asked.path.clone(), asked.body.clone());
                tagged(200)
            }
            ("PUT", query) => {
                let number = query
                    .split('&')
                    .find_map(|pair| pair.strip_prefix("partNumber="))
                    .unwrap();
                self.parts
                    .insert(number.parse().unwrap(), asked.body.clone());
                tagged(200)
            }
            ("POST", query) if query.starts_with("uploads") => {
                self.parts.clear();
                let text = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
                (200, String::new(), text.into())
            }
            ("POST", _) => {
                let whole = std::mem::take(&mut self.parts).into_values().flatten();
                self.objects.insert(asked.path.clone(), whole.collect());
                let text =
                    "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>";
                (200, String::new(), text.into())
            }
            ("DELETE", _) => {
                self.parts.clear();
                plain(204)
            }
            _ => plain(400),
        }
    }
}

fn ranged(object: &[u8], range: Option<&str>) -> ObjectAnswer {
    let Some((start, end)) = range.and_then(|r| r.strip_prefix("bytes=")?.split_once('-')) else {
        return (200, "etag: \"e\"\r\n".to_owned(), object.to_vec());
    };
    let start: usize = start.parse().unwrap();
    let end = end.parse().map_or(object.len(), |end: usize| end + 1);
    let end = end.min(object.len());
    if start >= end {
        return (416, String::new(), Vec::new());
    }
    let head = format!(
        "etag: \"e\"\r\ncontent-range: bytes {start}-{}/{}\r\n",
        end - 1,
        object.len()
    );
    (206, head, object[start..end].to_vec())
}
