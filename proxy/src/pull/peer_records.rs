//! Records of tags and verdicts that members share, so that a node in an outage can go on with what another has seen.
//!
//! A node tells the others after an answer from upstream. It listens only while upstream cannot be asked, and only to
//! bridge that outage. A tag record from another member is never fresh, and a verdict keeps the time at which the
//! origin gave it.

use std::{sync::Arc, time::Duration};

use larder_shared::{Reference, Route, Tag};

use super::{Pull, PullError, Pulled};
use crate::{
    access::{Place, Verdict},
    clock::unix_now,
    cluster::{
        Cluster,
        records::{PeerRecord, of_repository, of_tag},
    },
    metrics::Outcome,
    store::TagRecord,
    upstream::Failure,
};

impl Pull {
    /// Asks what the other members know of this repository, this caller and this tag. Returns whether any of it is new.
    pub(super) async fn hear(&self, place: &Place, tag: Option<&Tag>) -> bool {
        let thing = of_repository(&place.registry, &place.repository);
        let verdict = |kept: &PeerRecord| kept.public().is_some() || !kept.grants.is_empty();
        let mut known = self.cluster.recall(&thing, verdict).await;
        let (registry, repository) = (&place.registry, &place.repository);
        known.merge(self.cluster.durable_verdict(registry, repository).await);
        let who = place.identity.shared().map(|who| who.to_string());
        let known = known.sane(unix_now());
        let accepted = who.and_then(|who| known.granted(&who));
        let mut new = self
            .access
            .learn(place, known.public(), known.refused(), accepted);
        if let Some(tag) = tag
            && place.record.tag(tag).is_none()
            && let Some(told) = self.recall_tag(place, tag).await
        {
            place.record.set_tag(tag.clone(), heard(told));
            new = true;
        }
        if new {
            tracing::info!(
                upstream.registry = %place.registry,
                upstream.repository = %place.repository,
                "upstream is out of reach; other members know the repository"
            );
        }
        new
    }

    /// What the other members know of a tag.
    async fn recall_tag(&self, place: &Place, tag: &Tag) -> Option<TagRecord> {
        let (registry, repository) = (&place.registry, &place.repository);
        let thing = of_tag(registry, repository, tag);
        let mut known = self.cluster.recall(&thing, |kept| kept.tag.is_some()).await;
        known.merge(self.cluster.durable_tag(registry, repository, tag).await);
        known.sane(unix_now()).tag
    }

    /// A newer record of a tag than `known`, if the other members have one. A record that this node only heard counts
    /// as older than any check by a member.
    pub(super) async fn hear_newer(
        &self,
        place: &Place,
        tag: &Tag,
        known: &TagRecord,
    ) -> Option<TagRecord> {
        if !self.cluster.is_there() {
            return None;
        }
        let told = Box::pin(self.recall_tag(place, tag)).await?;
        let newer = told.digest != known.digest && told.checked >= known.checked;
        newer.then(|| heard(told))
    }

    /// Tells the other members what upstream has just said about a manifest and about this caller's right to it.
    pub(super) fn tell(&self, place: &Place, route: &Route, answered: &Result<Pulled, PullError>) {
        let Route::Manifest(_, reference) = route else {
            return;
        };
        if !self.cluster.is_joined() && !self.cluster.is_there() {
            return;
        }
        match answered {
            Ok(pulled) if pulled.outcome != Outcome::Stale => self.tell_served(place, reference),
            Err(PullError::Upstream(Failure::Refused(_))) => self.tell_refusal(place, reference),
            _ => {}
        }
    }

    /// Tells the other members that the origin serves this caller, and what the tag points to.
    pub(super) fn tell_served(&self, place: &Place, reference: &Reference) {
        if self.access.verdict(place) != Verdict::Allowed {
            return;
        }
        let at = |age: Duration| unix_now().saturating_sub(age.as_secs());
        let mut verdict = PeerRecord {
            public: place.record.public_since().map(at),
            ..PeerRecord::default()
        };
        let accepted = self.access.accepted_since(place).map(at);
        if let (Some(who), Some(at)) = (place.identity.shared(), accepted) {
            verdict.grants.insert(who.to_string(), at);
        }
        let told = match reference {
            Reference::Tag(tag) => place.record.tag(tag).map(|known| (tag, kept(known))),
            Reference::Digest(_) => None,
        };
        spread(&self.cluster, place, reference, verdict, told);
    }

    /// Tells the other members that the origin refused this caller the repository, once it is known that this was not
    /// the refusal of a single subject.
    fn tell_refusal(&self, place: &Place, reference: &Reference) {
        let (access, cluster) = (Arc::clone(&self.access), Arc::clone(&self.cluster));
        let (place, reference) = (place.clone(), reference.clone());
        tokio::spawn(async move {
            access.settled(&place).await;
            // The refusal may be a remembered one. Its age makes sure that newer verdicts of other members stay valid.
            let Some(age) = access.refused_since(&place) else {
                return;
            };
            let refused = unix_now().saturating_sub(age.as_secs());
            let mut verdict = PeerRecord::default();
            if place.identity.is_anonymous() {
                verdict.refused = Some(refused);
            } else if let Some(who) = place.identity.shared() {
                verdict.revoked.insert(who.to_string(), refused);
            }
            spread(&cluster, &place, &reference, verdict, None);
        });
    }
}

/// Tells a repository's keepers the verdicts on it, and a tag's keepers what the tag points to.
fn spread(
    cluster: &Arc<Cluster>,
    place: &Place,
    reference: &Reference,
    verdict: PeerRecord,
    told: Option<(&Tag, PeerRecord)>,
) {
    let (registry, repository) = (&place.registry, &place.repository);
    let news = told.as_ref().map(|(tag, kept)| (*tag, kept));
    // Most pulls of a tag bring nothing new. A record is sent only if it is new, or was not sent for a while.
    let mut word = verdict.clone();
    word.tag = told.as_ref().and_then(|(_, kept)| kept.tag.clone());
    let thing = match reference {
        Reference::Tag(tag) => of_tag(registry, repository, tag),
        Reference::Digest(_) => of_repository(registry, repository),
    };
    if !cluster.is_news(&thing, &word) {
        return;
    }
    if verdict.refused.is_none() || place.record.holds_something() {
        cluster.write_records(registry, repository, &verdict, news);
    } else {
        // A client may ask for any name, so a refusal is only written where it contradicts a record of the object
        // store.
        let (cluster, place, verdict) = (Arc::clone(cluster), place.clone(), verdict.clone());
        tokio::spawn(async move {
            let (registry, repository) = (&place.registry, &place.repository);
            let there = cluster.durable_verdict(registry, repository).await;
            if there.public.is_some() {
                cluster.write_records(registry, repository, &verdict, None);
            }
        });
    }
    if verdict != PeerRecord::default() {
        let thing = of_repository(registry, repository);
        tokio::spawn(Arc::clone(cluster).remember(thing, verdict));
    }
    if let Some((tag, kept)) = told {
        let thing = of_tag(registry, repository, tag);
        tokio::spawn(Arc::clone(cluster).remember(thing, kept));
    }
}

/// Tells the other members what these tags point to, now that the manifest is here. A runtime sends a HEAD of the tag
/// and then asks for the manifest by digest. The keepers got no record after the HEAD: a digest that no member holds
/// yet would have replaced one that a member does hold.
pub(super) fn tell_arrived(cluster: &Arc<Cluster>, place: &Place, tags: Vec<(Tag, TagRecord)>) {
    if !cluster.is_joined() && !cluster.is_there() {
        return;
    }
    let (registry, repository) = (&place.registry, &place.repository);
    for (tag, record) in tags {
        let kept = kept(record);
        cluster.write_records(
            registry,
            repository,
            &PeerRecord::default(),
            Some((&tag, &kept)),
        );
        let thing = of_tag(registry, repository, &tag);
        tokio::spawn(Arc::clone(cluster).remember(thing, kept));
    }
}

/// The record that the keepers of a tag get.
fn kept(record: TagRecord) -> PeerRecord {
    PeerRecord {
        tag: Some(record),
        ..PeerRecord::default()
    }
}

/// A tag record that was heard from a member. This node did not check it, so it must never count as fresh, and any
/// answer of the registry replaces it.
pub(super) fn heard(told: TagRecord) -> TagRecord {
    TagRecord { checked: 0, ..told }
}
