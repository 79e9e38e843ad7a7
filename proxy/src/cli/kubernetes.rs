//! The part of the Kubernetes API that the chart's containers need: over TLS, with the service account's token.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use rustls::pki_types::ServerName;
use serde_json::Value;

use super::socket::encoded;
use crate::client::{Direct, collect, trusting};

const CONNECT: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(10);

/// The most objects in one answer, and its most bytes. A pod has about 10 KB.
const PAGE: u32 = 250;
const MOST: u64 = 32 << 20;

pub(super) struct Api {
    connections: Direct,
    base: String,
    token: String,
    namespace: String,
}

impl Api {
    /// The API at `url`, or the one that the pod's environment names.
    pub(super) fn new(url: Option<&str>, account: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = account.join(name);
            let text = fs::read_to_string(&path);
            let text = text.with_context(|| format!("{} cannot be read", path.display()))?;
            Ok::<_, anyhow::Error>(text.trim().to_owned())
        };
        let base = match url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => of_this_cluster()?,
        };
        let uri: Uri = base.parse().with_context(|| format!("--api {base}"))?;
        let tls = if uri.scheme_str() == Some("https") {
            let host = uri.host().unwrap_or_default();
            let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
            Some((Arc::new(trusting(&account.join("ca.crt"))?), name))
        } else {
            None
        };
        Ok(Self {
            connections: Direct::new(tls, CONNECT),
            base,
            token: read("token")?,
            namespace: read("namespace")?,
        })
    }

    pub(super) async fn daemon_set(&self, name: &str) -> Result<Option<Value>> {
        let path = self.in_apps(&format!("daemonsets/{name}"));
        self.ask(Method::GET, &path, None).await
    }

    pub(super) async fn patch_daemon_set(&self, name: &str, patch: &Value) -> Result<()> {
        let path = self.in_apps(&format!("daemonsets/{name}"));
        let patched = self.ask(Method::PATCH, &path, Some(patch)).await?;
        patched.map(drop).context("there is no such DaemonSet yet")
    }

    pub(super) async fn delete_job(&self, name: &str) -> Result<()> {
        let path = format!(
            "/apis/batch/v1/namespaces/{}/jobs/{name}?propagationPolicy=Background",
            self.namespace
        );
        self.ask(Method::DELETE, &path, None).await.map(drop)
    }

    pub(super) async fn node(&self, name: &str) -> Result<Option<Value>> {
        let path = format!("/api/v1/nodes/{}", encoded(name));
        self.ask(Method::GET, &path, None).await
    }

    pub(super) async fn pods(&self, labels: &str) -> Result<Vec<Value>> {
        self.list("pods", "labelSelector", labels).await
    }

    /// The events about an object of this name.
    pub(super) async fn events(&self, of: &str) -> Result<Vec<Value>> {
        let selector = format!("involvedObject.name={of}");
        self.list("events", "fieldSelector", &selector).await
    }

    fn in_apps(&self, rest: &str) -> String {
        format!("/apis/apps/v1/namespaces/{}/{rest}", self.namespace)
    }

    /// All objects of a kind, in several answers, without the fields that only their writers need.
    async fn list(&self, kind: &str, selector: &str, value: &str) -> Result<Vec<Value>> {
        let path = format!(
            "/api/v1/namespaces/{}/{kind}?limit={PAGE}&{selector}={}",
            self.namespace,
            encoded(value)
        );
        let mut all = Vec::new();
        let mut more = String::new();
        loop {
            let page = format!("{path}{more}");
            let mut list = self
                .ask(Method::GET, &page, None)
                .await?
                .unwrap_or_default();
            if let Value::Array(mut items) = list["items"].take() {
                for item in &mut items {
                    item["metadata"]["managedFields"] = Value::Null;
                    item["spec"]["containers"] = Value::Null;
                    item["spec"]["initContainers"] = Value::Null;
                    item["spec"]["volumes"] = Value::Null;
                }
                all.append(&mut items);
            }
            match list["metadata"]["continue"].as_str() {
                Some(token) if !token.is_empty() => more = format!("&continue={}", encoded(token)),
                _ => return Ok(all),
            }
        }
    }

    /// The answer; `None` if the object does not exist.
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Option<Value>> {
        let what = format!("{method} {path}");
        let text = body.map(Value::to_string).unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::ACCEPT, "application/json");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/merge-patch+json");
        }
        let request = request.body(Full::new(Bytes::from(text)))?;
        let answer = tokio::time::timeout(ANSWER, self.connections.send(request)).await;
        let answer = answer.map_err(|_| anyhow!("{what}: no answer within {ANSWER:?}"))?;
        let answer = answer.with_context(|| what.clone())?;
        let status = answer.status();
        let body = collect(answer.into_body(), MOST, ANSWER).await;
        let body = body.map_err(|why| anyhow!("{what}: {why}"))?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        if !status.is_success() {
            let why = value["message"].as_str().unwrap_or("no reason given");
            bail!("{what}: {status}: {why}");
        }
        Ok(Some(value))
    }
}

/// The API of this pod's cluster, which Kubernetes names in every container's environment.
fn of_this_cluster() -> Result<String> {
    let named = |name: &str| {
        std::env::var(name).with_context(|| {
            format!("{name} is not set: this command runs in a pod of the cluster")
        })
    };
    let (host, port) = (
        named("KUBERNETES_SERVICE_HOST")?,
        named("KUBERNETES_SERVICE_PORT")?,
    );
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    Ok(format!("https://{host}:{port}"))
}
