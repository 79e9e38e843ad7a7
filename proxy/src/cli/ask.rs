//! Commands that ask the running larder over its admin socket.

use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use larder_shared::admin::{Explanation, Status};
use serde::de::DeserializeOwned;

use super::{
    SocketArgs,
    show::{say, size},
};
use crate::config::Config;

#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    socket: SocketArgs,
}

#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// The image, as in a pod: `nginx`, `ghcr.io/owner/app:v1`, `quay.io/a/b@sha256:…`
    #[arg(value_name = "REF")]
    image: String,
    #[command(flatten)]
    socket: SocketArgs,
}

pub fn status(args: &StatusArgs) -> anyhow::Result<u8> {
    let text = get(&args.socket, "/status")?;
    if args.socket.json {
        say(&text);
        return Ok(0);
    }
    let status: Status = read(&text)?;
    say(&format!(
        "larder {}, up {} s",
        status.version, status.uptime_seconds
    ));
    say(&format!("registry   http://{}", status.listen.registry));
    if let Some(telemetry) = &status.listen.telemetry {
        say(&format!("telemetry  http://{telemetry}"));
    }
    let store = &status.store;
    say(&format!(
        "store      {}: {} blobs, {} of at most {}, {} free on the file system",
        store.path,
        store.blobs,
        size(store.bytes),
        size(store.max_bytes),
        size(store.free_bytes)
    ));
    say(&format!(
        "served     {} requests: {} from this node, {} from upstreams",
        status.served.requests,
        size(status.served.node_bytes),
        size(status.served.upstream_bytes)
    ));
    for upstream in &status.upstreams {
        say(&format!(
            "upstream   {} at {}",
            upstream.registry,
            upstream.endpoints.join(", then ")
        ));
    }
    for fill in &status.fills {
        let of = fill.size_bytes.map_or("unknown".to_owned(), size);
        say(&format!(
            "fill       {}: {} of {of}, {} readers",
            fill.digest,
            size(fill.present_bytes),
            fill.readers
        ));
    }
    Ok(0)
}

pub fn explain(args: &ExplainArgs) -> anyhow::Result<u8> {
    let image: String = url::form_urlencoded::byte_serialize(args.image.as_bytes()).collect();
    let text = get(&args.socket, &format!("/explain?ref={image}"))?;
    if args.socket.json {
        say(&text);
        return Ok(0);
    }
    let explanation: Explanation = read(&text)?;
    say(&explanation.image);
    for step in &explanation.steps {
        say(&format!(
            "  {:<10} {:<10} {}",
            step.step, step.outcome, step.detail
        ));
    }
    Ok(0)
}

fn read<T: DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    serde_json::from_str(text)
        .context("the daemon's answer cannot be read; is it of another version?")
}

/// One GET over the admin socket.
fn get(args: &SocketArgs, path: &str) -> anyhow::Result<String> {
    let socket = match &args.socket {
        Some(socket) => socket.clone(),
        None => Config::load(args.config.as_deref())?.admin.socket,
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(get_from(&socket, path))
}

async fn get_from(socket: &Path, path: &str) -> anyhow::Result<String> {
    let stream = tokio::net::UnixStream::connect(socket).await.with_context(|| {
        format!(
            "no larder answers on {}; is `larder serve` running, and is this its socket? (--socket PATH or LARDER_SOCKET)",
            socket.display()
        )
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", "larder")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    if !status.is_success() {
        bail!("{}", text.trim());
    }
    Ok(text)
}
