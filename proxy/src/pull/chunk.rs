//! Chunks: parts of a blob beyond its beginning, which a client asks for one by one.
//!
//! containerd asks only the first host of its list for the later chunks of a layer. It goes on to the next host only
//! after a body that ends short; an error before the headers ends its pull. So a chunk that cannot be had yet gets its
//! headers, and its body waits. This requires that the caller may read the repository and that the blob's size is
//! known.
//!
//! An attempt that brings no byte is remembered as barren. The next attempt at the same offset gets an error before its
//! headers, so that the client falls back while it still can. None of this applies to offset 0, where clients fall back
//! by themselves.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use larder_shared::{
    Digest, RangeHeader, Reference, RegistryName, Repository, Route,
    range::{Selected, Spec},
};
use lru::LruCache;

use super::{Pull, PullError, Pulled, Request, selection};
use crate::{
    access::{Place, Verdict},
    body::{Awaited, Content},
    fill::FillError,
    identity::Fingerprint,
    metrics::{Outcome, Tier},
    upstream::Failure,
};

/// Sizes that are remembered at once, and barren attempts.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// A barren attempt counts for this long. It says nothing about the next pull.
const BARREN_FOR: Duration = Duration::from_mins(2);

/// The headers of a delayed chunk leave this long after the request arrived, well within the 5 s that all headers have.
const HEADERS_AFTER: Duration = Duration::from_secs(3);

/// A body may be without a byte for this long, whatever it waits for (promise P12).
const CHUNK_IDLE: Duration = Duration::from_secs(20);

/// The pause between two attempts to get a delayed chunk.
const PAUSE: Duration = Duration::from_secs(1);

/// One digest in one repository.
type Held = (RegistryName, Repository, Digest);

/// The memory about blobs that clients ask for in chunks.
#[derive(Debug)]
pub struct Chunks {
    /// Sizes of blobs, as a manifest of the repository or a source has stated them.
    sizes: Mutex<LruCache<Held, u64>>,
    /// Attempts that brought no byte, as hashes of digest, repository, offset and caller.
    barren: Mutex<LruCache<u64, Instant>>,
    hasher: RandomState,
}

impl Default for Chunks {
    fn default() -> Self {
        Self {
            sizes: Mutex::new(LruCache::new(REMEMBERED)),
            barren: Mutex::new(LruCache::new(REMEMBERED)),
            hasher: RandomState::new(),
        }
    }
}

impl Chunks {
    /// Records the sizes of blobs of this repository.
    pub(super) fn told(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        sizes: impl IntoIterator<Item = (Digest, u64)>,
    ) {
        let mut known = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        for (digest, size) in sizes {
            known.put((registry.clone(), repository.clone(), digest), size);
        }
    }

    fn size(&self, held: &Held) -> Option<u64> {
        let mut known = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(held).copied()
    }

    fn attempt(&self, held: &Held, caller: Fingerprint, offset: u64) -> u64 {
        self.hasher.hash_one((held, caller, offset))
    }

    /// Records that an attempt has ended without a byte.
    fn note_barren(&self, attempt: u64, now: Instant) {
        let mut barren = self.barren.lock().unwrap_or_else(PoisonError::into_inner);
        barren.put(attempt, now);
    }

    fn is_barren(&self, attempt: u64, now: Instant) -> bool {
        let barren = self.barren.lock().unwrap_or_else(PoisonError::into_inner);
        let at = barren.peek(&attempt);
        at.is_some_and(|at| now.saturating_duration_since(*at) < BARREN_FOR)
    }
}

/// The answer to a request for a chunk that cannot be had yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Patience {
    /// An error in time, as for every other request.
    Error,
    /// Headers with the blob's size, and a body that waits.
    Headers(u64),
    /// The answer once its first byte has arrived; an error if none arrives in time.
    FirstByte,
}

/// A pure decision. `barren`: the last attempt at the same offset was. `size`: the blob's, if known. `may_read`: the
/// caller may read the repository.
fn patience(barren: bool, size: Option<u64>, may_read: bool) -> Patience {
    match (barren, size) {
        (true, _) => Patience::FirstByte,
        (false, Some(size)) if may_read => Patience::Headers(size),
        (false, _) => Patience::Error,
    }
}

impl Pull {
    /// Answers a request. A chunk beyond the beginning of a blob may get its headers before its bytes can be had.
    pub async fn serve_chunk(self: &Arc<Self>, request: Request) -> Result<Pulled, PullError> {
        // Starts before the caller's right is checked, which may be slow: a program may be asked for the node's
        // credential.
        let headers_at = tokio::time::Instant::now() + HEADERS_AFTER;
        let Some((held, offset)) = self.chunk_of(&request) else {
            return self.serve(request).await;
        };
        let attempt = self
            .chunks
            .attempt(&held, request.caller.identity.fingerprint(), offset);
        let barren = self.chunks.is_barren(attempt, Instant::now());
        let size = self.chunks.size(&held);
        let may_read = !barren && size.is_some() && self.may_read(&request).await;
        let pulled = match patience(barren, size, may_read) {
            Patience::Error => self.serve(request).await?,
            Patience::Headers(size) => self.awaited(request, &held.2, size, headers_at).await?,
            Patience::FirstByte => {
                let mut pulled = self.serve(request).await?;
                let first = pulled.body.first().await;
                first.map_err(|error| FillError::Broken(error.to_string()))?;
                pulled
            }
        };
        let pull = Arc::clone(self);
        Ok(Pulled {
            body: pulled
                .body
                .if_barren(move || pull.chunks.note_barren(attempt, Instant::now())),
            ..pulled
        })
    }

    /// The blob and the offset, if the request asks for one chunk beyond the beginning.
    fn chunk_of(&self, request: &Request) -> Option<(Held, u64)> {
        let (Route::Blob(address, digest), false) = (&request.route, request.head) else {
            return None;
        };
        let RangeHeader::Bytes(specs) = &request.range else {
            return None;
        };
        let (&[Spec::Bounded(offset, _)] | &[Spec::Open(offset)]) = &specs[..] else {
            return None;
        };
        let (registry, repository) = self.resolve(address).ok()?;
        (offset > 0).then_some(((registry, repository, *digest), offset))
    }

    /// Whether there is a live verdict for this caller. Headers reveal that a digest is here, and its size.
    async fn may_read(&self, request: &Request) -> bool {
        let Some(address) = request.route.address() else {
            return false;
        };
        let place: Place = match self.place(address, &request.caller).await {
            Ok(place) => place,
            Err(_) => return false,
        };
        let Route::Blob(_, digest) = request.route else {
            return false;
        };
        let wanted = Reference::Digest(digest);
        matches!(
            self.access.verdict_on(&place, Some(&wanted)),
            Verdict::Allowed | Verdict::Ask { bridged: true }
        )
    }

    /// The answer, if it comes before `headers_at`; otherwise its headers, with a body that waits for it.
    async fn awaited(
        self: &Arc<Self>,
        request: Request,
        digest: &Digest,
        size: u64,
        headers_at: tokio::time::Instant,
    ) -> Result<Pulled, PullError> {
        let selected = request.range.select(size);
        let ask = {
            let (pull, request) = (Arc::clone(self), request.clone());
            move || {
                let (pull, request) = (Arc::clone(&pull), request.clone());
                Box::pin(async move { pull.serve(request).await })
            }
        };
        let mut asked = ask();
        let soon = tokio::time::timeout_at(headers_at, &mut asked).await;
        let first = match soon {
            Ok(Err(error)) if may_come(&error) => None,
            Ok(done) => return done,
            Err(_) => Some(asked),
        };
        if !matches!(selected, Selected::One { .. }) {
            return Err(PullError::Range(size));
        }
        let give_up = tokio::time::Instant::now() + CHUNK_IDLE;
        let coming = async move {
            let mut asked = first;
            loop {
                let asking = if let Some(asking) = asked.take() {
                    asking
                } else {
                    tokio::time::sleep(PAUSE).await;
                    ask()
                };
                // An answer whose body brings no byte is given no more time than a missing answer.
                let beginning = async {
                    let mut body = asking.await?.body;
                    let first = body.first().await;
                    Ok::<_, PullError>(first.map(|()| body))
                };
                match tokio::time::timeout_at(give_up, beginning).await {
                    Err(_) => return Err("it does not come".to_owned()),
                    Ok(Ok(begun)) => return begun.map_err(|error| error.to_string()),
                    Ok(Err(error)) if may_come(&error) => {}
                    Ok(Err(error)) => return Err(error.to_string()),
                }
            }
        };
        let content = Content::Awaited(Awaited::new(coming));
        selection::answer(digest, size, &selected, content)
            .map(|pulled| pulled.from(Tier::Upstream, Outcome::Miss))
    }
}

/// Whether the same request may succeed in a moment.
fn may_come(error: &PullError) -> bool {
    match error {
        PullError::Upstream(failure) | PullError::Fill(FillError::Upstream(failure)) => {
            match failure {
                Failure::Unreachable { .. } | Failure::Invalid { .. } => true,
                Failure::Limited { retry_after, .. } => {
                    retry_after.is_none_or(|after| after < CHUNK_IDLE)
                }
                _ => false,
            }
        }
        PullError::Fill(FillError::Broken(_)) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_chunk_gets_that_cannot_be_had_yet() {
        for (barren, size, may_read, wanted) in [
            (false, None, true, Patience::Error),
            (false, Some(9), false, Patience::Error),
            (false, Some(9), true, Patience::Headers(9)),
            (true, Some(9), true, Patience::FirstByte),
            (true, None, false, Patience::FirstByte),
        ] {
            assert_eq!(patience(barren, size, may_read), wanted);
        }
    }

    #[test]
    fn a_barren_attempt_is_one_at_the_same_offset_by_the_same_caller() {
        let chunks = Chunks::default();
        let held = |repository: &str| {
            let name = |name: &str| name.parse().expect("a name");
            let repository = repository.parse().expect("a name");
            (name("a.io"), repository, Digest::sha256(b"x"))
        };
        let nobody = crate::identity::Identity::anonymous().fingerprint();
        let now = Instant::now();
        let attempt = |repository: &str, offset| chunks.attempt(&held(repository), nobody, offset);
        chunks.note_barren(attempt("a/b", 5), now);
        assert!(chunks.is_barren(attempt("a/b", 5), now));
        assert!(!chunks.is_barren(attempt("a/b", 6), now));
        assert!(!chunks.is_barren(attempt("a/c", 5), now));
        assert!(!chunks.is_barren(attempt("a/b", 5), now + BARREN_FOR));
    }
}
