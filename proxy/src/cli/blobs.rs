//! `larder blobs`: what the node tier holds, by blob.

use std::cmp::Reverse;

use http::Method;
use larder_shared::admin::{Blob, Blobs};

use super::{
    images::digest,
    show::{ago, count, note, say, say_json, size},
    socket::{SocketArgs, asked},
    table::{Column, say_table},
};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  larder blobs --limit 20 --sort size    the twenty largest
  larder blobs ghcr.io/team              the blobs of a registry or a repository
  larder blobs sha256:4f4f               one blob, by the beginning of its digest
  larder blobs --json | jq -r '.blobs[].digest'")]
pub struct BlobsArgs {
    /// Only blobs whose digest, or the name of one of whose repositories, begins with this
    #[arg(value_name = "PREFIX")]
    prefix: Option<String>,
    /// The order of the list
    #[arg(long, value_enum, default_value_t = Sort::Used)]
    sort: Sort,
    /// List at most this many blobs
    #[arg(long, short = 'n', value_name = "NUMBER")]
    limit: Option<usize>,
    /// Print digests in full, and every repository
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Sort {
    /// The most recently used first
    Used,
    /// The largest first
    Size,
    /// By digest
    Digest,
}

pub fn blobs(args: &BlobsArgs) -> anyhow::Result<u8> {
    let mut blobs: Blobs = asked(&args.socket, Method::GET, "/blobs")?;
    if let Some(prefix) = &args.prefix {
        blobs.blobs.retain(|blob| {
            let mut holders = blob.repositories.iter();
            blob.digest.to_string().starts_with(prefix)
                || holders.any(|holder| holder.starts_with(prefix))
        });
    }
    match args.sort {
        // The daemon sorts by last use, with a better resolution than the seconds here.
        Sort::Used => {}
        Sort::Size => blobs.blobs.sort_by_key(|blob| Reverse(blob.bytes)),
        Sort::Digest => blobs
            .blobs
            .sort_by_cached_key(|blob| blob.digest.to_string()),
    }
    let all = blobs.blobs.len();
    blobs.blobs.truncate(args.limit.unwrap_or(usize::MAX));
    if args.socket.json {
        say_json(&blobs)?;
        return Ok(0);
    }
    if blobs.blobs.is_empty() {
        say("no blob in the node tier matches");
        return Ok(0);
    }
    let columns = [
        Column::Word("DIGEST"),
        Column::Number("SIZE"),
        Column::Word("LAST USED"),
        Column::Word("PINNED"),
        Column::Text("REPOSITORIES"),
    ];
    let row = |blob: &Blob| {
        vec![
            digest(&blob.digest, args.no_trunc),
            size(blob.bytes),
            ago(blob.last_used),
            if blob.pinned { "yes" } else { "" }.to_owned(),
            match &blob.repositories[..] {
                [first, _, ..] if !args.no_trunc => {
                    format!("{first} and {} more", blob.repositories.len() - 1)
                }
                all => all.join(", "),
            },
        ]
    };
    say_table(&columns, blobs.blobs.iter().map(row).collect());
    if blobs.blobs.len() < all {
        note(&format!(
            "--limit left out {}",
            count((all - blobs.blobs.len()) as u64, "blob")
        ));
    }
    Ok(0)
}
