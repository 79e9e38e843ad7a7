//! Commands that ask the running larder over its admin socket.

use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use larder_shared::admin::{Acted, ClusterStatus, Explanation, Status, Verified};
use serde::de::DeserializeOwned;

use super::{
    FOUND, SocketArgs,
    show::{say, size},
};
use crate::config::Config;

#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    socket: SocketArgs,
}

#[derive(Clone, Debug, Args)]
pub struct ImageArgs {
    /// The image, as in a pod: `nginx`, `ghcr.io/owner/app:v1`, `quay.io/a/b@sha256:…`
    #[arg(value_name = "REF")]
    image: String,
    #[command(flatten)]
    socket: SocketArgs,
}

#[derive(Clone, Debug, Args)]
pub struct EvictArgs {
    /// The image, as in a pod.
    #[arg(value_name = "REF", required_unless_present = "upstream")]
    image: Option<String>,
    /// Everything of this registry, other registries' content untouched.
    #[arg(long, value_name = "NAME", conflicts_with = "image")]
    upstream: Option<String>,
    #[command(flatten)]
    socket: SocketArgs,
}

pub fn status(args: &StatusArgs) -> anyhow::Result<u8> {
    let text = ask(&args.socket, Method::GET, "/status")?;
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
    if store.partial_bytes > 0 {
        say(&format!(
            "           {} of blobs that are not whole",
            size(store.partial_bytes)
        ));
    }
    say(&format!(
        "served     {} requests: {} from this node, {} from other nodes, {} from upstreams",
        status.served.requests,
        size(status.served.node_bytes),
        size(status.served.cluster_bytes),
        size(status.served.upstream_bytes)
    ));
    for upstream in &status.upstreams {
        say(&format!(
            "upstream   {} at {}",
            upstream.registry,
            upstream.endpoints.join(", then ")
        ));
        for finding in &upstream.findings {
            say(&format!("           {finding}"));
        }
    }
    if let Some(cluster) = &status.cluster {
        say_cluster(cluster);
    }
    if let Some(store) = &status.object_store {
        say(&format!(
            "objects    {}: {} written, {} there already, {} wait ({}), {} given up",
            store.url,
            store.written,
            store.already_there,
            store.waiting,
            size(store.waiting_bytes),
            store.dropped
        ));
        if let Some(error) = &store.last_error {
            say(&format!("           last failure: {error}"));
        }
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

fn say_cluster(cluster: &ClusterStatus) {
    let well = cluster.members.iter().filter(|m| m.state == "ok").count();
    say(&format!(
        "cluster    {} members, {well} of them well: {} came from others, {} went to them",
        cluster.members.len(),
        size(cluster.received_bytes),
        size(cluster.sent_bytes)
    ));
    if !cluster.members.iter().any(|member| member.own) {
        say("           this node is not among them: set `advertise` in [cluster]");
    }
}

/// The members, one a line.
pub fn peers(args: &StatusArgs) -> anyhow::Result<u8> {
    let text = ask(&args.socket, Method::GET, "/status")?;
    let status: Status = read(&text)?;
    if args.socket.json {
        say(&serde_json::to_string(&status.cluster)?);
        return Ok(0);
    }
    let Some(cluster) = &status.cluster else {
        say("no peers are configured: [cluster] listen and members say who they are");
        return Ok(0);
    };
    for member in &cluster.members {
        let own = if member.own { "  this node" } else { "" };
        say(&format!("{:<24} {}{own}", member.address, member.state));
    }
    say_cluster(cluster);
    Ok(0)
}

pub fn explain(args: &ImageArgs) -> anyhow::Result<u8> {
    let text = ask(
        &args.socket,
        Method::GET,
        &format!("/explain?ref={}", encoded(&args.image)),
    )?;
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

pub fn pin(args: &ImageArgs, pinned: bool) -> anyhow::Result<u8> {
    let path = if pinned { "/pin" } else { "/unpin" };
    let word = if pinned { "pinned" } else { "let go" };
    act(
        &args.socket,
        &format!("{path}?ref={}", encoded(&args.image)),
        word,
    )
}

pub fn evict(args: &EvictArgs) -> anyhow::Result<u8> {
    let what = match (&args.upstream, &args.image) {
        (Some(name), _) => format!("upstream={}", encoded(name)),
        (None, image) => format!("ref={}", encoded(image.as_deref().unwrap_or_default())),
    };
    act(&args.socket, &format!("/evict?{what}"), "evicted")
}

pub fn gc(args: &StatusArgs) -> anyhow::Result<u8> {
    act(&args.socket, "/gc", "evicted")
}

pub fn verify(args: &StatusArgs) -> anyhow::Result<u8> {
    let text = ask(&args.socket, Method::POST, "/verify")?;
    let verified: Verified = read(&text)?;
    if args.socket.json {
        say(&text);
    } else {
        for digest in &verified.rotten {
            say(&format!(
                "{digest} was damaged on disk and is out of the node tier; it is fetched again when it is asked for"
            ));
        }
        say(&format!(
            "{} blobs, {}: {} damaged",
            verified.blobs,
            size(verified.bytes),
            verified.rotten.len()
        ));
    }
    Ok(if verified.rotten.is_empty() { 0 } else { FOUND })
}

fn act(socket: &SocketArgs, path: &str, word: &str) -> anyhow::Result<u8> {
    let text = ask(socket, Method::POST, path)?;
    if socket.json {
        say(&text);
    } else {
        let acted: Acted = read(&text)?;
        say(&format!(
            "{word}: {} blobs, {}",
            acted.blobs,
            size(acted.bytes)
        ));
    }
    Ok(0)
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn read<T: DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    serde_json::from_str(text)
        .context("the daemon's answer cannot be read; is it of another version?")
}

/// One request over the admin socket.
fn ask(args: &SocketArgs, method: Method, path: &str) -> anyhow::Result<String> {
    let socket = match &args.socket {
        Some(socket) => socket.clone(),
        None => Config::load(args.config.as_deref())?.admin.socket,
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(ask_at(&socket, method, path))
}

async fn ask_at(socket: &Path, method: Method, path: &str) -> anyhow::Result<String> {
    let stream = tokio::net::UnixStream::connect(socket).await.with_context(|| {
        format!(
            "no larder answers on {}; is `larder serve` running, and is this its socket? (--socket PATH or LARDER_SOCKET)",
            socket.display()
        )
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
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
