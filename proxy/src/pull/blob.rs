//! Blobs: from disk by sendfile, or from the fill that is bringing them.

use std::sync::Arc;

use larder_shared::{Digest, Range, RangeHeader, Reference, range::Selected};

use super::{
    Pull, PullError, Pulled,
    held::Held,
    selection::{answer, head, to_the_end},
};
use crate::{
    access::{Place, Verdict},
    body::{Coming, Content, Passing},
    fill::{FillError, HELD_BACK, Joined, Manner, Reader, Right, SMALL_WITHIN, Small, Source},
    metrics::{Outcome, Tier},
    store::Blob,
    upstream::{Failure, Subject, Want},
};

/// How a caller gets a blob that the node tier did not have.
#[derive(Debug)]
pub(super) enum Given {
    /// From a fill.
    Filling(Box<Reader>),
    /// From the node tier: the blob has arrived in the meantime.
    Stored(Arc<Blob>),
    /// Not by a fill: the store cannot take the blob, or the fill under way reads from another registry. The right is
    /// proven.
    Nothing,
}

impl Pull {
    /// The whole blob, or the ranges that the client asks for.
    pub(super) async fn blob(
        &self,
        place: &Place,
        digest: &Digest,
        range: &RangeHeader,
    ) -> Result<Pulled, PullError> {
        let source = source_of(place);
        match self
            .give(place, &source, digest, range, Manner::CLIENT)
            .await?
        {
            Given::Stored(blob) => self.stored(digest, range, blob),
            Given::Filling(reader) => self.follow(*reader, digest, source, range).await,
            Given::Nothing => self.pass_on_blob(digest, source, range).await,
        }
    }

    /// Decides where this caller gets the blob from, after checking that it may have it.
    pub(super) async fn give(
        &self,
        place: &Place,
        source: &Source,
        digest: &Digest,
        range: &RangeHeader,
        manner: Manner,
    ) -> Result<Given, PullError> {
        let known = self.right(place, digest)?;
        let mut right = match self.held_blob(place, digest, known).await? {
            Held::Blob(blob) => return Ok(Given::Stored(blob)),
            Held::Nothing(right) => right,
        };
        // The origin has to be asked first, unless its answer comes together with the bytes. Another member's answer
        // says nothing about this caller.
        let at_once = self.store.usable()
            && self.upstreams.proves_at_once(&place.registry)
            && !self.cluster.is_there();
        if right == Right::None && !at_once {
            self.access
                .prove_unless_known(place, Subject::Blob(*digest))
                .await?;
            right = Right::Repository;
        }
        if !self.store.usable() {
            return Ok(Given::Nothing);
        }
        if right == Right::Repository && self.left_here_by(place, digest).await {
            right = Right::Digest;
        }
        let joined = self.joined(place, source, digest, range, right, manner);
        let given = Box::pin(joined).await?;
        if matches!(given, Given::Nothing) {
            self.access
                .prove_unless_known(place, Subject::Blob(*digest))
                .await?;
        }
        Ok(given)
    }

    /// The answer from the node tier.
    pub(super) fn stored(
        &self,
        digest: &Digest,
        range: &RangeHeader,
        blob: Arc<Blob>,
    ) -> Result<Pulled, PullError> {
        let size = blob.size();
        let selected = range.select(size);
        if to_the_end(&selected) {
            self.store.note_served(digest);
        }
        answer(digest, size, &selected, Content::Stored(blob))
            .map(|p| p.from(Tier::Node, Outcome::Hit))
    }

    /// Joins the fill, or begins one. Bytes from other members or from an earlier process prove nothing about this
    /// caller or this repository, so the origin is asked first. A fill may end meanwhile; its blob is not fetched
    /// again.
    pub(super) async fn joined(
        &self,
        place: &Place,
        source: &Source,
        digest: &Digest,
        range: &RangeHeader,
        mut right: Right,
        manner: Manner,
    ) -> Result<Given, PullError> {
        let mut anyway = false;
        loop {
            let source = source.clone();
            let joined = self
                .fills
                .join(*digest, source, range, right, manner, anyway);
            match joined {
                Joined::Reader(reader) => return Ok(Given::Filling(reader)),
                Joined::OtherRegistry => return Ok(Given::Nothing),
                Joined::Claimed => {
                    self.prove_claim(place, digest, None).await?;
                    right = Right::Digest;
                }
                Joined::Here => {
                    match self.held_blob(place, digest, right).await? {
                        Held::Blob(blob) => return Ok(Given::Stored(blob)),
                        Held::Nothing(known) => right = known,
                    }
                    // The blob here came from another registry, or it is gone again.
                    anyway = true;
                }
            }
        }
    }

    /// The answer that follows a fill.
    pub(super) async fn follow(
        &self,
        mut reader: Reader,
        digest: &Digest,
        source: Source,
        range: &RangeHeader,
    ) -> Result<Pulled, PullError> {
        let size = match reader.opened().await {
            Ok(size) => size,
            Err(FillError::Disk(_)) => return self.pass_on_blob(digest, source, range).await,
            Err(error) => return Err(error.into()),
        };
        self.chunks
            .told(&source.registry, &source.repository, [(*digest, size)]);
        let selected = range.select(size);
        match &selected {
            Selected::Whole => reader.want_whole(),
            Selected::One { range, open: true } => reader.want_open(*range),
            Selected::One { range, open: false } => reader.want_parts(&[*range]),
            Selected::Many(ranges) => reader.want_parts(ranges),
            Selected::Unsatisfiable => {}
        }
        let found = match &selected {
            Selected::Whole => reader.found(&[Range::new(0, size)]),
            Selected::One { range, .. } => reader.found(&[*range]),
            Selected::Many(ranges) => reader.found(ranges),
            Selected::Unsatisfiable => false,
        };
        let (tier, outcome) = match (found, reader.is_by_member()) {
            (true, _) => (Tier::Node, Outcome::Hit),
            (false, true) => (Tier::Cluster, Outcome::Miss),
            (false, false) => (Tier::Upstream, Outcome::Miss),
        };
        answer(digest, size, &selected, Content::Filling(reader)).map(|p| p.from(tier, outcome))
    }

    /// Acts as a plain proxy for this request: the store cannot take the blob, or has another registry's partial of it.
    pub(super) async fn pass_on_blob(
        &self,
        digest: &Digest,
        source: Source,
        range: &RangeHeader,
    ) -> Result<Pulled, PullError> {
        let passage = self.fills.passage(*digest, source).await?;
        let size = passage.size();
        let selected = range.select(size);
        let hold = to_the_end(&selected);
        let content = if size > HELD_BACK {
            Content::Passing(Passing::new(passage, hold))
        } else {
            // If a small blob arrives too slowly, its headers go out first. Its body waits until the digest is checked.
            match passage.small_within(SMALL_WITHIN).await {
                Small::Here(bytes) => Content::Memory(bytes?),
                Small::Comes(coming) => Content::Coming(Coming::new(coming)),
            }
        };
        let pulled = answer(digest, size, &selected, content);
        pulled.map(|p| p.from(Tier::Upstream, Outcome::Miss))
    }

    /// The answer to a HEAD: size and existence. Never starts a fill.
    pub(super) async fn blob_head(
        &self,
        place: &Place,
        digest: &Digest,
    ) -> Result<Pulled, PullError> {
        let right = self.right(place, digest)?;
        let unknown = right == Right::None;
        if !unknown && let Held::Blob(blob) = self.held_blob(place, digest, right).await? {
            return Ok(head(digest, blob.size()).from(Tier::Node, Outcome::Hit));
        }
        // While the caller's right is unknown, the registry is asked in the same way whether or not the blob is here,
        // so the caller does not learn which.
        let link = place.record.link(digest);
        let bridged = unknown
            && link.is_some()
            && self
                .access
                .verdict_on(place, Some(&Reference::Digest(*digest)))
                == Verdict::Ask { bridged: true };
        let subject = Subject::Blob(*digest);
        let mut ask = place.ask(subject.clone(), Want::Head);
        ask.anew = unknown;
        if bridged {
            ask = ask.optional();
        }
        let answer = match (self.upstreams.ask_length(ask).await, link) {
            (Err(failure), Some(link)) if bridged && self.access.is_outage(place, &failure) => {
                return Ok(head(digest, link.size).from(Tier::Node, Outcome::Hit));
            }
            (answer, _) => {
                answer.inspect_err(|failure| self.access.met(place, &subject, failure))?
            }
        };
        self.access.answered(place, &subject, &answer, None);
        if !answer.proves {
            self.access.prove_unless_known(place, subject).await?;
        }
        let size = match answer.whole_length() {
            Some(size) => Some(size),
            None => self.fills.find_length(place, digest).await,
        };
        match size {
            Some(size) => Ok(head(digest, size).from(Tier::Upstream, Outcome::Miss)),
            None => Err(Failure::Invalid {
                at: place.registry.to_string(),
                why: "no length of the blob".to_owned(),
            }
            .into()),
        }
    }
}

/// The source from which this caller's bytes can be read.
pub(super) fn source_of(place: &Place) -> Source {
    Source {
        registry: place.registry.clone(),
        repository: place.repository.clone(),
        identity: place.identity.clone(),
        trace: place.trace.clone(),
    }
}
