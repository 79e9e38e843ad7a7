//! Fetches manifests from the other members or from upstream, checks them against their digest, and keeps them.

use std::{sync::Arc, time::Duration};

use larder_shared::{Algorithm, Digest, Reference, media};

use super::{Manifest, Pull, PullError, manifest::Schema1, peer_records::tell_arrived};
use crate::{
    access::{Access, Place, Verdict},
    client::{self, Uncollected},
    cluster::Cluster,
    fill::FillError,
    identity::Fingerprint,
    metrics::{self, Receiving},
    store::{FLUSHED_WITHIN, Link, Store, sizes},
    telemetry,
    upstream::{Answer, Failure, Subject, Upstreams, Want},
};

/// A manifest's body must be complete within this time.
const BODY: Duration = Duration::from_secs(4);

impl Pull {
    /// Fetches a manifest from the other members or from upstream, checks it, and keeps it.
    pub(super) async fn fetch(
        &self,
        place: &Place,
        reference: Reference,
    ) -> Result<Arc<Manifest>, PullError> {
        let who = place.identity.fingerprint();
        let (Reference::Digest(digest), true) = (&reference, self.cluster.is_there()) else {
            return self.fetch_upstream(place, reference, who).await;
        };
        let digest = *digest;
        // Members answer for the repository, not for this caller.
        let verdict = || self.access.verdict_on(place, Some(&reference));
        if verdict() == Verdict::Allowed
            && let Some(manifest) = self.manifest_from_members(place, &digest).await
        {
            return Ok(self.kept(place, manifest));
        }
        let fetched = self.fetch_upstream(place, reference.clone(), who).await;
        if let Ok(manifest) = &fetched {
            self.expect(&manifest.bytes);
        }
        let failure = match fetched {
            Err(PullError::Upstream(failure)) if self.access.is_outage(place, &failure) => failure,
            done => return done,
        };
        let may_read = matches!(verdict(), Verdict::Allowed | Verdict::Ask { bridged: true });
        if may_read && let Some(manifest) = self.manifest_from_anybody(place, &digest).await {
            return Ok(self.kept(place, manifest));
        }
        Err(failure.into())
    }

    /// Lets fills compare the sizes that a manifest states with the sizes that members state.
    pub(super) fn expect(&self, manifest: &[u8]) {
        if self.cluster.has_others() {
            self.fills.expect(sizes(manifest));
        }
    }

    /// Keeps a manifest that another member or the object store gave.
    pub(super) fn kept(&self, place: &Place, manifest: Manifest) -> Arc<Manifest> {
        let manifest = Arc::new(manifest);
        keep(&self.store, &self.cluster, place, &manifest);
        self.expect(&manifest.bytes);
        self.fills.announce(manifest.digest);
        manifest
    }

    /// Fetches a manifest, checks it, and keeps it. Simultaneous requests of the caller `who` share one fetch.
    pub(super) async fn fetch_upstream(
        &self,
        place: &Place,
        reference: Reference,
        who: Fingerprint,
    ) -> Result<Arc<Manifest>, PullError> {
        let key = (
            place.registry.clone(),
            place.repository.clone(),
            reference.clone(),
            who,
        );
        let fetch = Box::pin(fetch(
            Arc::clone(&self.store),
            Arc::clone(&self.upstreams),
            Arc::clone(&self.access),
            Arc::clone(&self.cluster),
            place.clone(),
            reference,
        ));
        let fetched = self.fetches.run(key, fetch).await.unwrap_or_else(|| {
            Err(PullError::Upstream(Failure::Unreachable {
                at: place.registry.to_string(),
                why: "the fetch was lost".to_owned(),
            }))
        });
        if let Ok(manifest) = &fetched {
            self.chunks
                .told(&place.registry, &place.repository, sizes(&manifest.bytes));
            // Some registries do not state how long a blob is.
            self.fills.expect(sizes(&manifest.bytes));
        }
        fetched
    }
}

/// Asks the endpoints one after the other until one gives bytes that have the digest.
async fn fetch(
    store: Arc<Store>,
    upstreams: Arc<Upstreams>,
    access: Arc<Access>,
    cluster: Arc<Cluster>,
    place: Place,
    reference: Reference,
) -> Result<Arc<Manifest>, PullError> {
    if let Some(manifest) = brought_meanwhile(&store, &access, &place, &reference) {
        return Ok(manifest);
    }
    let subject = Subject::Manifest(reference.clone());
    let mut ask = place.ask(subject.clone(), Want::All);
    let mut last = None;
    for first in 0..upstreams.count(&place.registry).max(1) {
        ask.first = first;
        let answer = match upstreams.ask(&ask).await {
            Ok(answer) => answer,
            Err(failure) => {
                access.met(&place, &subject, &failure);
                return Err(last.unwrap_or(PullError::Upstream(failure)));
            }
        };
        let (endpoint, proves) = (answer.endpoint, answer.proves);
        let receiving = upstreams.receiving(&place.registry, metrics::Source::Upstream);
        match read(&place, &reference, answer, &receiving).await {
            Ok(manifest) => {
                if proves {
                    let served = [reference.clone(), Reference::Digest(manifest.digest)];
                    access.accepted(&place, &served);
                } else {
                    // A mirror's answer proves nothing, so the origin is asked too.
                    access.prove_unless_known(&place, subject).await?;
                }
                if let Reference::Tag(tag) = &reference {
                    place
                        .record
                        .set_tag(tag.clone(), manifest.descriptor().checked_now());
                }
                let manifest = Arc::new(manifest);
                keep(&store, &cluster, &place, &manifest);
                return Ok(manifest);
            }
            Err(PullError::TooLarge) => return Err(PullError::TooLarge),
            Err(error) => {
                if let (PullError::Fill(FillError::Digest), Reference::Digest(digest)) =
                    (&error, &reference)
                {
                    upstreams
                        .brought_wrong_bytes(&place.registry, endpoint, digest)
                        .await;
                }
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or(PullError::Fill(FillError::Digest)))
}

/// A manifest that another request brought after this one looked for it, if that answer also lets this caller read it.
fn brought_meanwhile(
    store: &Store,
    access: &Access,
    place: &Place,
    reference: &Reference,
) -> Option<Arc<Manifest>> {
    let Reference::Digest(digest) = reference else {
        return None;
    };
    let link = place.record.link(digest)?;
    let media_type = link.media_type?;
    if access.verdict_on(place, Some(reference)) != Verdict::Allowed {
        return None;
    }
    let bytes = store.small(digest)?;
    let manifest = Manifest::of(*digest, bytes, Some(&media_type)).ok()?;
    Some(Arc::new(manifest))
}

/// Reads a whole manifest. Checks it against the requested digest, or against the digest that its registry states.
pub(super) async fn read(
    place: &Place,
    reference: &Reference,
    answer: Answer,
    receiving: &Receiving,
) -> Result<Manifest, PullError> {
    let stated: Option<Digest> = answer
        .header("docker-content-digest")
        .and_then(|d| d.parse().ok());
    let stated_type = answer.header("content-type").map(str::to_owned);
    let stated_type = stated_type.filter(|_| answer.proves);
    if answer.content_length() > Some(media::MAX_MANIFEST) {
        return Err(PullError::TooLarge);
    }
    let bytes = client::collect_bounded(answer.body, media::MAX_MANIFEST, BODY)
        .await
        .map_err(|why| match why {
            Uncollected::TooLong(_) => PullError::TooLarge,
            why => Failure::Invalid {
                at: place.registry.to_string(),
                why: why.to_string(),
            }
            .into(),
        })?;
    receiving.add(bytes.len() as u64);
    let expected = match reference {
        Reference::Digest(digest) => Some(*digest),
        Reference::Tag(_) => stated,
    };
    let unusable = |why: &str| {
        PullError::Upstream(Failure::Invalid {
            at: place.registry.to_string(),
            why: why.to_owned(),
        })
    };
    // Without an expected digest, any web page would pass the check below.
    if expected.is_none() && !media::is_manifest(&bytes) {
        return Err(unusable("something that is no manifest"));
    }
    let algorithm = expected.map_or(Algorithm::Sha256, |d| d.algorithm());
    let digest = Digest::of(algorithm, &bytes);
    let manifest = Manifest::of(digest, bytes, stated_type.as_deref())
        .map_err(|Schema1| unusable("a manifest of Docker's schema 1, which nobody can verify"))?;
    if expected.is_some_and(|expected| expected != digest) {
        return Err(FillError::Digest.into());
    }
    Ok(manifest)
}

/// Keeps a verified manifest. The client does not wait for the disk.
fn keep(store: &Arc<Store>, cluster: &Arc<Cluster>, place: &Place, manifest: &Arc<Manifest>) {
    store.remember(&manifest.digest, &manifest.bytes);
    let arrived = place.record.add_link(Link {
        digest: manifest.digest,
        size: manifest.bytes.len() as u64,
        media_type: Some(manifest.media_type.clone()),
    });
    tell_arrived(cluster, place, arrived);
    // If too many calls hang on the disk already, no further thread is started.
    if !store.takes_more() {
        return;
    }
    let (keeper, cluster) = (Arc::clone(store), Arc::clone(cluster));
    let manifest = Arc::clone(manifest);
    let (registry, repository) = (place.registry.clone(), place.repository.clone());
    let record = Arc::clone(&place.record);
    let what = format!("the manifest {}", manifest.digest);
    let keep = move |store: &Store| {
        // The link is written first. Without a link, a stored manifest would be fetched again.
        record.flush();
        if let Err(error) = store.put(&manifest.digest, &manifest.bytes) {
            if let Some(due) = telemetry::due("a manifest is not kept", registry.as_str()) {
                tracing::warn!(blob.digest = %manifest.digest, %error, unsaid = due.unsaid, "a manifest was served but could not be kept; look at the store's disk: space, inodes, permissions");
            }
        } else if let Some(blob) = store.peek(&manifest.digest) {
            let link = Link {
                digest: manifest.digest,
                size: blob.size(),
                media_type: Some(manifest.media_type.clone()),
            };
            cluster.write_behind(&registry, &repository, &link, blob.handle());
        }
    };
    tokio::spawn(async move { keeper.ask_to_the_end(&what, FLUSHED_WITHIN, keep).await });
}
