//! The registry as the suite sees it: pushes go into the fake registry, reads come through larder.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_RANGE, CONTENT_TYPE, HOST, LOCATION, RANGE, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use larder_tests::fake::{Algorithm, Content, FakeRegistry};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

type Answer = Response<Full<Bytes>>;

/// Ends when it is dropped.
pub(super) struct Front {
    pub(super) addr: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Front {
    /// A front before `fake`, which `larder` mirrors. With an alias, all names begin with it, since larder knows the
    /// registry by it. Without one, requests to larder name the registry in `ns`.
    pub(super) async fn start(
        fake: Arc<FakeRegistry>,
        larder: SocketAddr,
        alias: Option<&'static str>,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let desk = Arc::new(Desk {
            fake,
            larder,
            alias,
            uploads: Mutex::default(),
        });
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let desk = Arc::clone(&desk);
                connections.spawn(async move {
                    let answer = service_fn(|request| {
                        let desk = Arc::clone(&desk);
                        async move { Ok::<_, Infallible>(desk.answer(request).await) }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    // The suite may break off.
                    let _ = http.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Ok(Self { addr, accepting })
    }
}

struct Desk {
    fake: Arc<FakeRegistry>,
    larder: SocketAddr,
    alias: Option<&'static str>,
    uploads: Mutex<Uploads>,
}

#[derive(Default)]
struct Uploads {
    /// By id.
    begun: HashMap<String, Vec<u8>>,
    /// By repository and digest.
    blobs: HashMap<(String, String), Bytes>,
}

impl Desk {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes);
        let body = body.unwrap_or_default();
        let path = head.uri.path().to_owned();
        let place = path.strip_prefix("/v2/").unwrap_or_default();
        let write = !matches!(head.method, Method::GET | Method::HEAD);
        if let Some((repository, id)) = place.split_once("/blobs/uploads/") {
            return self.upload(&head, repository, id, &body);
        }
        match place.split_once("/manifests/") {
            Some((repository, reference)) if head.method == Method::PUT => {
                self.manifest(&head, repository, reference, body)
            }
            _ if write => refusal(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
            _ => self.read(head).await.unwrap_or_else(|error| {
                let said = format!("larder: {error:#}");
                refusal(StatusCode::BAD_GATEWAY, &said)
            }),
        }
    }

    /// The same request to larder.
    async fn read(&self, head: Parts) -> Result<Answer> {
        let stream = TcpStream::connect(self.larder).await?;
        let (mut larder, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let uri = if self.alias.is_some() {
            head.uri
        } else {
            let query = head.uri.query().map(|query| format!("{query}&"));
            let (path, query) = (head.uri.path(), query.unwrap_or_default());
            format!("{path}?{query}ns={}", self.fake.host()).parse()?
        };
        let mut request = Request::new(Full::<Bytes>::default());
        *request.method_mut() = head.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = head.headers;
        let host = self.larder.to_string().parse()?;
        request.headers_mut().insert(HOST, host);
        let (mut answer, body) = larder.send_request(request).await?.into_parts();
        let body = body.collect().await.context("a body that ends short")?;
        connection.abort();
        for of_the_hop in [CONNECTION, TRANSFER_ENCODING] {
            answer.headers.remove(of_the_hop);
        }
        Ok(Response::from_parts(answer, Full::new(body.to_bytes())))
    }

    fn upload(&self, head: &Parts, repository: &str, id: &str, body: &Bytes) -> Answer {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let parameter = |name| parameter(head, name);
        if head.method == Method::POST && id.is_empty() {
            if let Some(digest) = parameter("digest") {
                return self.commit(&mut uploads, repository, &digest, body.clone());
            }
            if let Some(digest) = parameter("mount")
                && let Some(blob) = uploads.find(parameter("from").as_deref(), &digest)
            {
                return self.commit(&mut uploads, repository, &digest, blob);
            }
            let id = format!("{:016x}", fastrand::u64(..));
            uploads.begun.insert(id.clone(), Vec::new());
            return under_way(StatusCode::ACCEPTED, repository, &id, 0);
        }
        let Some(upload) = uploads.begun.get_mut(id) else {
            return refusal(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN");
        };
        if matches!(head.method, Method::PATCH | Method::PUT) {
            let range = head.headers.get(CONTENT_RANGE);
            let start =
                range.and_then(|range| range.to_str().ok()?.split('-').next()?.parse().ok());
            if start.is_some_and(|start: usize| start != upload.len()) {
                let reached = upload.len();
                return under_way(StatusCode::RANGE_NOT_SATISFIABLE, repository, id, reached);
            }
            upload.extend_from_slice(body);
        }
        let reached = upload.len();
        match head.method {
            Method::PATCH => under_way(StatusCode::ACCEPTED, repository, id, reached),
            Method::GET => under_way(StatusCode::NO_CONTENT, repository, id, reached),
            Method::PUT => {
                let digest = parameter("digest").unwrap_or_default();
                let bytes = uploads.begun.remove(id).unwrap_or_default();
                self.commit(&mut uploads, repository, &digest, bytes.into())
            }
            Method::DELETE => {
                uploads.begun.remove(id);
                answer(StatusCode::NO_CONTENT, &[])
            }
            _ => refusal(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
        }
    }

    fn commit(&self, uploads: &mut Uploads, repository: &str, digest: &str, blob: Bytes) -> Answer {
        let content = Content::bytes(blob.clone());
        let right = algorithm(digest).is_some_and(|algorithm| content.digest(algorithm) == digest);
        if !right {
            return refusal(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
        }
        self.fake
            .put_blob_under(self.own(repository), digest, &content);
        let key = (repository.to_owned(), digest.to_owned());
        uploads.blobs.insert(key, blob);
        let location = format!("/v2/{repository}/blobs/{digest}");
        let headers = [
            (LOCATION.as_str(), &*location),
            ("docker-content-digest", digest),
        ];
        answer(StatusCode::CREATED, &headers)
    }

    /// A repository's name in the registry itself.
    fn own<'a>(&self, repository: &'a str) -> &'a str {
        let alias = self.alias.and_then(|alias| repository.strip_prefix(alias));
        alias.map_or(repository, |rest| rest.trim_start_matches('/'))
    }

    fn manifest(&self, head: &Parts, repository: &str, reference: &str, bytes: Bytes) -> Answer {
        let json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let named = reference.contains(':').then_some(reference);
        let algorithm = match named {
            None => Some(Algorithm::Sha256),
            Some(digest) => algorithm(digest),
        };
        let digest = algorithm.map(|one| Content::bytes(bytes.clone()).digest(one));
        let (Some(algorithm), Some(digest)) = (algorithm, digest) else {
            return refusal(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
        };
        if named.is_some_and(|named| named != digest) {
            return refusal(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
        }
        if !json.is_object() {
            return refusal(StatusCode::BAD_REQUEST, "MANIFEST_INVALID");
        }
        let media_type = head.headers.get(CONTENT_TYPE);
        let media_type = media_type.and_then(|one| one.to_str().ok());
        let tag = named.is_none().then_some(reference);
        self.fake.put_manifest_as(
            self.own(repository),
            algorithm,
            tag,
            media_type.unwrap_or_default(),
            bytes,
        );
        let location = format!("/v2/{repository}/manifests/{digest}");
        let mut headers = vec![
            (LOCATION.as_str(), &*location),
            ("docker-content-digest", &digest),
        ];
        let subject = json["subject"]["digest"].as_str();
        headers.extend(subject.map(|subject| ("oci-subject", subject)));
        answer(StatusCode::CREATED, &headers)
    }
}

impl Uploads {
    fn find(&self, from: Option<&str>, digest: &str) -> Option<Bytes> {
        let mut blobs = self.blobs.iter();
        let found = blobs.find(|((repository, known), _)| {
            known == digest && from.is_none_or(|from| from == repository)
        });
        found.map(|(_, blob)| blob.clone())
    }
}

fn algorithm(digest: &str) -> Option<Algorithm> {
    match digest.split_once(':')?.0 {
        "sha256" => Some(Algorithm::Sha256),
        "sha512" => Some(Algorithm::Sha512),
        _ => None,
    }
}

fn parameter(head: &Parts, name: &str) -> Option<String> {
    let mut pairs = head
        .uri
        .query()?
        .split('&')
        .filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(value.replace("%3A", ":").replace("%2F", "/"))
}

fn under_way(status: StatusCode, repository: &str, id: &str, reached: usize) -> Answer {
    let location = format!("/v2/{repository}/blobs/uploads/{id}");
    let range = format!("0-{}", reached.saturating_sub(1));
    answer(
        status,
        &[(LOCATION.as_str(), &location), (RANGE.as_str(), &range)],
    )
}

fn answer(status: StatusCode, headers: &[(&str, &str)]) -> Answer {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    answer
        .body(Full::default())
        .expect("headers that are right")
}

fn refusal(status: StatusCode, code: &str) -> Answer {
    let body = json!({"errors": [{"code": code, "message": "refused"}]}).to_string();
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer
}
