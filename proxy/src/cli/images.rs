//! `larder images`: what the node tier holds, by image.

use std::cmp::Reverse;

use http::Method;
use larder_shared::{
    admin::{Image, Images},
    name::DOCKER_HUB,
};

use super::{
    show::{ago, percent, say, say_json, size},
    socket::{SocketArgs, asked},
    table::{Column, say_table},
};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  larder images                          every image, the most recently used first
  larder images ghcr.io/team             the images of one registry or organisation
  larder images nginx                    Docker Hub's names may be short
  larder images --sort size              the largest first
  larder images --json | jq '[.images[].bytes] | add'

HERE is the share of the image that is on this node. Platforms that no client has requested here do not count.\n\
IN USE: a container of this node uses the image, as far as the runtime's watcher tells; age does not evict it.\n\
READY, on a node that offers ready layers: how many layers the runtime mounts instead of pulling them; `larder explain` says why not all.")]
pub struct ImagesArgs {
    /// Only images whose name begins with this: a registry, a repository, or a repository with a tag
    #[arg(value_name = "PREFIX")]
    prefix: Option<String>,
    /// The order of the list
    #[arg(long, value_enum, default_value_t = Sort::Used)]
    sort: Sort,
    /// Print digests in full
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
    /// By name
    Name,
}

pub fn images(args: &ImagesArgs) -> anyhow::Result<u8> {
    let mut images: Images = asked(&args.socket, Method::GET, "/images")?;
    if let Some(prefix) = &args.prefix {
        images.images.retain(|image| begins_with(image, prefix));
    }
    match args.sort {
        Sort::Used => images.images.sort_by_key(|image| Reverse(image.last_used)),
        Sort::Size => images.images.sort_by_key(|image| Reverse(image.bytes)),
        // The daemon sorts by name.
        Sort::Name => {}
    }
    if args.socket.json {
        say_json(&images)?;
        return Ok(0);
    }
    if images.images.is_empty() {
        say(match &args.prefix {
            None => {
                "no images yet: an image appears here when the runtime pulls it through larder, or with `larder pull REF`"
            }
            Some(_) => "no image name begins with PREFIX; leave PREFIX out to list all images",
        });
        return Ok(0);
    }
    let mut columns = vec![
        Column::Text("IMAGE"),
        Column::Text("TAGS"),
        Column::Word("DIGEST"),
        Column::Number("SIZE"),
        Column::Number("HERE"),
        Column::Word("LAST USED"),
        Column::Word("IN USE"),
        Column::Word("PINNED"),
    ];
    let offers = images.images.iter().any(|image| image.ready.is_some());
    if offers {
        columns.push(Column::Number("READY"));
    }
    let ready = |image: &Image| {
        let of = image.ready.as_ref();
        of.map_or_else(String::new, |of| format!("{}/{}", of.ready, of.layers))
    };
    let row = |image: &Image| {
        let mut row = vec![
            name(image),
            image.tags.join(", "),
            digest(&image.digest, args.no_trunc),
            size(image.bytes),
            percent(image.present_bytes, image.bytes),
            ago(image.last_used),
            yes(image.in_use),
            yes(image.pinned),
        ];
        if offers {
            row.push(ready(image));
        }
        row
    };
    say_table(&columns, images.images.iter().map(row).collect());
    Ok(0)
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "" }.to_owned()
}

/// `sha256:` and the first twelve digits, unless `whole`.
pub fn digest(digest: &larder_shared::Digest, whole: bool) -> String {
    let mut text = digest.to_string();
    if !whole {
        text.truncate(digest.algorithm().as_str().len() + 1 + 12);
    }
    text
}

fn name(image: &Image) -> String {
    format!("{}/{}", image.registry, image.repository)
}

/// Whether one of an image's names begins with `prefix`.
fn begins_with(image: &Image, prefix: &str) -> bool {
    let mut names = vec![name(image)];
    if image.registry == DOCKER_HUB {
        names.push(image.repository.clone());
        names.extend(image.repository.strip_prefix("library/").map(str::to_owned));
    }
    names.iter().any(|name| {
        let tagged = || image.tags.iter().map(|tag| format!("{name}:{tag}"));
        name.starts_with(prefix)
            || tagged().any(|name| name.starts_with(prefix))
            || format!("{name}@{}", image.digest).starts_with(prefix)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_may_be_of_any_name_of_an_image() {
        let image = |registry: &str, repository: &str| Image {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            digest: larder_shared::Digest::sha256(b""),
            tags: vec!["v1".to_owned(), "v1.2".to_owned()],
            media_type: String::new(),
            bytes: 0,
            present_bytes: 0,
            blobs: 0,
            present_blobs: 0,
            pinned: false,
            in_use: false,
            public: true,
            last_used: 0,
            ready: None,
        };
        let hub = image("docker.io", "library/nginx");
        let other = image("ghcr.io", "team/nginx");
        for (prefix, of_hub, of_other) in [
            ("nginx", true, false),
            ("nginx:v1.2", true, false),
            ("nginx:v2", false, false),
            ("library/", true, false),
            ("docker.io", true, false),
            ("ghcr.io/te", false, true),
            ("ghcr.io/team/nginx:v1", false, true),
            ("ghcr.io/team/nginx@sha256:e3b0", false, true),
            ("team", false, false),
        ] {
            assert_eq!(begins_with(&hub, prefix), of_hub, "{prefix}");
            assert_eq!(begins_with(&other, prefix), of_other, "{prefix}");
        }
    }
}
