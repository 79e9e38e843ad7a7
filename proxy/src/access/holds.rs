//! Whether a registry holds the very bytes that are here (promises P16, P29).
//!
//! Some bytes here did not come from a registry, such as those that the container runtime has pulled. They do not tell
//! which repository holds them: anyone can make a label, a name, or a manifest that names their digest. So the origin
//! has to return a part that larder chooses, and the part has to be equal. The end of the blob is asked for too. A
//! compressed layer ends with a checksum of its whole content, which only a server that knows all of it can give.
//!
//! The part is drawn once for each digest while this process runs. A server that knows only some of a private blob may
//! fail when it is asked for the rest. It is then asked for the same part again, under any name. A server that gave
//! other bytes is not believed again for that digest: its content is downloaded and hashed.

use std::{hash::BuildHasher as _, num::NonZeroUsize, sync::Arc, time::Duration};

use larder_shared::{Digest, Range, Reference, RegistryName, Repository, media};
use lru::LruCache;

use super::{Access, Place, Verdict, proof, refused_before};
use crate::{
    client,
    coalesce::Coalesce,
    identity::Fingerprint,
    metrics::Source,
    upstream::{Answer, Failure, Subject, Upstreams, Want},
};

/// Bytes of one part.
pub const PART: u64 = 4 << 10;

/// If a registry takes no ranges, blobs of up to this size are read whole.
const READ_WHOLE: u64 = 1 << 20;

/// How many pairs of registry and digest that differ are remembered.
const DIFFER: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// A part has to arrive within this time.
const PART_WITHIN: Duration = Duration::from_secs(2);

/// A part of the bytes that are here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    pub range: Range,
    pub bytes: Vec<u8>,
}

/// The ranges of a blob of `size` bytes that the origin has to return: one at a random place, and the end. A small blob
/// is asked for whole. `random` must be a number that no registry can foresee.
fn ranges(size: u64, random: u64) -> Vec<Range> {
    if size <= PART {
        return vec![Range::new(0, size)];
    }
    let start = random % (size - PART + 1);
    let anywhere = Range::new(start, start + PART);
    let end = Range::new(size - PART, size);
    if anywhere == end {
        vec![end]
    } else {
        vec![anywhere, end]
    }
}

/// Why it is not proven that the origin holds the bytes.
#[derive(Clone, Debug)]
pub enum Unproven {
    /// The origin returned other bytes, now or before.
    Differs,
    Failed(Failure),
}

impl From<Failure> for Unproven {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Questions under way. Simultaneous questions of one caller about one digest are coalesced.
pub(super) type Comparisons =
    Coalesce<(RegistryName, Repository, Fingerprint, Digest), Result<Option<String>, Unproven>>;

/// The digests for which a registry gave other bytes.
#[derive(Debug)]
pub(super) struct Differ(LruCache<(RegistryName, Digest), ()>);

impl Differ {
    pub(super) fn new() -> Self {
        Self(LruCache::new(DIFFER))
    }
}

impl Access {
    /// The ranges that an origin has to return of a blob of `size` bytes that is here.
    pub fn ranges_to_prove(&self, digest: &Digest, size: u64) -> Vec<Range> {
        ranges(size, self.draw.hash_one(digest))
    }

    /// Asks the origin, and no mirror, for parts of content that is here and that the repository is not known to hold.
    /// If they are equal, the answer is a verdict like any other. No outage is bridged. Returns the media type that the
    /// origin states.
    pub async fn prove_holding(
        self: &Arc<Self>,
        place: &Place,
        subject: Subject,
        digest: Digest,
        size: u64,
        parts: Vec<Part>,
    ) -> Result<Option<String>, Unproven> {
        let reference = Reference::Digest(digest);
        if self.verdict_on(place, Some(&reference)) == Verdict::Refused {
            return Err(refused_before(place).into());
        }
        let differing = (place.registry.clone(), digest);
        if self.memory().differ.0.contains(&differing) {
            return Err(Unproven::Differs);
        }
        let key = (
            place.registry.clone(),
            place.repository.clone(),
            place.identity.fingerprint(),
            digest,
        );
        let (upstreams, asked) = (Arc::clone(&self.upstreams), place.clone());
        let within = place.within(PART_WITHIN);
        let late = || Failure::Unreachable {
            at: place.registry.to_string(),
            why: format!("no answer within {within:?}"),
        };
        let lost = late();
        let late = late();
        let question = async move {
            let compared = compare(&upstreams, &asked, subject, size, parts, within);
            match tokio::time::timeout(within, compared).await {
                Ok(compared) => compared,
                Err(_) => Err(late.into()),
            }
        };
        let compared = self.comparisons.run(key, Box::pin(question)).await;
        let compared = compared.unwrap_or(Err(lost.into()));
        let proven = match &compared {
            Ok(_) => {
                self.accepted(place, &[reference]);
                Ok(())
            }
            Err(Unproven::Differs) => {
                self.memory().differ.0.put(differing, ());
                return compared;
            }
            Err(Unproven::Failed(failure)) => Err(failure.clone()),
        };
        self.metrics.access.proof(proof::outcome(&proven));
        compared
    }
}

/// Whether the origin returns these parts.
async fn compare(
    upstreams: &Upstreams,
    place: &Place,
    subject: Subject,
    size: u64,
    parts: Vec<Part>,
    within: Duration,
) -> Result<Option<String>, Unproven> {
    let mut media_type = None;
    let origin = upstreams.count(&place.registry).saturating_sub(1);
    for (number, part) in parts.iter().enumerate() {
        let whole = part.range == Range::new(0, size);
        let want = match subject {
            Subject::Blob(_) if !whole => Want::Part(part.range),
            _ => Want::All,
        };
        let mut ask = place.ask(subject.clone(), want).proof();
        // The place to which the origin has just redirected counts as the origin.
        ask.anew = number == 0;
        ask.first = origin;
        ask.of_origin = true;
        ask.within = Some(within);
        let answer = upstreams.ask(&ask).await?;
        let other = |why: &str| Failure::Invalid {
            at: place.registry.to_string(),
            why: why.to_owned(),
        };
        if answer.endpoint != origin {
            return Err(other("the word of a mirror").into());
        }
        // For example a web page that stands in a registry's place for a while.
        if answer.whole_length().is_some_and(|length| length != size) {
            return Err(other("something of another size").into());
        }
        media_type = answer.header("content-type").map(str::to_owned);
        let came = came(place, answer, part.range, size).await?;
        let receiving = upstreams.receiving(&place.registry, Source::Upstream);
        receiving.add(came.len() as u64);
        if came != part.bytes {
            return Err(Unproven::Differs);
        }
    }
    Ok(media_type)
}

/// The bytes of `range`, from an answer that has that part or the whole.
async fn came(place: &Place, answer: Answer, range: Range, size: u64) -> Result<Vec<u8>, Failure> {
    let invalid = |why: &str| Failure::Invalid {
        at: place.registry.to_string(),
        why: why.to_owned(),
    };
    if answer.partial {
        let body = client::collect(answer.body, range.len(), PART_WITHIN).await;
        return body
            .map(|bytes| bytes.to_vec())
            .map_err(|why| invalid(&why));
    }
    if size > READ_WHOLE.max(media::MAX_MANIFEST) {
        return Err(invalid("the whole where a part was asked for"));
    }
    let body = client::collect(answer.body, size, PART_WITHIN).await;
    let bytes = body.map_err(|why| invalid(&why))?;
    let part = bytes.get(range.start as usize..range.end as usize);
    let part = part.filter(|_| bytes.len() as u64 == size);
    part.map(<[u8]>::to_vec)
        .ok_or_else(|| invalid("something of another size"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_small_blob_is_wanted_whole_and_of_a_large_one_the_end_too() {
        for size in [0, 1, PART - 1, PART] {
            assert_eq!(ranges(size, 77), [Range::new(0, size)], "{size}");
        }
        assert_eq!(
            ranges(PART + 1, 0),
            [Range::new(0, PART), Range::new(1, PART + 1)]
        );
        assert_eq!(ranges(PART + 1, 1), [Range::new(1, PART + 1)]);
    }

    proptest! {
        /// Any byte may be asked for, but none beyond the end, and the end is always asked for.
        #[test]
        fn within_the_blob_and_with_its_end(size in 0u64..1 << 40, random: u64) {
            let ranges = ranges(size, random);
            prop_assert!(ranges.iter().all(|range| range.end <= size && range.len() <= PART));
            prop_assert_eq!(ranges.last().map(|range| range.end), Some(size));
            if size > PART {
                let start = random % (size - PART + 1);
                prop_assert!(ranges.contains(&Range::new(start, start + PART)));
            }
        }
    }
}
