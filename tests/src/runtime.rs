//! Pulls with the headers of real runtimes and in their order, on which much depends: containerd learns a tag's digest
//! from a HEAD and then asks for digests alone; containers/image never sends a HEAD.

use std::time::Instant;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT};

use crate::http::Response;
use crate::image::{Image, Index, OCI_INDEX};
use crate::members::{Door, Got};

/// containerd's `Accept` for a tag; for everything, it ends in `*/*`.
const CONTAINERD_ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";
const CONTAINERS_IMAGE_ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.v1+prettyjws, \
     application/vnd.docker.distribution.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.index.v1+json";

/// Whose order of requests a pull follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Runtime {
    /// containerd 2, and programs that resolve as it does: nerdctl, BuildKit, dockerd with containerd's store.
    Containerd,
    /// containers/image: CRI-O, podman, skopeo.
    ContainersImage,
}

/// The content that a pull has to bring, byte for byte.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    index: Option<&'a Index>,
    image: &'a Image,
}

impl<'a> From<&'a Image> for Wanted<'a> {
    fn from(image: &'a Image) -> Self {
        Self { index: None, image }
    }
}

impl Index {
    /// A pull of one platform by the index.
    pub fn platform(&self, number: usize) -> Wanted<'_> {
        Wanted {
            index: Some(self),
            image: &self.images[number],
        }
    }
}

/// A manifest or an index.
struct Document<'a> {
    media_type: &'a str,
    digest: &'a str,
    bytes: &'a Bytes,
}

impl<'a> Wanted<'a> {
    fn image(&self) -> Document<'a> {
        Document {
            media_type: self.image.media_type,
            digest: &self.image.manifest_digest,
            bytes: &self.image.manifest,
        }
    }

    /// The document that the tag points to.
    fn top(&self) -> Document<'a> {
        match self.index {
            Some(index) => Document {
                media_type: OCI_INDEX,
                digest: &index.digest,
                bytes: &index.bytes,
            },
            None => self.image(),
        }
    }
}

impl Runtime {
    fn agent(self) -> &'static str {
        match self {
            Self::Containerd => "containerd/v2.1.4",
            Self::ContainersImage => "containers/5.36.1 (github.com/containers/image)",
        }
    }

    /// The headers of a GET with this `Accept`.
    fn headers(self, accept: &str) -> Vec<(&'static str, String)> {
        let mut headers = vec![(USER_AGENT.as_str(), self.agent().to_owned())];
        match self {
            Self::Containerd => {
                let accept = [accept, "*/*"].join(", ");
                let accept = accept.trim_start_matches(", ");
                headers.push((ACCEPT.as_str(), accept.to_owned()));
                let encodings = "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5";
                headers.push((ACCEPT_ENCODING.as_str(), encodings.to_owned()));
            }
            Self::ContainersImage if accept.is_empty() => {}
            Self::ContainersImage => headers.push((ACCEPT.as_str(), accept.to_owned())),
        }
        headers
    }

    /// Layers that are fetched at once.
    fn at_once(self) -> usize {
        match self {
            Self::Containerd => 3,
            Self::ContainersImage => 6,
        }
    }
}

impl Door {
    /// Pulls an image by tag or digest as containerd does. An error unless all of it is right.
    pub async fn pull(
        &self,
        reference: &str,
        wanted: impl Into<Wanted<'_>>,
    ) -> Result<Got, String> {
        self.pull_as(Runtime::Containerd, reference, wanted).await
    }

    /// The same for any runtime. containers/image names the registry in the path, so its door needs an alias.
    pub async fn pull_as(
        &self,
        runtime: Runtime,
        reference: &str,
        wanted: impl Into<Wanted<'_>>,
    ) -> Result<Got, String> {
        let wanted = wanted.into();
        let start = Instant::now();
        let (door, top) = match runtime {
            Runtime::Containerd => self.resolved(reference, &wanted).await?,
            Runtime::ContainersImage => self.pinged(reference, &wanted).await?,
        };
        let mut all = Got {
            bytes: top.body.len() as u64,
            ..Got::default()
        };
        if wanted.index.is_some() {
            let platform = wanted.image();
            let answer = door.document(runtime, &platform).await?;
            all.bytes += answer.body.len() as u64;
        }
        let config = &wanted.image.config_digest;
        if runtime == Runtime::Containerd {
            // Unpacking needs it first.
            all = all.and(door.content(runtime, config).await?);
        }
        let mut layers: Vec<BoxFuture<'_, Result<Got, String>>> = Vec::new();
        for layer in &wanted.image.layers {
            layers.push(Box::pin(door.content(runtime, &layer.digest)));
        }
        let mut layers = stream::iter(layers).buffer_unordered(runtime.at_once());
        while let Some(got) = layers.next().await {
            all = all.and(got?);
        }
        if runtime == Runtime::ContainersImage {
            all = all.and(door.content(runtime, config).await?);
        }
        all.took = start.elapsed();
        Ok(all)
    }

    /// containerd's two steps: a HEAD of the tag, and a GET of the digest in its answer.
    async fn resolved(
        &self,
        reference: &str,
        wanted: &Wanted<'_>,
    ) -> Result<(Self, Response), String> {
        let runtime = Runtime::Containerd;
        let head = |door: &Self| {
            door.call("HEAD", &format!("manifests/{reference}"))
                .header(USER_AGENT.as_str(), runtime.agent())
                .header(ACCEPT.as_str(), CONTAINERD_ACCEPT)
        };
        let mut door = self.clone();
        let mut told = door.answer(head(&door)).await?;
        if told.status == 401 && !self.shows() {
            // An anonymous token: runtimes read public repositories with one.
            door = door.answering(&told, None).await?;
            told = door.answer(head(&door)).await?;
        }
        if told.status != 200 {
            return Err(format!("HEAD of {reference}: {}", told.status));
        }
        let top = wanted.top();
        let size = top.bytes.len().to_string();
        let digest = told.header("docker-content-digest");
        if digest != Some(top.digest) {
            return Err(format!("HEAD of {reference}: another digest, {digest:?}"));
        }
        // containerd makes its descriptor from these headers; a wrong one fails the pull.
        let told = (
            told.header(CONTENT_TYPE.as_str()),
            told.header(CONTENT_LENGTH.as_str()),
        );
        if told != (Some(top.media_type), Some(&size)) {
            return Err(format!("HEAD of {reference}: {told:?}"));
        }
        let answer = door.document(runtime, &top).await?;
        Ok((door, answer))
    }

    /// containers/image's two steps: `/v2/` tells how to authenticate, then a GET of the manifest by its tag.
    async fn pinged(
        &self,
        reference: &str,
        wanted: &Wanted<'_>,
    ) -> Result<(Self, Response), String> {
        let runtime = Runtime::ContainersImage;
        let mut door = self.clone();
        if !self.shows() {
            let ping = self.ping().await?;
            match ping.status {
                200 => {}
                401 => door = door.answering(&ping, None).await?,
                status => return Err(format!("/v2/: {status}")),
            }
        }
        let top = wanted.top();
        let headers = runtime.headers(CONTAINERS_IMAGE_ACCEPT);
        let answer = door.fetched(reference, &headers, &top).await?;
        Ok((door, answer))
    }

    /// A manifest or an index by its digest.
    async fn document(&self, runtime: Runtime, wanted: &Document<'_>) -> Result<Response, String> {
        let headers = match runtime {
            Runtime::Containerd => runtime.headers(wanted.media_type),
            Runtime::ContainersImage => runtime.headers(CONTAINERS_IMAGE_ACCEPT),
        };
        self.fetched(wanted.digest, &headers, wanted).await
    }

    async fn fetched(
        &self,
        reference: &str,
        headers: &[(&'static str, String)],
        wanted: &Document<'_>,
    ) -> Result<Response, String> {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, v)| (*name, v.as_str()))
            .collect();
        let path = format!("manifests/{reference}");
        let answer = self.get(&path, &headers).await?;
        if answer.status != 200 || !answer.complete {
            let words = answer.text();
            return Err(format!("{path}: {} {words}", answer.status));
        }
        if answer.body != wanted.bytes {
            return Err(format!("another manifest: {}", answer.text()));
        }
        let media_type = answer.header(CONTENT_TYPE.as_str());
        if media_type != Some(wanted.media_type) {
            return Err(format!("{path}: a manifest of type {media_type:?}"));
        }
        Ok(answer)
    }

    /// A blob with the runtime's headers.
    async fn content(&self, runtime: Runtime, digest: &str) -> Result<Got, String> {
        let headers = runtime.headers("");
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, v)| (*name, v.as_str()))
            .collect();
        self.blob_with(digest, &headers).await
    }
}
