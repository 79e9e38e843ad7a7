//! Proves which repository holds the content that the container runtime has (promise P29): on demand for a caller, and
//! in the background for guesses that the runtime nominates ([`crate::adopt`]).

use std::{collections::HashSet, sync::Arc, time::Duration};

use larder_shared::{Digest, Range, Reference, Tag, media};

use super::{Manifest, Pull, PullError, fetch, peer_records::tell_arrived};
use crate::{
    access::{Part, Place, Unproven},
    adopt::{Answered, Guess, What},
    clock::unix_now,
    metrics::{self, Adopted},
    store::{Blob, Link, Names},
    upstream::{Failure, Subject, Want},
};

/// A tag's manifest has to come within this time.
const MANIFEST_WITHIN: Duration = Duration::from_secs(4);

/// Guesses spare a registry that states its quota: below one `QUOTA_LEFT`th of the quota, they pause for `QUOTA_PAUSE`.
const QUOTA_LEFT: u64 = 2;
const QUOTA_PAUSE: Duration = Duration::from_mins(10);

/// At most so many digests of one image are proven with a caller's right. The pause between two of them has jitter.
const FAMILY: usize = 256;
const FAMILY_PAUSE: Duration = Duration::from_millis(100);

impl Pull {
    /// Whether the origin holds a blob that is here, and serves it to this caller. Without a clear answer, the request
    /// goes on as if the blob were not here. A refusal is returned as the error.
    pub(super) async fn origin_holds(
        &self,
        place: &Place,
        blob: &Arc<Blob>,
    ) -> Result<bool, PullError> {
        let (digest, size) = (*blob.digest(), blob.size());
        let Some(parts) = self.parts(blob).await else {
            return Ok(false);
        };
        let subject = Subject::Blob(digest);
        let asked = self
            .access
            .prove_holding(place, subject.clone(), digest, size, parts);
        match Box::pin(asked).await {
            Ok(_) => {
                self.count_adopted(Answered::Proven);
                Ok(true)
            }
            Err(Unproven::Differs) => {
                self.count_adopted(Answered::Differs);
                tracing::warn!(blob.digest = %digest, upstream.registry = %place.registry, upstream.repository = %place.repository, "the registry returned other bytes than the container runtime holds; the blob is downloaded and hashed");
                Ok(false)
            }
            Err(Unproven::Failed(failure)) => {
                self.access.met(place, &subject, &failure);
                match failure {
                    Failure::Refused(_) | Failure::Forbidden(_) => Err(failure.into()),
                    // Another member may vouch for the repository, and a mirror may have the blob.
                    _ => Ok(false),
                }
            }
        }
    }

    /// The parts of a blob that an origin has to return.
    async fn parts(&self, blob: &Arc<Blob>) -> Option<Vec<Part>> {
        let mut parts = Vec::new();
        for range in self.access.ranges_to_prove(blob.digest(), blob.size()) {
            let bytes = self.store.read_adopted(blob, range).await?;
            parts.push(Part { range, bytes });
        }
        Some(parts)
    }

    /// Whether the repository is already known to hold the guessed content. No registry is asked.
    pub async fn is_known(&self, guess: &Guess) -> bool {
        let (registry, repository) = (&guess.registry, &guess.repository);
        let record = self.store.record(registry, repository).await;
        let link = record.link(guess.digest());
        match &guess.what {
            What::Blob(_) => link.is_some(),
            What::Manifest(_) => link.is_some_and(|link| link.media_type.is_some()),
            What::Tag(tag, digest) => {
                let known = record.tag(tag);
                link.is_some() && known.is_some_and(|known| known.digest == *digest)
            }
        }
    }

    /// Asks the origin about a guess, without a client's credential, unless the registry should be left alone.
    pub async fn prove_guess(&self, guess: &Guess) -> Answered {
        // A caller's pull may have proven it since.
        if self.is_known(guess).await {
            return Answered::Proven;
        }
        let answered = self.asked_about(guess).await;
        self.count_adopted(answered);
        answered
    }

    async fn asked_about(&self, guess: &Guess) -> Answered {
        let known = self.known_place(guess.registry.clone(), guess.repository.clone());
        let Ok(place) = known.await else {
            return Answered::Refused;
        };
        if let Some(pause) = self.left_alone(&place) {
            return Answered::Later(Some(pause));
        }
        let place = self.shared(place).await;
        let asked = match &guess.what {
            What::Tag(tag, digest) => self.prove_tag(&place, tag, digest).await,
            What::Manifest(digest) => self.prove_manifest(&place, digest).await,
            What::Blob(digest) => self.prove_blob(&place, digest).await,
        };
        match asked {
            Ok(answered) => answered,
            Err(Unproven::Differs) => Answered::Differs,
            Err(Unproven::Failed(failure)) => answered_by(&place, &failure),
        }
    }

    /// How long guesses should leave the registry alone; `None` if they may ask it now. A guess is never the probe that
    /// ends a silence or closes a breaker.
    fn left_alone(&self, place: &Place) -> Option<Duration> {
        if let Some(left) = self.upstreams.origin_rests(&place.registry) {
            return Some(left);
        }
        let fares = self.upstreams.fares(&place.registry).pop()?;
        let scarce = fares
            .quotas
            .iter()
            .any(|(_, quota)| quota.remaining.saturating_mul(QUOTA_LEFT) < quota.limit);
        scarce.then_some(QUOTA_PAUSE)
    }

    /// Proves an image that a caller was served, with that caller's right: the manifest, and the content that it names,
    /// as far as the runtime holds it. Goes on only after content that is proven, unreadable here, or missing at the
    /// origin.
    pub async fn prove_family(&self, place: &Place, root: Digest) {
        let mut pending = vec![(root, true)];
        let mut seen = HashSet::new();
        while let Some((digest, is_manifest)) = pending.pop() {
            if seen.len() == FAMILY || !seen.insert(digest) || !self.store.may_adopt(&digest) {
                continue;
            }
            let link = place.record.link(&digest);
            let known = link.is_some_and(|link| link.media_type.is_some() || !is_manifest);
            if !known {
                if self.left_alone(place).is_some() {
                    return;
                }
                let asked = if is_manifest {
                    self.prove_manifest(place, &digest).await
                } else {
                    self.prove_blob(place, &digest).await
                };
                let answered = match asked {
                    Ok(answered) => answered,
                    Err(Unproven::Differs) => Answered::Differs,
                    Err(Unproven::Failed(failure)) => answered_by(place, &failure),
                };
                self.count_adopted(answered);
                match answered {
                    Answered::Proven | Answered::Unread | Answered::Missing => {}
                    _ => return,
                }
                tokio::time::sleep(FAMILY_PAUSE.mul_f64(0.5 + fastrand::f64())).await;
            }
            if is_manifest && let Some(bytes) = self.store.bytes(&digest, media::MAX_MANIFEST).await
            {
                let names = Names::of(&bytes);
                pending.extend(names.leaves().map(|named| (named.digest, false)));
                pending.extend(names.manifests.iter().map(|named| (named.digest, true)));
            }
        }
    }

    async fn prove_blob(&self, place: &Place, digest: &Digest) -> Result<Answered, Unproven> {
        let Some(blob) = self.store.peek_adopted(digest, None).await else {
            return Ok(Answered::Unread);
        };
        let Some(parts) = self.parts(&blob).await else {
            return Ok(Answered::Unread);
        };
        let (subject, size) = (Subject::Blob(*digest), blob.size());
        self.access
            .prove_holding(place, subject, *digest, size, parts)
            .await?;
        let link = Link {
            digest: *digest,
            size,
            media_type: None,
        };
        self.keep_proven(place, link);
        self.tell_proven(place, &Reference::Digest(*digest));
        Ok(Answered::Proven)
    }

    async fn prove_manifest(&self, place: &Place, digest: &Digest) -> Result<Answered, Unproven> {
        let bytes = self.store.adopted_bytes(digest, media::MAX_MANIFEST);
        let Some(bytes) = bytes.await else {
            return Ok(Answered::Unread);
        };
        let reference = Reference::Digest(*digest);
        let (subject, size) = (Subject::Manifest(reference.clone()), bytes.len() as u64);
        let whole = Part {
            range: Range::new(0, size),
            bytes: bytes.to_vec(),
        };
        let media_type = self
            .access
            .prove_holding(place, subject, *digest, size, vec![whole])
            .await?;
        // Bytes that are no manifest have no media type to be served with.
        let Ok(manifest) = Manifest::of(*digest, bytes, media_type.as_deref()) else {
            return Ok(Answered::Differs);
        };
        self.keep_proven(place, link_of(&manifest));
        self.tell_proven(place, &reference);
        Ok(Answered::Proven)
    }

    /// Reads the manifest that the origin's tag points to. If the runtime has the same one, the repository holds it
    /// too.
    async fn prove_tag(
        &self,
        place: &Place,
        tag: &Tag,
        digest: &Digest,
    ) -> Result<Answered, Unproven> {
        let reference = Reference::Tag(tag.clone());
        let subject = Subject::Manifest(reference.clone());
        let mut ask = place.ask(subject, Want::All).proof();
        ask.of_origin = true;
        ask.within = Some(MANIFEST_WITHIN);
        let receiving = self
            .upstreams
            .receiving(&place.registry, metrics::Source::Upstream);
        let reading = async {
            let answer = self.upstreams.ask(&ask).await?;
            fetch::read(place, &reference, answer, &receiving).await
        };
        let late = || Failure::Unreachable {
            at: place.registry.to_string(),
            why: format!("no answer within {MANIFEST_WITHIN:?}"),
        };
        let read = tokio::time::timeout(MANIFEST_WITHIN, reading).await;
        let manifest = match read.unwrap_or_else(|_| Err(late().into())) {
            Ok(manifest) => manifest,
            Err(PullError::Upstream(failure)) => return Err(failure.into()),
            // The manifest is too large, or its digest is not the one that the registry states.
            Err(_) => return Ok(Answered::Differs),
        };
        let served = [reference.clone(), Reference::Digest(manifest.digest)];
        self.access.accepted(place, &served);
        if manifest.digest != *digest {
            return Ok(Answered::Elsewhere);
        }
        self.keep_proven(place, link_of(&manifest));
        let now = manifest.descriptor().checked_now();
        place.record.set_tag(tag.clone(), now);
        self.tell_proven(place, &reference);
        Ok(Answered::Proven)
    }

    /// Records that the repository holds the content. Other members may then be served from here.
    fn keep_proven(&self, place: &Place, link: Link) {
        let digest = link.digest;
        let arrived = place.record.add_link(link);
        tell_arrived(&self.cluster, place, arrived);
        self.store.note_proven(&digest);
        self.fills.announce(digest);
    }

    fn tell_proven(&self, place: &Place, reference: &Reference) {
        if self.cluster.is_joined() || self.cluster.is_there() {
            self.tell_served(place, reference);
        }
    }

    fn count_adopted(&self, answered: Answered) {
        self.metrics.adoption.asked(answered.into());
    }
}

fn link_of(manifest: &Manifest) -> Link {
    Link {
        digest: manifest.digest,
        size: manifest.bytes.len() as u64,
        media_type: Some(manifest.media_type.clone()),
    }
}

/// Translates a failure into the outcome of a guess. It takes no right away: no client has asked.
fn answered_by(place: &Place, failure: &Failure) -> Answered {
    match failure {
        Failure::Refused(_) => {
            if place.identity.is_anonymous() {
                // In an outage, larder then asks a client for its credential.
                place.record.learn_not_public(unix_now());
            }
            Answered::Refused
        }
        Failure::Forbidden(_) => Answered::Refused,
        Failure::NotFound(_) => Answered::Missing,
        Failure::Unsatisfiable { .. } => Answered::Differs,
        Failure::Limited { retry_after, .. } => Answered::Later(*retry_after),
        Failure::Unreachable { .. } | Failure::Invalid { .. } => Answered::Later(None),
    }
}

impl From<Answered> for Adopted {
    fn from(answered: Answered) -> Self {
        match answered {
            Answered::Proven => Self::Proven,
            Answered::Elsewhere => Self::Elsewhere,
            Answered::Refused => Self::Refused,
            Answered::Missing => Self::Missing,
            Answered::Differs => Self::Differs,
            Answered::Later(_) | Answered::Unread => Self::Later,
        }
    }
}
