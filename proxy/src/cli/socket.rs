//! How commands reach the running larder: one request over its admin socket.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;

use crate::config::Config;

/// Where the running larder is found.
#[derive(Clone, Debug, clap::Args)]
pub struct SocketArgs {
    /// The admin socket of the running larder.
    #[arg(long, env = "LARDER_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The configuration file, which may name the socket.
    #[arg(long, env = "LARDER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// For a query.
pub fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// The daemon's answer.
pub fn read<T: DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    serde_json::from_str(text)
        .context("the daemon's answer cannot be read; is it of another version?")
}

/// One request over the admin socket.
pub fn ask(args: &SocketArgs, method: Method, path: &str) -> anyhow::Result<String> {
    ask_showing(args, method, path, HeaderMap::new())
}

/// The same with more headers.
pub fn ask_showing(
    args: &SocketArgs,
    method: Method,
    path: &str,
    headers: HeaderMap,
) -> anyhow::Result<String> {
    let socket = match &args.socket {
        Some(socket) => socket.clone(),
        None => Config::load(args.config.as_deref())?.admin.socket,
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(ask_at(&socket, method, path, headers))
}

async fn ask_at(
    socket: &Path,
    method: Method,
    path: &str,
    headers: HeaderMap,
) -> anyhow::Result<String> {
    let stream = tokio::net::UnixStream::connect(socket).await.with_context(|| {
        format!(
            "no larder answers on {}; is `larder serve` running, and is this its socket? (--socket PATH or LARDER_SOCKET)",
            socket.display()
        )
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "larder")
        .body(Empty::<Bytes>::new())?;
    request.headers_mut().extend(headers);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    if !status.is_success() {
        bail!("{}", text.trim());
    }
    Ok(text)
}
