//! Ranges of a mounted layer that a read waits for, because the layer is not whole yet.
//!
//! A range is asked for as by a client, on the same path and with the same rights. Only the range itself is fetched.

use std::io;

use bytes::Bytes;
use larder_shared::{
    Digest, Range, RangeHeader, Reference, name::ImageName, range::Spec, route::Address,
};

use super::{
    Caller, Pull, PullError,
    blob::{Given, source_of},
    judge,
};
use crate::{
    access::Place,
    body::{Body, Content, Segment},
    fill::Manner,
    trace::Trace,
    upstream::Subject,
};

/// A source of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    Anywhere,
    /// Bytes from this node or from other members may be wrong, and nothing detects that before the layer is whole.
    Registry,
}

/// Why a range of a layer did not come.
#[derive(Debug, thiserror::Error)]
pub enum NoSpan {
    #[error(transparent)]
    Pull(#[from] PullError),
    /// The connection or the read broke off.
    #[error("the bytes broke off: {0}")]
    Broken(#[from] io::Error),
    #[error("other bytes came than were asked for")]
    Other,
}

impl Pull {
    /// A range of a layer in the repository of `image`. It is asked for on behalf of the first of `callers` that may
    /// read it, or else with the node's own credentials.
    pub async fn span(
        &self,
        image: &ImageName,
        layer: &Digest,
        range: Range,
        from: From,
        callers: &[Caller],
    ) -> Result<Bytes, NoSpan> {
        let mut refused = None;
        for caller in callers {
            match self.span_for(image, layer, range, from, caller).await {
                Err(NoSpan::Pull(error @ PullError::Unauthorized { .. })) => refused = Some(error),
                done => return done,
            }
        }
        let own = self.own_callers(image, &Trace::none()).await;
        for caller in own.unwrap_or_default() {
            match self.span_for(image, layer, range, from, &caller).await {
                Err(NoSpan::Pull(error @ PullError::Unauthorized { .. })) => refused = Some(error),
                done => return done,
            }
        }
        let unasked = || PullError::Unauthorized {
            registry: image.registry.clone(),
            repository: image.repository.clone(),
            presented: false,
        };
        Err(refused.unwrap_or_else(unasked).into())
    }

    async fn span_for(
        &self,
        image: &ImageName,
        layer: &Digest,
        range: Range,
        from: From,
        caller: &Caller,
    ) -> Result<Bytes, NoSpan> {
        let address = Address::of(&image.registry, &image.repository);
        let place = self.place(&address, caller).await?;
        let span = self.span_at(&place, layer, range, from).await;
        // A refusal becomes the same error as for a client, so that the next caller is tried.
        span.map_err(|error| match error {
            NoSpan::Pull(error) => NoSpan::Pull(judge(error, &place, caller.presented)),
            other => other,
        })
    }

    async fn span_at(
        &self,
        place: &Place,
        layer: &Digest,
        range: Range,
        from: From,
    ) -> Result<Bytes, NoSpan> {
        let source = source_of(place);
        let asked = RangeHeader::Bytes(vec![Spec::Bounded(range.start, range.end - 1)]);
        let give = async {
            match from {
                From::Anywhere => self.give(place, &source, layer, &asked, Manner::SPAN).await,
                From::Registry => {
                    let prove = self.access.prove_unless_known(place, Subject::Blob(*layer));
                    prove.await?;
                    Ok(Given::Nothing)
                }
            }
        };
        let of = |content| Body::new(content, [Segment::Range(range)]);
        let given: Result<Given, PullError> = Box::pin(give).await;
        let body = match given? {
            Given::Stored(blob) if blob.size() >= range.end => of(Content::Stored(blob)),
            Given::Stored(_) => return Err(NoSpan::Other),
            Given::Filling(mut reader) => {
                let size = reader.opened().await.map_err(PullError::from)?;
                if size < range.end {
                    return Err(NoSpan::Other);
                }
                reader.want_parts(&[range]);
                of(Content::Filling(*reader))
            }
            Given::Nothing => self.pass_on_blob(layer, source, &asked).await?.body,
        };
        let bytes = body.read().await?;
        if bytes.len() as u64 == range.len() {
            Ok(bytes)
        } else {
            Err(NoSpan::Other)
        }
    }

    /// The image name of `digest` in a repository.
    pub fn image_of(
        registry: &larder_shared::RegistryName,
        repository: &larder_shared::Repository,
        digest: Digest,
    ) -> ImageName {
        ImageName {
            registry: registry.clone(),
            repository: repository.clone(),
            reference: Reference::Digest(digest),
        }
    }
}
