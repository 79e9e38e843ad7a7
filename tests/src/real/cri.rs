//! The Container Runtime Interface, as the kubelet calls it: images here, pods in `pods`.
//!
//! The messages hold the fields these tests use, with the numbers of `runtime/v1/api.proto` in
//! kubernetes/cri-api; protobuf leaves out the rest. Writing them here spares the workspace a
//! protobuf compiler.

mod mount;
mod pods;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

pub use self::mount::Mount;
pub use self::pods::*;

/// Longer than the longest pull of the tests.
const CALL: Duration = Duration::from_mins(5);

/// A connection to one runtime's socket.
#[derive(Clone, Debug)]
pub struct CriClient {
    channel: Channel,
}

impl CriClient {
    /// Connects to the runtime listening on `socket`, an absolute path.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let path = socket.to_owned();
        // The URI is only a placeholder: the connector goes to the socket whatever it says.
        let channel =
            Endpoint::from_static("http://runtime.invalid")
                .timeout(CALL)
                .connect_with_connector(tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move {
                        Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?))
                    }
                }))
                .await
                .with_context(|| format!("connecting to {}", socket.display()))?;
        Ok(Self { channel })
    }

    /// PullImage without credentials; the answer is the image's id.
    pub async fn pull(&self, image: &str) -> Result<String, Status> {
        self.pull_image(image, None).await
    }

    /// PullImage with the credentials of a pod's secret.
    pub async fn pull_with_auth(&self, image: &str, auth: Auth) -> Result<String, Status> {
        self.pull_image(image, Some(auth)).await
    }

    async fn pull_image(&self, image: &str, auth: Option<Auth>) -> Result<String, Status> {
        let request = PullImageRequest {
            image: Some(ImageSpec::new(image)),
            auth,
        };
        let answer: PullImageResponse = self
            .call("/runtime.v1.ImageService/PullImage", request)
            .await?;
        Ok(answer.image_ref)
    }

    /// ImageStatus: the image, if the runtime has it.
    pub async fn image_status(&self, image: &str) -> Result<Option<CriImage>, Status> {
        let request = ImageRequest {
            image: Some(ImageSpec::new(image)),
        };
        let answer: ImageStatusResponse = self
            .call("/runtime.v1.ImageService/ImageStatus", request)
            .await?;
        Ok(answer.image)
    }

    /// RemoveImage; containerd collects its content before it answers.
    pub async fn remove_image(&self, image: &str) -> Result<(), Status> {
        let request = ImageRequest {
            image: Some(ImageSpec::new(image)),
        };
        let _: Empty = self
            .call("/runtime.v1.ImageService/RemoveImage", request)
            .await?;
        Ok(())
    }

    /// ListImages, unfiltered.
    pub async fn list(&self) -> Result<Vec<CriImage>, Status> {
        let answer: ListImagesResponse = self
            .call("/runtime.v1.ImageService/ListImages", Empty {})
            .await?;
        Ok(answer.images)
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let answer = grpc
            .unary(
                tonic::Request::new(request),
                PathAndQuery::from_static(method),
                ProstCodec::default(),
            )
            .await?;
        Ok(answer.into_inner())
    }
}

/// An image as the runtime lists it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CriImage {
    /// The digest of the image's configuration.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Names with tags.
    #[prost(string, repeated, tag = "2")]
    pub repo_tags: Vec<String>,
    /// Names with digests.
    #[prost(string, repeated, tag = "3")]
    pub repo_digests: Vec<String>,
    /// Bytes, compressed.
    #[prost(uint64, tag = "4")]
    pub size: u64,
}

/// Credentials in a pull, as the kubelet fills them in; it leaves `server_address` empty.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Auth {
    #[prost(string, tag = "1")]
    pub username: String,
    #[prost(string, tag = "2")]
    pub password: String,
    /// `base64(username:password)`, instead of the two above.
    #[prost(string, tag = "3")]
    pub auth: String,
    #[prost(string, tag = "4")]
    pub server_address: String,
    /// A refresh token.
    #[prost(string, tag = "5")]
    pub identity_token: String,
}

/// Names an image.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

impl ImageSpec {
    fn new(image: &str) -> Self {
        Self {
            image: image.to_owned(),
        }
    }
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
    #[prost(message, optional, tag = "2")]
    auth: Option<Auth>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct PullImageResponse {
    #[prost(string, tag = "1")]
    image_ref: String,
}

/// ImageStatusRequest and RemoveImageRequest, which begin alike.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ImageStatusResponse {
    #[prost(message, optional, tag = "1")]
    image: Option<CriImage>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ListImagesResponse {
    #[prost(message, repeated, tag = "1")]
    images: Vec<CriImage>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct Empty {}
