//! How a body is built, and bound to its connection and its request.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use hyper::body::Incoming;
use larder_shared::Digest;

use super::{
    Body, Content, Passing, Segment,
    awaited::Barren,
    cold::Cold,
    passed::{Passed, Verified},
};
use crate::{fill::Passage, metrics::Receiving, record::RequestRecord, store::Store, sys::Regions};

impl Passing {
    /// Passes on the blob of `passage`. With `hold`, its ranges end where the blob ends, and their tail waits for the
    /// digest.
    pub fn new(passage: Passage, hold: bool) -> Self {
        Self {
            passage,
            hold,
            through: None,
        }
    }
}

impl Body {
    /// A body of these segments. The ranges among them are of `content`.
    pub fn new(content: Content, segments: impl IntoIterator<Item = Segment>) -> Self {
        let segments: VecDeque<Segment> = segments.into_iter().collect();
        let left = match content {
            Content::Upstream(_) | Content::Verified(_) | Content::Produced(_) => None,
            _ => Some(segments.iter().map(Segment::len).sum()),
        };
        Self {
            content,
            segments,
            regions: Regions::default(),
            left,
            record: None,
            inside: false,
            copied: false,
            checks: None,
            checked: None,
            cold: Cold::default(),
            given: None,
            failed: None,
            barren: None,
        }
    }

    /// A list that is passed on as it comes, with its length if the source says it.
    pub fn passed_on(incoming: Incoming, length: Option<u64>) -> Self {
        let mut body = Self::new(Content::Upstream(Passed::new(incoming)), []);
        // hyper asks for no more bytes than the length, so only the count tells that the body is complete.
        body.left = length;
        body
    }

    /// The same with its last bytes held back until it is known to have its digest.
    pub fn verified(
        incoming: Incoming,
        length: Option<u64>,
        digest: Digest,
        receiving: Receiving,
    ) -> Self {
        let verified = Verified::new(incoming, digest, receiving);
        let mut body = Self::new(Content::Verified(Box::new(verified)), []);
        body.left = length;
        body
    }

    /// Says what is to happen if the body ends without a byte.
    #[must_use]
    pub fn if_barren(mut self, barren: impl FnOnce() + Send + 'static) -> Self {
        if self.left != Some(0) {
            self.barren = Some(Barren::new(barren));
        }
        self
    }

    /// A body without bytes.
    pub fn empty() -> Self {
        Self::new(Content::None, [])
    }

    /// A body of these bytes.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self::new(Content::None, [Segment::Bytes(bytes.into())])
    }

    /// Binds the body to its connection and its request.
    #[must_use]
    pub fn serve(mut self, regions: &Regions, record: RequestRecord) -> Self {
        self.regions = regions.clone();
        self.record = Some(record);
        self
    }

    /// The same for another member's request. Bytes of `store` leave only if they are what they were when they were
    /// verified.
    #[must_use]
    pub fn serve_checked(mut self, store: &Arc<Store>, record: RequestRecord) -> Self {
        self.copied = true;
        self.checks = Some(Arc::clone(store));
        self.record = Some(record);
        self
    }
}
