//! `larder pull`: pulls images into the node tier before a pod needs them.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use data_encoding::BASE64;
use http::{HeaderMap, HeaderValue, Method, header};
use larder_shared::{
    admin::{Acted, FailedPull, PulledImage, PulledImages},
    name::ImageName,
};
use url::form_urlencoded::Serializer;

use super::{
    FAILED,
    progress::watched,
    show::{Telling, complain, count, say_json, size},
    socket::{SocketArgs, asked, encoded},
};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  larder pull nginx:1.27                          only this node's platform
  larder pull --pin registry.k8s.io/pause:3.10    and pin it
  larder pull --platform linux/arm64 ghcr.io/team/app:v1
  larder pull --all-platforms quay.io/a/b@sha256:…
  larder pull --file images.txt                   one image per line; # begins a comment
  echo \"$TOKEN\" | larder pull ghcr.io/team/private:v1 --username ci --password-stdin

larder pulls the image as for the runtime: it shares downloads with other readers, asks the other nodes first, and keeps
the bounds of the node tier. Without --username it asks anonymously, and if the registry refuses that, with the node's
own credentials from [upstreams]. A private image stays private: a pod still needs its own secret. An interrupted pull
resumes where it stopped, and downloads in flight are completed.")]
pub struct PullArgs {
    /// Images, as in a pod: `nginx`, `ghcr.io/owner/app:v1`, `quay.io/a/b@sha256:…`
    #[arg(value_name = "REF", required_unless_present = "file")]
    images: Vec<ImageName>,
    /// A file with one image per line; `-` is standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A platform of the image, `os/architecture[/variant]`; may be repeated [default: this node's]
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all_platforms", value_parser = platform)]
    platform: Vec<String>,
    /// Pull every platform of the image
    #[arg(long)]
    all_platforms: bool,
    /// Pin the image, so that larder never evicts it
    #[arg(long)]
    pin: bool,
    /// The user name for the registry
    #[arg(long, value_name = "NAME", requires = "password_stdin")]
    username: Option<String>,
    /// Read the password or token from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

fn platform(text: &str) -> Result<String, String> {
    let parts = text.split('/').count();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if (2..=3).contains(&parts) && text.chars().all(plain) && !text.split('/').any(str::is_empty) {
        return Ok(text.to_owned());
    }
    Err("a platform is os/architecture[/variant]: linux/amd64, linux/arm/v7".to_owned())
}

pub fn pull(args: &PullArgs) -> anyhow::Result<u8> {
    let images = args.wanted()?;
    let headers = args.headers(&images)?;
    let all = args.all_platforms.then_some("all");
    let platforms = args.platform.iter().map(String::as_str).chain(all);
    let query = Serializer::new(String::new())
        .extend_pairs(platforms.map(|platform| ("platform", platform)))
        .finish();
    let mut outcome = PulledImages::default();
    // The pulls of the other images continue if the reader of the output closes the pipe.
    let mut out = Telling::to(io::stdout());
    for image in images {
        let name = image.to_string();
        match args.one(&name, &query, headers.clone()) {
            Ok(pulled) => {
                if !args.socket.json {
                    writeln!(out, "{}", told(&pulled))?;
                }
                outcome.images.push(pulled);
            }
            Err(error) => {
                complain(&format!("{name}: {error:#}"));
                outcome.failed.push(FailedPull {
                    image: name,
                    error: format!("{error:#}"),
                });
            }
        }
    }
    if args.socket.json {
        say_json(&outcome)?;
    }
    out.end()?;
    Ok(if outcome.failed.is_empty() { 0 } else { FAILED })
}

impl PullArgs {
    fn one(&self, image: &str, query: &str, headers: HeaderMap) -> anyhow::Result<PulledImage> {
        let path = format!("/pull?ref={}&{query}", encoded(image));
        let pulled: PulledImage = watched(&self.socket, &format!("pull {image}"), &path, headers)?;
        if self.pin {
            // Pinned by digest, since the tag may have moved after the pull.
            let (name, _) = image.rsplit_once(['@', ':']).unwrap_or((image, ""));
            let name = name.split('@').next().unwrap_or(name);
            let pin = format!("/pin?ref={}", encoded(&format!("{name}@{}", pulled.digest)));
            let _: Acted = asked(&self.socket, Method::POST, &pin)
                .context("the image was pulled, but not pinned")?;
        }
        Ok(pulled)
    }

    fn wanted(&self) -> anyhow::Result<Vec<ImageName>> {
        let mut images = self.images.clone();
        let Some(file) = &self.file else {
            return Ok(images);
        };
        let text = if file.as_os_str() == "-" {
            if self.password_stdin {
                bail!(
                    "standard input cannot be both the list and the password: put the list into a file"
                );
            }
            let mut text = String::new();
            io::stdin().read_to_string(&mut text)?;
            text
        } else {
            fs::read_to_string(file).with_context(|| file.display().to_string())?
        };
        for (index, line) in text.lines().enumerate() {
            let name = line.split_once('#').map_or(line, |(name, _)| name).trim();
            if !name.is_empty() {
                let image: ImageName = name
                    .parse()
                    .with_context(|| format!("{}, line {}: {name}", file.display(), index + 1))?;
                images.push(image);
            }
        }
        Ok(images)
    }

    /// The credentials. They go to the daemon alone: the admin socket belongs to the node's administrator.
    fn headers(&self, images: &[ImageName]) -> anyhow::Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        let Some(username) = &self.username else {
            return Ok(headers);
        };
        if let [first, rest @ ..] = images
            && let Some(other) = rest.iter().find(|image| image.registry != first.registry)
        {
            bail!(
                "a password is for one registry, and these images are of {} and {}: use one command for each registry",
                first.registry,
                other.registry
            );
        }
        let mut password = String::new();
        io::stdin().read_to_string(&mut password)?;
        let password = password.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            bail!("standard input holds no password: pipe it into the command");
        }
        let pair = BASE64.encode(format!("{username}:{password}").as_bytes());
        let mut value = HeaderValue::try_from(format!("Basic {pair}"))?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
        Ok(headers)
    }
}

fn told(pulled: &PulledImage) -> String {
    let platforms = match &pulled.platforms[..] {
        [] => String::new(),
        some => format!(" ({})", some.join(", ")),
    };
    let fetched = match pulled.fetched_blobs {
        0 => "everything was cached already".to_owned(),
        blobs => format!(
            "{} fetched, {}",
            count(blobs, "blob"),
            size(pulled.fetched_bytes)
        ),
    };
    format!(
        "{}{platforms}: {}, {}, {}; {fetched}",
        pulled.image,
        pulled.digest,
        count(pulled.blobs, "blob"),
        size(pulled.bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::platform;

    #[test]
    fn platforms_have_two_or_three_parts() {
        for good in ["linux/amd64", "linux/arm/v7", "windows/amd64"] {
            assert!(platform(good).is_ok(), "{good}");
        }
        for bad in ["linux", "linux/", "a/b/c/d", "linux/a&b", ""] {
            assert!(platform(bad).is_err(), "{bad}");
        }
    }
}
