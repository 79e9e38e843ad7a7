//! A manifest in memory, and the answers made from it, for a tag or a digest, stored or fetched.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use larder_shared::{Digest, Reference, media};

use super::{DIGEST, Pull, PullError, Pulled, outage::SOME, put};
use crate::{
    access::Place,
    body::Body,
    metrics::{Outcome, Tier},
    tags::Descriptor,
    upstream::Subject,
};

/// The type of a manifest whose type neither its bytes nor the origin's header state.
const UNTYPED: &str = "application/octet-stream";

/// A manifest in memory.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Bytes,
}

/// A manifest of Docker's schema 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Schema1;

impl Pull {
    /// A manifest, by tag or by digest.
    pub(super) async fn manifest_by(
        &self,
        place: &Place,
        reference: &Reference,
        head: bool,
    ) -> Result<Pulled, PullError> {
        let pulled = match reference {
            Reference::Tag(tag) => self.manifest_by_tag(place, tag, head).await,
            Reference::Digest(digest) => self.manifest_by_digest(place, digest, head).await,
        };
        match pulled {
            Err(PullError::TooLarge) => Box::pin(self.large_manifest(place, reference, head)).await,
            pulled => pulled,
        }
    }

    /// The manifest with this digest, if the repository holds it.
    async fn manifest_by_digest(
        &self,
        place: &Place,
        digest: &Digest,
        head: bool,
    ) -> Result<Pulled, PullError> {
        let proven = self.proven(place, &Reference::Digest(*digest))?;
        let link = place.record.link(digest);
        if link.is_some_and(|link| link.media_type.is_some()) {
            if !proven {
                let subject = Subject::Manifest(Reference::Digest(*digest));
                self.access.prove(place, subject).await?;
            }
            if let Some(pulled) = self.stored_manifest(place, digest, head).await {
                return Ok(pulled.from(Tier::Node, Outcome::Hit));
            }
        }
        let mut place = place.clone();
        if !proven && self.cluster.has_others() {
            let subject = Subject::Manifest(Reference::Digest(*digest));
            self.access.prove(&place, subject).await?;
            // An outage bridged the proof, which took its time already. The members need some of what is left.
            if !self.proven(&place, &Reference::Digest(*digest))? {
                place = place.hurried(SOME);
            }
        }
        let manifest = Box::pin(self.fetch(&place, Reference::Digest(*digest))).await?;
        Ok(manifest.pulled(head, Outcome::Miss))
    }

    /// The manifest from the node tier. `None` if its bytes are not here, or if no link says that this repository holds
    /// it.
    pub(super) async fn stored_manifest(
        &self,
        place: &Place,
        digest: &Digest,
        head: bool,
    ) -> Option<Pulled> {
        let link = place.record.link(digest)?;
        let bytes = self.store.bytes(digest, media::MAX_MANIFEST).await?;
        self.expect(&bytes);
        let manifest = match link.media_type {
            Some(media_type) => Manifest {
                digest: *digest,
                media_type,
                bytes,
            },
            // It came as a blob, so no media type is recorded.
            None => Manifest::of(*digest, bytes, None).ok()?,
        };
        Some(manifest.pulled(head, Outcome::Hit))
    }
}

impl Manifest {
    /// Makes a manifest from verified bytes. Its type is stated in the bytes or follows from their shape. `stated`: the
    /// type in the response's header, if the response came from the origin.
    pub(super) fn of(digest: Digest, bytes: Bytes, stated: Option<&str>) -> Result<Self, Schema1> {
        let media_type = match media::kind(&bytes, stated) {
            media::Kind::Is(media_type) => media_type,
            media::Kind::Schema1 => return Err(Schema1),
            media::Kind::Unknown => stated.unwrap_or(UNTYPED).to_owned(),
        };
        Ok(Self {
            digest,
            media_type,
            bytes,
        })
    }

    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor {
            digest: self.digest,
            size: self.bytes.len() as u64,
            media_type: self.media_type.clone(),
        }
    }

    pub(super) fn pulled(&self, head: bool, outcome: Outcome) -> Pulled {
        let mut pulled = headers_only(&self.descriptor()).from(Tier::Upstream, outcome);
        if !head {
            pulled.body = Body::bytes(Bytes::clone(&self.bytes));
        }
        pulled
    }
}

/// The answer to a HEAD of the manifest.
pub(super) fn headers_only(descriptor: &Descriptor) -> Pulled {
    let mut headers = HeaderMap::new();
    put(&mut headers, header::CONTENT_TYPE, &descriptor.media_type);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(descriptor.size));
    put(&mut headers, DIGEST, &descriptor.digest.to_string());
    Pulled {
        status: StatusCode::OK,
        headers,
        body: Body::empty(),
        tier: Tier::None,
        outcome: Outcome::Hit,
    }
}
