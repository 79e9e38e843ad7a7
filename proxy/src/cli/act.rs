//! `larder pin`, `unpin`, `evict`, `gc`, `verify`: what an operator does to the node tier.

use http::Method;
use larder_shared::admin::{Acted, Verified};

use super::{
    FOUND,
    show::{say, size},
    socket::{SocketArgs, ask, encoded, read},
};

#[derive(Clone, Debug, clap::Args)]
pub struct TierArgs {
    #[command(flatten)]
    socket: SocketArgs,
}

#[derive(Clone, Debug, clap::Args)]
pub struct ImageArgs {
    /// The image, as in a pod: `nginx`, `ghcr.io/owner/app:v1`, `quay.io/a/b@sha256:…`
    #[arg(value_name = "REF")]
    image: String,
    #[command(flatten)]
    socket: SocketArgs,
}

#[derive(Clone, Debug, clap::Args)]
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

pub fn gc(args: &TierArgs) -> anyhow::Result<u8> {
    act(&args.socket, "/gc", "evicted")
}

pub fn verify(args: &TierArgs) -> anyhow::Result<u8> {
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
