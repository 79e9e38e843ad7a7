//! `larder pin`, `unpin`, `evict`, `gc`, `verify`: an operator's changes to the node tier.

use http::{HeaderMap, Method};
use larder_shared::{
    admin::{Acted, Verified},
    name::ImageName,
};

use super::{
    FOUND,
    progress::watched,
    show::{BAD, count, say, say_json, size, styled},
    socket::{SocketArgs, asked, encoded},
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
    image: ImageName,
    #[command(flatten)]
    socket: SocketArgs,
}

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  larder evict nginx:1.27                one image, even if it is pinned
  larder evict --upstream ghcr.io        one registry; blobs that others also hold stay

larder fetches the content again at the next request. A pull in flight is not disturbed.")]
pub struct EvictArgs {
    /// The image, as in a pod
    #[arg(value_name = "REF", required_unless_present = "upstream")]
    image: Option<ImageName>,
    /// All content of this registry; content that other registries also hold stays
    #[arg(long, value_name = "NAME", conflicts_with = "image")]
    upstream: Option<String>,
    #[command(flatten)]
    socket: SocketArgs,
}

pub fn pin(args: &ImageArgs, pinned: bool) -> anyhow::Result<u8> {
    let path = if pinned { "/pin" } else { "/unpin" };
    let path = format!("{path}?ref={}", encoded(&args.image.to_string()));
    let acted = asked(&args.socket, Method::POST, &path)?;
    let word = if pinned { "pinned" } else { "unpinned" };
    told(&args.socket, acted, word)
}

pub fn evict(args: &EvictArgs) -> anyhow::Result<u8> {
    let what = match (&args.upstream, &args.image) {
        (Some(name), _) => format!("upstream={}", encoded(name)),
        (None, Some(image)) => format!("ref={}", encoded(&image.to_string())),
        // clap has made sure that one of them is given.
        (None, None) => anyhow::bail!("give an image, or a registry with --upstream NAME"),
    };
    let acted = asked(&args.socket, Method::POST, &format!("/evict?{what}"))?;
    told(&args.socket, acted, "evicted")
}

pub fn gc(args: &TierArgs) -> anyhow::Result<u8> {
    let acted = watched(&args.socket, "gc", "/gc", HeaderMap::new())?;
    told(&args.socket, acted, "evicted")
}

pub fn verify(args: &TierArgs) -> anyhow::Result<u8> {
    let verified: Verified = watched(&args.socket, "verify", "/verify", HeaderMap::new())?;
    if args.socket.json {
        say_json(&verified)?;
    } else {
        for digest in &verified.rotten {
            say(&styled(
                BAD,
                format_args!(
                    "{digest} was damaged on disk; larder removed it, and fetches it again at the next request"
                ),
            ));
        }
        say(&format!(
            "{}, {}: {} damaged",
            count(verified.blobs, "blob"),
            size(verified.bytes),
            verified.rotten.len()
        ));
    }
    Ok(if verified.rotten.is_empty() { 0 } else { FOUND })
}

fn told(socket: &SocketArgs, acted: Acted, word: &str) -> anyhow::Result<u8> {
    if socket.json {
        say_json(&acted)?;
    } else {
        say(&format!(
            "{word}: {}, {}",
            count(acted.blobs, "blob"),
            size(acted.bytes)
        ));
    }
    Ok(0)
}
