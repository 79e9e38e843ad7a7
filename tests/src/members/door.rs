//! How a client on one node pulls: at the node's address, as a runtime does, with a clock and a hash on every body.

use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256, SHA512};
use data_encoding::{BASE64, HEXLOWER};
use futures_util::future::BoxFuture;

use crate::fake::Content;
use crate::hosts::Host;
use crate::http::{Call, Response, Stream};
use crate::node::Node;
use crate::scene::{Compared, compare};

/// How long one body may take.
const BODY: Duration = Duration::from_mins(3);

/// The result of a body that was right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Got {
    /// Body bytes.
    pub bytes: u64,
    /// From the request to the last byte.
    pub took: Duration,
    /// The longest silence after the head.
    pub longest_gap: Duration,
}

impl Got {
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            took: self.took.max(other.took),
            longest_gap: self.longest_gap.max(other.longest_gap),
        }
    }
}

/// A repository at one node, and the client that asks. Clones are the same client.
#[derive(Clone, Debug)]
pub struct Door {
    host: Option<Host>,
    url: String,
    registry: String,
    repository: String,
    authorization: Option<String>,
    /// The registry's name in paths; without it, `ns` names the registry.
    alias: Option<String>,
}

impl Door {
    /// A client without credentials that pulls from this repository through `node`.
    pub fn of(node: &Node, registry: &str, repository: &str) -> Self {
        Self {
            host: node.host().cloned(),
            url: node.url(),
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            authorization: None,
            alias: None,
        }
    }

    /// The same by prefix addressing: the path begins with the configuration's alias for the registry.
    #[must_use]
    pub fn by_alias(mut self, alias: &str) -> Self {
        self.alias = Some(alias.to_owned());
        self
    }

    /// The same client, which sends this `Authorization` from now on.
    #[must_use]
    pub fn showing(mut self, authorization: &str) -> Self {
        self.authorization = Some(authorization.to_owned());
        self
    }

    /// Logs in as a runtime with a pull secret: asks for this manifest, and when challenged, gets a token with the
    /// secret. Gives the door of a client with that token, or the refusal of the token endpoint.
    pub async fn login(self, user: &str, password: &str, reference: &str) -> Result<Self, String> {
        let head = self.call("HEAD", &format!("manifests/{reference}"));
        let first = self.answer(head).await?;
        if first.status != 401 {
            return Err(format!("{} and no challenge", first.status));
        }
        self.answering(&first, Some((user, password))).await
    }

    /// The same after an answer with a challenge; without a secret, by an anonymous token. For a challenge without a
    /// scope, the client asks for the repository's name as in paths, as containers/image does.
    pub async fn answering(
        self,
        challenged: &Response,
        secret: Option<(&str, &str)>,
    ) -> Result<Self, String> {
        let challenge = challenged.header("www-authenticate").unwrap_or_default();
        let field = |name: &str| {
            let (_, rest) = challenge.split_once(&format!("{name}=\""))?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        let (Some(realm), Some(service)) = (field("realm"), field("service")) else {
            let status = challenged.status;
            return Err(format!("{status} and no challenge: {challenge}"));
        };
        let named = || format!("repository:{}:pull", self.path());
        let scope = field("scope").unwrap_or_else(named);
        let mut call = Call::get(format!("{realm}?service={service}&scope={scope}"));
        if let Some((user, password)) = secret {
            let pair = BASE64.encode(format!("{user}:{password}").as_bytes());
            call = call.header("authorization", &format!("Basic {pair}"));
        }
        let answer = self.near(call.send()).await;
        let answer = answer.map_err(|error| format!("{error:#}"))?;
        if answer.status != 200 {
            return Err(format!("no token: {} {}", answer.status, answer.text()));
        }
        let token = answer.json()["token"].as_str().map(str::to_owned);
        let token = token.ok_or("an answer without a token")?;
        Ok(self.showing(&format!("Bearer {token}")))
    }

    /// Any request below the repository, such as `blobs/…`.
    pub fn call(&self, method: &str, rest: &str) -> Call {
        let ns = match self.alias {
            Some(_) => String::new(),
            None => format!("?ns={}", self.registry),
        };
        self.authorized(Call::new(
            method,
            format!("{}/v2/{}/{rest}{ns}", self.url, self.path()),
        ))
    }

    /// The repository as paths name it.
    fn path(&self) -> String {
        match &self.alias {
            Some(alias) => format!("{alias}/{}", self.repository),
            None => self.repository.clone(),
        }
    }

    fn authorized(&self, call: Call) -> Call {
        match &self.authorization {
            Some(authorization) => call.header("authorization", authorization),
            None => call,
        }
    }

    /// Whether the client sends an `Authorization`.
    pub(crate) fn shows(&self) -> bool {
        self.authorization.is_some()
    }

    /// GETs `/v2/`.
    pub async fn ping(&self) -> Result<Response, String> {
        self.answer(self.authorized(Call::get(format!("{}/v2/", self.url))))
            .await
    }

    /// Sends a call from the client's place, and reads the answer to its end.
    pub async fn answer(&self, call: Call) -> Result<Response, String> {
        let answer = self.near(call.send()).await;
        answer.map_err(|error| format!("{error:#}"))
    }

    /// GETs and waits for the head.
    pub async fn open(&self, rest: &str, headers: &[(&str, &str)]) -> Result<Stream, String> {
        let call = self.with(rest, headers);
        let opened = self.near(call.open()).await;
        opened.map_err(|error| format!("{error:#}"))
    }

    /// GETs and reads to the end.
    pub async fn get(&self, rest: &str, headers: &[(&str, &str)]) -> Result<Response, String> {
        self.answer(self.with(rest, headers)).await
    }

    /// GETs a blob to its end. An error unless all of it came and has the right digest.
    pub async fn blob(&self, digest: &str) -> Result<Got, String> {
        self.blob_with(digest, &[]).await
    }

    /// The same with more headers.
    pub async fn blob_with(&self, digest: &str, headers: &[(&str, &str)]) -> Result<Got, String> {
        let call = self.with(&format!("blobs/{digest}"), headers);
        let digest = digest.to_owned();
        let reading = async move {
            let opened = call.open().await;
            let mut stream = opened.map_err(|error| format!("{error:#}"))?;
            measure(&mut stream, &digest, |_| {}).await
        };
        self.near(reading).await
    }

    /// GETs a part of a blob and compares it with the right content.
    pub async fn part(
        &self,
        digest: &str,
        content: &Content,
        range: &str,
        wanted: std::ops::Range<u64>,
    ) -> Result<(), String> {
        let mut stream = self
            .open(&format!("blobs/{digest}"), &[("range", range)])
            .await?;
        if stream.status != 206 {
            return Err(format!("{range}: {}", stream.status));
        }
        let compared = compare(&mut stream, content, wanted.clone()).await;
        if compared == Compared::whole(wanted.end - wanted.start) {
            Ok(())
        } else {
            Err(format!("{range}: {compared:?}"))
        }
    }

    fn with(&self, rest: &str, headers: &[(&str, &str)]) -> Call {
        let with = |call: Call, (name, value): &(&str, &str)| call.header(name, value);
        headers.iter().fold(self.call("GET", rest), with)
    }

    fn near<T, F>(&self, future: F) -> BoxFuture<'_, T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        match &self.host {
            Some(host) => Box::pin(host.run(future)),
            None => Box::pin(future),
        }
    }
}

/// Reads a body to its end, and reports after each piece how much has come. An error unless the answer was 200, and all
/// of it came and has this digest.
pub async fn measure(
    stream: &mut Stream,
    digest: &str,
    mut came: impl FnMut(u64),
) -> Result<Got, String> {
    let algorithm = match digest.split_once(':') {
        Some(("sha512", _)) => &SHA512,
        _ => &SHA256,
    };
    let mut hash = Context::new(algorithm);
    let start = Instant::now();
    let mut last = start;
    let mut got = Got::default();
    if stream.status != 200 {
        return Err(format!("{digest}: {}", stream.status));
    }
    loop {
        let chunk = stream.next_chunk().await;
        let now = Instant::now();
        got.longest_gap = got.longest_gap.max(now - last);
        match chunk {
            Ok(Some(chunk)) => {
                got.bytes += chunk.len() as u64;
                hash.update(&chunk);
                came(got.bytes);
                // The caller's own work is no silence of the node.
                last = Instant::now();
            }
            Ok(None) => break,
            Err(error) => return Err(format!("{digest}: {error} after {}", got.bytes)),
        }
        if start.elapsed() > BODY {
            return Err(format!("{digest}: {} after {BODY:?}", got.bytes));
        }
    }
    got.took = start.elapsed();
    let (_, wanted) = digest.split_once(':').unwrap_or_default();
    if HEXLOWER.encode(hash.finish().as_ref()) != wanted {
        return Err(format!("{digest}: {} bytes of something else", got.bytes));
    }
    Ok(got)
}
