//! Blobs: from disk by sendfile, or from the fill that is bringing them.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use larder_shared::{Digest, Range, RangeHeader, Reference, range::Selected};
use tokio::time::timeout;

use super::{DIGEST, Pull, PullError, Pulled, put};
use crate::{
    access::{Place, Verdict},
    body::{Body, Coming, Content, Passing, Segment},
    fill::{DEPTH, FillError, HELD_BACK, Joined, Reader, Right, SMALL_WITHIN, Small, Source},
    metrics::{Outcome, Tier},
    store::{Blob, Link, Store},
    upstream::{Failure, Subject, Want},
};

/// A suspicious blob of up to this size is hashed before it is served, a larger one meanwhile.
const CHECKED_FIRST: u64 = 1 << 30;

/// And for so long: on a slow disk it goes on meanwhile, and the client has its headers in time.
const CHECKED_WITHIN: Duration = Duration::from_secs(2);

const OCTETS: &str = "application/octet-stream";

/// How a caller gets a blob that it did not find in the node tier.
pub(super) enum Way {
    /// At a fill.
    Seat(Box<Reader>),
    /// It has come in the meantime.
    Held(Arc<Blob>),
    /// Not from the fill that is under way, which is another registry's.
    Elsewhere,
}

impl Pull {
    /// The bytes of a blob, or the ranges that are asked for.
    pub(super) async fn blob(
        &self,
        place: &Place,
        digest: &Digest,
        range: &RangeHeader,
    ) -> Result<Pulled, PullError> {
        let mut right = self.right(place, digest)?;
        if let Some(blob) = self.held_blob(place, digest, &mut right).await? {
            return self.stored(digest, range, blob);
        }
        let source = Source {
            registry: place.registry.clone(),
            repository: place.repository.clone(),
            identity: place.identity.clone(),
            trace: place.trace.clone(),
        };
        // The origin has to be asked in any case where its answer does not come with the bytes: another member's says
        // nothing about this caller.
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
            return self.pass_on_blob(digest, source, range).await;
        }
        if right == Right::Repository && self.left_here_by(place, digest).await {
            right = Right::Digest;
        }
        let joined = self.joined(place, &source, digest, range, right, DEPTH);
        match Box::pin(joined).await? {
            Way::Held(blob) => self.stored(digest, range, blob),
            Way::Seat(reader) => self.follow(*reader, digest, source, range).await,
            Way::Elsewhere => {
                self.access
                    .prove_unless_known(place, Subject::Blob(*digest))
                    .await?;
                self.pass_on_blob(digest, source, range).await
            }
        }
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

    /// A seat at the fill. What others bring, or an earlier process left, proves nothing about this caller or this
    /// repository: then the origin is asked first. A fill may end meanwhile, and its blob is not fetched again.
    pub(super) async fn joined(
        &self,
        place: &Place,
        source: &Source,
        digest: &Digest,
        range: &RangeHeader,
        mut right: Right,
        depth: u8,
    ) -> Result<Way, PullError> {
        let mut anyway = false;
        loop {
            let source = source.clone();
            let joined = self
                .fills
                .join(*digest, source, range, right, depth, anyway);
            match joined {
                Joined::Reader(reader) => return Ok(Way::Seat(reader)),
                Joined::OtherRegistry => return Ok(Way::Elsewhere),
                Joined::Claimed => {
                    self.prove_claim(place, digest, None).await?;
                    right = Right::Digest;
                }
                Joined::Here => {
                    if let Some(blob) = self.held_blob(place, digest, &mut right).await? {
                        return Ok(Way::Held(blob));
                    }
                    // These are another registry's bytes, or they are gone again.
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
        let tier = if reader.is_by_member() {
            Tier::Cluster
        } else {
            Tier::Upstream
        };
        answer(digest, size, &selected, Content::Filling(reader))
            .map(|p| p.from(tier, Outcome::Miss))
    }

    /// The store cannot take it, or holds another registry's part of it: a plain proxy, for this request alone.
    async fn pass_on_blob(
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
            // What comes too slowly gets its headers, and its body waits for the digest.
            match passage.small_within(SMALL_WITHIN).await {
                Small::Here(bytes) => Content::Memory(bytes?),
                Small::Comes(coming) => Content::Coming(Coming::new(coming)),
            }
        };
        let pulled = answer(digest, size, &selected, content);
        pulled.map(|p| p.from(Tier::Upstream, Outcome::Miss))
    }

    /// Size and existence. Never starts a fill.
    pub(super) async fn blob_head(
        &self,
        place: &Place,
        digest: &Digest,
    ) -> Result<Pulled, PullError> {
        let mut right = self.right(place, digest)?;
        let unknown = right == Right::None;
        if !unknown && let Some(blob) = self.held_blob(place, digest, &mut right).await? {
            return Ok(head(digest, blob.size()).from(Tier::Node, Outcome::Hit));
        }
        // Whose right is not known is asked for in the same way whether or not the blob is here, and learns nothing of it.
        let link = place.record.link(digest);
        let bridged = unknown
            && link.is_some()
            && self
                .access
                .verdict_on(place, Some(&Reference::Digest(*digest)))
                == Verdict::Ask { bridged: true };
        let mut ask = place.ask(Subject::Blob(*digest), Want::Head);
        if bridged {
            ask = ask.optional();
        }
        let asked = self.upstreams.ask(&ask).await;
        let answer = match asked {
            // Public ECR refuses a HEAD that it would allow as a GET, and a signed redirect is good for GET alone.
            Err(Failure::Refused(_) | Failure::Invalid { .. }) => {
                ask.want = Want::Part(Range::new(0, 1));
                ask.anew = unknown;
                self.upstreams.ask(&ask).await
            }
            asked => asked,
        };
        let answer = match answer {
            // The empty blob has no first byte.
            Err(Failure::Unsatisfiable { .. }) => {
                ask.want = Want::All;
                self.upstreams.ask(&ask).await
            }
            answer => answer,
        };
        let answer = match (answer, link) {
            (Err(failure), Some(link)) if bridged && self.access.is_outage(place, &failure) => {
                return Ok(head(digest, link.size).from(Tier::Node, Outcome::Hit));
            }
            (answer, _) => {
                answer.inspect_err(|failure| self.access.met(place, &ask.subject, failure))?
            }
        };
        self.access.answered(place, &ask.subject, &answer, None);
        if !answer.proves {
            self.access
                .prove_unless_known(place, Subject::Blob(*digest))
                .await?;
        }
        let told = answer.whole_length();
        let size = match told {
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

    /// Whether what an earlier fill left of the blob came through this repository.
    pub(super) async fn left_here_by(&self, place: &Place, digest: &Digest) -> bool {
        if !self.store.has_partial(digest) {
            return false;
        }
        let digest = *digest;
        let (registry, repository) = (place.registry.clone(), place.repository.clone());
        let came = move |store: &Store| store.partial_came_through(&digest, &registry, &repository);
        let what = format!("the checkpoint of {digest}");
        self.store.ask(what, came).await.unwrap_or(false)
    }

    /// What is known of this caller's right to this digest.
    pub(super) fn right(&self, place: &Place, digest: &Digest) -> Result<Right, PullError> {
        let proven = self.proven(place, &Reference::Digest(*digest))?;
        Ok(match (proven, place.record.link(digest)) {
            (true, Some(_)) => Right::Digest,
            (true, None) => Right::Repository,
            (false, _) => Right::None,
        })
    }

    /// The blob from the node tier, if this repository holds it and this caller may read it. What was found out about
    /// its right on the way is in `right`.
    pub(super) async fn held_blob(
        &self,
        place: &Place,
        digest: &Digest,
        right: &mut Right,
    ) -> Result<Option<Arc<Blob>>, PullError> {
        if let Some(link) = place.record.link(digest) {
            if *right == Right::None {
                self.access.prove(place, Subject::Blob(*digest)).await?;
                *right = Right::Digest;
            }
            return Ok(match self.store.find(digest, Some(link.size)).await {
                Some(blob) => self.sound(blob).await,
                None => None,
            });
        }
        let Some(blob) = self.store.find(digest, None).await else {
            return Ok(None);
        };
        if !self.came_from_registry(place, digest).await {
            return Ok(None);
        }
        // It may have been proven a moment ago, while the blob was still on its way.
        if *right != Right::Digest {
            let size = Some(blob.size());
            self.prove_claim(place, digest, size).await?;
            *right = Right::Digest;
        }
        place.record.add_link(Link {
            digest: *digest,
            size: blob.size(),
            media_type: None,
        });
        Ok(self.sound(blob).await)
    }

    /// Whether bytes that are here, without anybody having shown that this repository holds them, came from its registry:
    /// only then its word counts, for another may claim any digest (promise P16).
    pub(super) async fn came_from_registry(&self, place: &Place, digest: &Digest) -> bool {
        self.store.is_held_in(&place.registry, digest).await
    }

    /// A blob that was served whole a short time ago and is asked for again may have rotted: its client would say nothing
    /// and just ask again. It is hashed before it is served; a very large one, or one on a slow disk, while it is.
    async fn sound(&self, blob: Arc<Blob>) -> Option<Arc<Blob>> {
        if !self.store.is_suspicious(&blob) {
            // Somebody else may be looking.
            let small = blob.size() <= CHECKED_FIRST;
            let found = if small {
                let checking = self.checks.join(blob.digest());
                timeout(CHECKED_WITHIN, checking).await.unwrap_or(None)
            } else {
                None
            };
            return found.unwrap_or(true).then_some(blob);
        }
        let (store, suspect) = (Arc::clone(&self.store), Arc::clone(&blob));
        let check = async move {
            tokio::task::spawn_blocking(move || store.check(&suspect))
                .await
                .unwrap_or(true)
        };
        let key = *blob.digest();
        if blob.size() > CHECKED_FIRST {
            let checks = self.checks.clone();
            tokio::spawn(async move { checks.run(key, check).await });
            return Some(blob);
        }
        let checking = self.checks.run(key, check);
        let sound = timeout(CHECKED_WITHIN, checking).await.unwrap_or(None);
        sound.unwrap_or(true).then_some(blob)
    }

    /// The origin must serve this very digest to this caller, now.
    async fn prove_claim(
        &self,
        place: &Place,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<(), PullError> {
        let subject = Subject::Blob(*digest);
        Ok(self.access.prove_claim(place, subject, size).await?)
    }
}

/// Answers whose client expects everything to the end, and so the right digest.
pub(super) fn to_the_end(selected: &Selected) -> bool {
    matches!(selected, Selected::Whole | Selected::One { open: true, .. })
}

pub(super) fn head(digest: &Digest, size: u64) -> Pulled {
    let mut headers = common(digest);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(OCTETS));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    Pulled {
        status: StatusCode::OK,
        headers,
        body: Body::empty(),
        tier: Tier::None,
        outcome: Outcome::Hit,
    }
}

fn common(digest: &Digest) -> HeaderMap {
    let mut headers = HeaderMap::new();
    put(&mut headers, DIGEST, &digest.to_string());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers
}

/// The response for a selection. It is the same whether the content is stored or on its way.
pub(super) fn answer(
    digest: &Digest,
    size: u64,
    selected: &Selected,
    content: Content,
) -> Result<Pulled, PullError> {
    let mut headers = common(digest);
    let mut media_type = OCTETS.to_owned();
    let (status, segments) = match selected {
        Selected::Unsatisfiable => return Err(PullError::Range(size)),
        Selected::Whole if size == 0 => (StatusCode::OK, Vec::new()),
        Selected::Whole => (StatusCode::OK, vec![Segment::Range(Range::new(0, size))]),
        Selected::One { range, .. } => {
            put(
                &mut headers,
                header::CONTENT_RANGE,
                &range.content_range(size),
            );
            (StatusCode::PARTIAL_CONTENT, vec![Segment::Range(*range)])
        }
        Selected::Many(ranges) => {
            let boundary = format!("{:032x}", fastrand::u128(..));
            media_type = format!("multipart/byteranges; boundary={boundary}");
            (
                StatusCode::PARTIAL_CONTENT,
                multipart(&boundary, ranges, size),
            )
        }
    };
    put(&mut headers, header::CONTENT_TYPE, &media_type);
    let body = Body::new(content, segments);
    headers.insert(
        header::CONTENT_LENGTH,
        HeaderValue::from(body.len().unwrap_or(0)),
    );
    Ok(Pulled {
        status,
        headers,
        body,
        tier: Tier::None,
        outcome: Outcome::Hit,
    })
}

/// RFC 9110 section 14.6.
fn multipart(boundary: &str, ranges: &[Range], size: u64) -> Vec<Segment> {
    let mut segments = Vec::with_capacity(ranges.len() * 2 + 1);
    let mut line = "";
    for range in ranges {
        let part = format!(
            "{line}--{boundary}\r\nContent-Type: {OCTETS}\r\nContent-Range: {}\r\n\r\n",
            range.content_range(size)
        );
        segments.push(Segment::Bytes(part.into()));
        segments.push(Segment::Range(*range));
        line = "\r\n";
    }
    segments.push(Segment::Bytes(format!("\r\n--{boundary}--\r\n").into()));
    segments
}
