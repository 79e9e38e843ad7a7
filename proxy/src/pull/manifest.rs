//! Manifests: by tag, which needs a decision, and by digest, which needs only the bytes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use larder_shared::{Digest, Reference, Tag, admin::StepName, media};

use super::{
    DIGEST, Manifest, Pull, PullError, Pulled, explain, outage::SOME, peer_records::tell_arrived,
    put,
};
use crate::{
    access::{Access, Place, Verdict},
    body::Body,
    client::{self, Uncollected},
    clock::{unix_age, unix_now},
    cluster::Cluster,
    config::WhenUnreachable,
    events,
    fill::FillError,
    identity::Fingerprint,
    metrics::{self, Outcome, Receiving, Revalidated, Tier},
    store::{FLUSHED_WITHIN, Link, Store, TagRecord, sizes},
    tags::{self, After, Before, Descriptor, Policy},
    telemetry,
    upstream::{Answer, Failure, Subject, Upstreams, Want},
};

/// What a manifest is of which nobody who counts has said what it is.
const UNTOLD: &str = "application/octet-stream";

/// A manifest's body must be complete within this time.
const BODY: Duration = Duration::from_secs(4);

/// A check of a tag that nothing can bridge takes as long as an answer of upstream may: a client that asks the registry
/// itself waits for it as well.
const UNBRIDGED: Duration = Duration::from_secs(4);

/// What a tag stands for, and how that came to be known.
pub(super) struct Resolved {
    pub(super) answer: Known,
    /// Which endpoint was asked, if one answered.
    pub(super) endpoint: Option<usize>,
    /// Whether it was the origin, or one whose word the operator takes for the origin's.
    proves: bool,
    /// What was known before, and how long ago it was checked.
    pub(super) record: Option<TagRecord>,
    pub(super) age: Duration,
    policy: Policy,
}

/// What was known of a tag before, and what is to be done with it.
struct Old {
    record: Option<TagRecord>,
    age: Duration,
    policy: Policy,
}

/// Either known without a question, or concluded from what the registry said.
pub(super) enum Known {
    Fresh(Box<Pulled>),
    Concluded(After),
}

impl Pull {
    /// What a tag stands for, before anything is fetched: what is known, or what the registry has just said.
    pub(super) async fn resolve_tag(
        &self,
        place: &Place,
        tag: &Tag,
        head: bool,
    ) -> Result<Resolved, PullError> {
        let config = self.config.load_full();
        let record = place.record.tag(tag);
        let checked = record.as_ref().and_then(|record| unix_age(record.checked));
        let age = checked.unwrap_or(Duration::MAX);
        let fresh_for = config.fresh_for(place.registry.as_str(), tag.as_str());
        let policy = Policy {
            when_unreachable: config.tags.when_unreachable,
            when_deleted: config.tags.when_deleted,
        };
        let resolved = |answer| Resolved {
            answer,
            endpoint: None,
            proves: false,
            record: record.clone(),
            age,
            policy,
        };
        let reference = Reference::Tag(tag.clone());
        if self.proven(place, &reference)?
            && let Before::Fresh(known) = tags::decide(record.as_ref(), age, fresh_for)
            && let Some(pulled) = self.stored_manifest(place, &known.digest, head).await
        {
            let pulled = pulled.from(Tier::Node, Outcome::Hit);
            return Ok(resolved(Known::Fresh(Box::new(pulled))));
        }
        // A first GET is its own question: asking with HEAD first would only add a round trip. Where there are other
        // members, the question is small and the manifest comes from them.
        if record.is_none() && !head && !self.cluster.has_others() {
            return Ok(resolved(Known::Concluded(After::Fetch)));
        }
        // Boxed, as whatever is asked beyond memory: every request carries room for it.
        let stale = Box::pin(self.has_stale(place, tag, record.as_ref(), policy));
        let optional = stale.await;
        let within = self.tag_within(optional);
        let asking = self.tags.ask(place, tag, within, optional);
        let told = Box::pin(asking).await;
        self.count_word(record.as_ref(), &told.word);
        match &told.word {
            tags::Word::Failed(failure) => {
                let subject = Subject::Manifest(reference);
                self.access.met(place, &subject, failure);
            }
            // The fetch that follows proves it.
            tags::Word::Untold => {}
            tags::Word::Descriptor(now) if told.proves => {
                let served = [reference, Reference::Digest(now.digest)];
                self.access.accepted(place, &served);
            }
            // A mirror's word: the origin has to say so too.
            _ if !self.proven(place, &reference)? => {
                let subject = Subject::Manifest(reference);
                self.access.prove(place, subject).await?;
            }
            tags::Word::Descriptor(_) => {}
        }
        let concluded = tags::conclude(record.clone(), told.word, policy);
        Ok(Resolved {
            endpoint: told.endpoint,
            proves: told.proves,
            ..resolved(Known::Concluded(concluded))
        })
    }

    /// A manifest, whatever it is asked by.
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

    /// What does the tag point to, how old may that be, and the manifest itself.
    async fn manifest_by_tag(
        &self,
        place: &Place,
        tag: &Tag,
        head: bool,
    ) -> Result<Pulled, PullError> {
        let resolved = self.resolve_tag(place, tag, head).await?;
        events::step(StepName::Tag, || explain::concluded(&resolved));
        let Resolved {
            answer,
            proves,
            record,
            age,
            policy,
            endpoint,
        } = resolved;
        let last = self.upstreams.count(&place.registry);
        let by_mirror = endpoint.is_some_and(|endpoint| endpoint + 1 < last);
        let concluded = match answer {
            Known::Fresh(pulled) => {
                self.metrics.access.revalidated(Revalidated::Fresh);
                return Ok(*pulled);
            }
            Known::Concluded(concluded) => concluded,
        };
        let fetched = match concluded {
            After::Serve(descriptor) => {
                if let Some(pulled) = self.stored_manifest(place, &descriptor.digest, head).await {
                    place.record.set_tag(tag.clone(), tag_record(&descriptor));
                    return Ok(pulled.from(Tier::Node, Outcome::Hit));
                }
                announce(place, tag, &descriptor);
                // Another request may have brought it since, and found nothing announced.
                if let Some(pulled) = self.stored_manifest(place, &descriptor.digest, head).await {
                    let arrived = place.record.arrived(&descriptor.digest);
                    tell_arrived(&self.cluster, place, arrived);
                    return Ok(pulled.from(Tier::Node, Outcome::Hit));
                }
                // A mirror's headers do not tell what a manifest is, nor whether it or the origin has it.
                if head && proves && !by_mirror {
                    return Ok(headers_only(&descriptor).from(Tier::Upstream, Outcome::Miss));
                }
                let fetched =
                    Box::pin(self.fetch(place, Reference::Digest(descriptor.digest))).await;
                match fetched {
                    Err(error) if by_mirror && is_missing(&error) => {
                        let old = Old {
                            record,
                            age,
                            policy,
                        };
                        return Box::pin(self.tag_of_origin(place, tag, old, head)).await;
                    }
                    fetched => fetched.map_err(dangling),
                }
            }
            After::Fetch => {
                let fetched = Box::pin(self.fetch(place, Reference::Tag(tag.clone()))).await;
                self.count_fetched(record.as_ref(), &fetched);
                fetched
            }
            // Boxed: it is rare, and every request carries room for it.
            otherwise => {
                return Box::pin(self.without(place, tag, otherwise, age, head)).await;
            }
        };
        match fetched {
            Ok(manifest) => Ok(manifest.pulled(head, Outcome::Miss)),
            // The question was answered and the manifest cannot be had: no better than no answer.
            Err(PullError::Upstream(failure)) => {
                let otherwise = tags::conclude(record, tags::Word::Failed(failure), policy);
                Box::pin(self.without(place, tag, otherwise, age, head)).await
            }
            Err(error) => Err(error),
        }
    }

    /// The manifest that the tag points to at the origin. A mirror's word has led to nothing and is dropped.
    async fn tag_of_origin(
        &self,
        place: &Place,
        tag: &Tag,
        old: Old,
        head: bool,
    ) -> Result<Pulled, PullError> {
        let stale = self.has_stale(place, tag, old.record.as_ref(), old.policy);
        let within = self.tag_within(stale.await);
        let told = Box::pin(self.tags.ask_origin(place, tag, within)).await;
        let named = Reference::Tag(tag.clone());
        match &told.word {
            tags::Word::Failed(failure) => {
                self.access.met(place, &Subject::Manifest(named), failure);
            }
            tags::Word::Descriptor(descriptor) if told.proves => {
                let served = [named, Reference::Digest(descriptor.digest)];
                self.access.accepted(place, &served);
            }
            _ => {}
        }
        let Old {
            record,
            age,
            policy,
        } = old;
        let reference = match tags::conclude(record.clone(), told.word, policy) {
            After::Serve(descriptor) => {
                if let Some(pulled) = self.stored_manifest(place, &descriptor.digest, head).await {
                    place.record.set_tag(tag.clone(), tag_record(&descriptor));
                    return Ok(pulled.from(Tier::Node, Outcome::Hit));
                }
                announce(place, tag, &descriptor);
                Reference::Digest(descriptor.digest)
            }
            After::Fetch => Reference::Tag(tag.clone()),
            otherwise => return self.without(place, tag, otherwise, age, head).await,
        };
        match Box::pin(self.fetch(place, reference))
            .await
            .map_err(dangling)
        {
            Ok(manifest) => Ok(manifest.pulled(head, Outcome::Miss)),
            Err(PullError::Upstream(failure)) => {
                let otherwise = tags::conclude(record, tags::Word::Failed(failure), policy);
                self.without(place, tag, otherwise, age, head).await
            }
            Err(error) => Err(error),
        }
    }

    /// The registry's own answer is missing, or it says that there is nothing.
    async fn without(
        &self,
        place: &Place,
        tag: &Tag,
        otherwise: After,
        age: Duration,
        head: bool,
    ) -> Result<Pulled, PullError> {
        match otherwise {
            After::Stale { known, failure } => {
                self.newest_stale(place, tag, known, failure, age, head)
                    .await
            }
            After::Forget(failure) => {
                place.record.forget_tag(tag);
                Err(failure.into())
            }
            After::Fail(failure) => Err(failure.into()),
            // A failure concludes in neither.
            After::Serve(_) | After::Fetch => Err(Failure::Unreachable {
                at: place.registry.to_string(),
                why: "the question was lost".to_owned(),
            }
            .into()),
        }
    }

    /// Whether an old answer can take the place of the registry's: the manifest that the tag pointed to is here, or other
    /// members may have it.
    async fn has_stale(
        &self,
        place: &Place,
        tag: &Tag,
        record: Option<&TagRecord>,
        policy: Policy,
    ) -> bool {
        let Some(record) = record else {
            return false;
        };
        policy.when_unreachable == WhenUnreachable::Serve
            && self.may_have_stale(place, &Reference::Tag(tag.clone()))
            && (self.cluster.is_there()
                || self.store.small(&record.digest).is_some()
                || self.store.length(&record.digest).await.is_some())
    }

    /// How long a check of a tag may take: what the operator says, where an old answer or another member can take the
    /// place of the registry's; else all the time that there is.
    fn tag_within(&self, stale: bool) -> Duration {
        if stale || self.cluster.is_there() {
            self.config.load().tags.timeout
        } else {
            UNBRIDGED
        }
    }

    /// A stale answer needs a live verdict; it never makes one (promise P14).
    pub(super) fn may_have_stale(&self, place: &Place, subject: &Reference) -> bool {
        match self.access.verdict_on(place, Some(subject)) {
            Verdict::Allowed | Verdict::Ask { bridged: true } => true,
            Verdict::Ask { bridged: false } | Verdict::Refused => false,
        }
    }

    /// The same where `failure` is why. A registry may hide behind a 404 what this caller may not read any more, so a 404
    /// bridges nothing: where the verdict is old the origin is asked for the manifest that the tag pointed to. Nor does
    /// what no registry says, but for what is public.
    pub(super) async fn right_to_stale(
        &self,
        place: &Place,
        tag: &Tag,
        known: &TagRecord,
        failure: &Failure,
    ) -> Result<(), PullError> {
        let named = Reference::Digest(known.digest);
        let hidden = matches!(failure, Failure::NotFound(_));
        let bridges = hidden || self.access.is_outage(place, failure);
        let may = [&Reference::Tag(tag.clone()), &named]
            .iter()
            .all(|subject| self.may_have_stale(place, subject));
        if !(bridges && may) {
            return Err(failure.clone().into());
        }
        if hidden {
            let subject = Subject::Manifest(named);
            self.access.prove_unless_known(place, subject).await?;
        }
        Ok(())
    }

    /// An old answer, for a caller who may still read the repository. It says that it is old.
    pub(super) async fn stale(
        &self,
        place: &Place,
        tag: &Tag,
        known: &TagRecord,
        failure: Failure,
        age: Duration,
        head: bool,
    ) -> Result<Pulled, PullError> {
        self.right_to_stale(place, tag, known, &failure).await?;
        let stored = self.stored_manifest(place, &known.digest, head).await;
        let mut pulled = match stored {
            Some(pulled) => pulled,
            None if self.cluster.is_there() => {
                match self.manifest_from_anybody(place, &known.digest).await {
                    Some(manifest) => self.kept(place, manifest).pulled(head, Outcome::Miss),
                    None => return Err(failure.into()),
                }
            }
            None => return Err(failure.into()),
        };
        let when = if known.checked == 0 {
            "as another node knows it".to_owned()
        } else if age == Duration::MAX {
            "at a time that this node's clock does not know".to_owned()
        } else {
            format!("{} s ago", age.as_secs())
        };
        let warning =
            format!("299 - \"larder: {failure}; this is what the tag pointed to {when}\"");
        put(&mut pulled.headers, header::WARNING, &warning);
        let tier = match pulled.outcome {
            Outcome::Hit => Tier::Node,
            _ => Tier::Cluster,
        };
        Ok(pulled.from(tier, Outcome::Stale))
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
            // The proof was bridged: it has taken its time, and the members need some.
            if !self.proven(&place, &Reference::Digest(*digest))? {
                place = place.hurried(SOME);
            }
        }
        let manifest = Box::pin(self.fetch(&place, Reference::Digest(*digest))).await?;
        Ok(manifest.pulled(head, Outcome::Miss))
    }

    /// The manifest from the node tier. `None` if its bytes are not here or this repository is not known to hold it.
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
            // It came as a blob.
            None => Manifest::of(*digest, bytes, None).ok()?,
        };
        Some(manifest.pulled(head, Outcome::Hit))
    }

    /// Fetches a manifest from the other members or from upstream, checks it, and keeps it.
    async fn fetch(&self, place: &Place, reference: Reference) -> Result<Arc<Manifest>, PullError> {
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

    /// What a manifest says of its blobs is held against what members say.
    fn expect(&self, manifest: &[u8]) {
        if self.cluster.has_others() {
            self.fills.expect(sizes(manifest));
        }
    }

    fn kept(&self, place: &Place, manifest: Manifest) -> Arc<Manifest> {
        let manifest = Arc::new(manifest);
        keep(&self.store, &self.cluster, place, &manifest);
        self.expect(&manifest.bytes);
        self.fills.announce(manifest.digest);
        manifest
    }

    /// Fetches a manifest once for everyone who wants it now on behalf of `who`, checks it, and keeps it.
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
            // A registry may not tell how long a blob is.
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
                    // A mirror's word: the origin has to say so too.
                    access.prove_unless_known(&place, subject).await?;
                }
                if let Reference::Tag(tag) = &reference {
                    place
                        .record
                        .set_tag(tag.clone(), tag_record(&manifest.descriptor()));
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

/// Reads a manifest whole and checks it against what was asked, or against what its registry says it is.
async fn read(
    place: &Place,
    reference: &Reference,
    answer: Answer,
    receiving: &Receiving,
) -> Result<Manifest, PullError> {
    let told: Option<Digest> = answer
        .header("docker-content-digest")
        .and_then(|d| d.parse().ok());
    let told_type = answer.header("content-type").map(str::to_owned);
    let told_type = told_type.filter(|_| answer.proves);
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
        Reference::Tag(_) => told,
    };
    let unusable = |why: &str| {
        PullError::Upstream(Failure::Invalid {
            at: place.registry.to_string(),
            why: why.to_owned(),
        })
    };
    // Any page would have the digest that it has itself.
    if expected.is_none() && !media::is_manifest(&bytes) {
        return Err(unusable("something that is no manifest"));
    }
    let algorithm = expected.map_or(larder_shared::Algorithm::Sha256, |d| d.algorithm());
    let digest = Digest::of(algorithm, &bytes);
    let manifest = Manifest::of(digest, bytes, told_type.as_deref())
        .map_err(|Schema1| unusable("a manifest of Docker's schema 1, which nobody can verify"))?;
    if expected.is_some_and(|expected| expected != digest) {
        return Err(FillError::Digest.into());
    }
    Ok(manifest)
}

/// A manifest of Docker's schema 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Schema1;

/// Keeps a verified manifest. The client does not wait for the disk.
fn keep(store: &Arc<Store>, cluster: &Arc<Cluster>, place: &Place, manifest: &Arc<Manifest>) {
    store.remember(&manifest.digest, &manifest.bytes);
    let arrived = place.record.add_link(Link {
        digest: manifest.digest,
        size: manifest.bytes.len() as u64,
        media_type: Some(manifest.media_type.clone()),
    });
    tell_arrived(cluster, place, arrived);
    // A disk on which much hangs gets no more threads.
    if !store.takes_more() {
        return;
    }
    let (keeper, cluster) = (Arc::clone(store), Arc::clone(cluster));
    let manifest = Arc::clone(manifest);
    let (registry, repository) = (place.registry.clone(), place.repository.clone());
    let record = Arc::clone(&place.record);
    let what = format!("the manifest {}", manifest.digest);
    let keep = move |store: &Store| {
        // A manifest that no repository is known to hold would be fetched again.
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

/// Neither a mirror nor the origin has what a mirror named. Some registries refuse what they do not have.
fn is_missing(error: &PullError) -> bool {
    matches!(
        error,
        PullError::Upstream(Failure::NotFound(_) | Failure::Refused(_))
    )
}

/// A tag that points to a manifest that is not there is not a tag that was deleted.
fn dangling(error: PullError) -> PullError {
    match error {
        PullError::Upstream(Failure::NotFound(place)) => {
            let why = "the digest of a manifest that it does not have".to_owned();
            PullError::Upstream(Failure::Invalid { at: place, why })
        }
        error => error,
    }
}

/// It becomes what the tag points to when it is here: an outage may come first.
fn announce(place: &Place, tag: &Tag, descriptor: &Descriptor) {
    let announced = tag_record(descriptor);
    place.record.announce_tag(tag.clone(), announced);
}

fn tag_record(descriptor: &Descriptor) -> TagRecord {
    TagRecord {
        digest: descriptor.digest,
        size: descriptor.size,
        media_type: descriptor.media_type.clone(),
        checked: unix_now(),
    }
}

impl Manifest {
    /// A manifest with these bytes, which were verified. Its type is what they say, or their shape; `told` is what the
    /// origin's header said, where it is the origin that answered.
    pub(super) fn of(digest: Digest, bytes: Bytes, told: Option<&str>) -> Result<Self, Schema1> {
        let media_type = match media::kind(&bytes, told) {
            media::Kind::Is(media_type) => media_type,
            media::Kind::Schema1 => return Err(Schema1),
            media::Kind::Unknown => told.unwrap_or(UNTOLD).to_owned(),
        };
        Ok(Self {
            digest,
            media_type,
            bytes,
        })
    }

    fn descriptor(&self) -> Descriptor {
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

fn headers_only(descriptor: &Descriptor) -> Pulled {
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
