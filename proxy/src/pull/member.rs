//! The content that another member is given.
//!
//! The member has checked its reader's right to the repository at its own door, so no verdict is needed here. Whether
//! the repository holds the content is decided by the same rule as for a reader of this node (promise P16). A request
//! names the role in which this node is asked, and the role says which members this node may ask in turn.

use std::{net::SocketAddr, pin::pin, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::time::timeout;

use larder_shared::{Digest, Range, RangeHeader, Reference, Role, Route, media};

use super::{
    Manifest, Pull, PullError, Pulled,
    blob::{Given, source_of},
    held::Held,
    selection::{answer, head},
};
use crate::{
    access::Place,
    body::Content,
    cluster::peers,
    fill::{Manner, Right},
    identity::{Fingerprint, Identity},
    metrics::{self, Outcome, Tier},
    store::Store,
    trace::Trace,
    upstream::Failure,
};

/// A member's request.
#[derive(Debug)]
pub struct MemberRequest {
    pub route: Route,
    pub head: bool,
    pub range: RangeHeader,
    pub role: Role,
    /// On whose behalf upstream may be asked: an anonymous caller, or the owner of the lent token.
    pub identity: Identity,
    pub trace: Trace,
}

impl Pull {
    /// Answers a member.
    pub async fn serve_member(&self, request: MemberRequest) -> Result<Pulled, PullError> {
        let (Route::Blob(address, _) | Route::Manifest(address, _)) = &request.route else {
            return Err(unknown("members ask for blobs and manifests"));
        };
        let (registry, repository) = self.resolve(address)?;
        let place = Place {
            identity: request.identity.clone(),
            trace: request.trace.clone(),
            ..self.known_place(registry, repository).await?
        };
        match (&request.route, request.role) {
            (Route::Blob(_, digest), _) if request.head => match place.record.link(digest) {
                Some(link) if self.store.length(digest).await.is_some() => {
                    Ok(head(digest, link.size).from(Tier::Node, Outcome::Hit))
                }
                _ => Err(missing(&place)),
            },
            (Route::Blob(_, digest), Role::Copy) => {
                self.blob_to_copy(&place, digest, &request.range).await
            }
            (Route::Blob(_, digest), role) => {
                self.blob_for_member(&place, digest, &request.range, role)
                    .await
            }
            (Route::Manifest(_, Reference::Digest(digest)), role) => {
                self.manifest_for_member(&place, digest, role).await
            }
            _ => Err(unknown("members ask for digests")),
        }
    }

    /// A blob or manifest that a taker copies: from the disk or from the runtime's store, if it may be copied at all. A
    /// copy is no use of the blob and does not refresh its time of last use.
    async fn blob_to_copy(
        &self,
        place: &Place,
        digest: &Digest,
        range: &RangeHeader,
    ) -> Result<Pulled, PullError> {
        let peers = &self.config.load().cluster.peers;
        let private = peers.as_ref().is_some_and(|peers| peers.copies_private);
        let open = private || place.record.public_since().is_some();
        if !open || place.record.link(digest).is_none() {
            return Err(missing(place));
        }
        let wanted = *digest;
        let look = move |store: &Store| store.peek(&wanted);
        let own = self.store.ask(format!("a copy of {digest}"), look).await;
        let blob = if let Some(own) = own.flatten() {
            own
        } else {
            let adopted = self.store.peek_adopted(digest, None).await;
            adopted.ok_or_else(|| missing(place))?
        };
        let size = blob.size();
        answer(digest, size, &range.select(size), Content::Stored(blob))
            .map(|p| p.from(Tier::Node, Outcome::Hit))
    }

    async fn blob_for_member(
        &self,
        place: &Place,
        digest: &Digest,
        range: &RangeHeader,
        role: Role,
    ) -> Result<Pulled, PullError> {
        let linked = place.record.link(digest).is_some();
        let mut right = if linked { Right::Digest } else { Right::Member };
        if linked || role != Role::Holder {
            match self.held_blob(place, digest, right).await? {
                Held::Blob(blob) => return self.stored(digest, range, blob),
                Held::Nothing(known) => right = known,
            }
        }
        // A node that cannot keep the blob would fetch it once for each member that asks.
        if matches!(role, Role::Holder | Role::Copy) || !self.store.usable() {
            return Err(missing(place));
        }
        let source = source_of(place);
        if right == Right::Member && self.left_here_by(place, digest).await {
            right = Right::Digest;
        }
        match self
            .joined(
                place,
                &source,
                digest,
                range,
                right,
                Manner::member(role.depth()),
            )
            .await?
        {
            Given::Filling(reader) => self.follow(*reader, digest, source, range).await,
            Given::Stored(blob) => self.stored(digest, range, blob),
            Given::Nothing => Err(missing(place)),
        }
    }
}

impl Pull {
    async fn manifest_for_member(
        &self,
        place: &Place,
        digest: &Digest,
        role: Role,
    ) -> Result<Pulled, PullError> {
        let link = place.record.link(digest);
        if link.is_some_and(|link| link.media_type.is_some())
            && let Some(pulled) = self.stored_manifest(place, digest, false).await
        {
            return Ok(pulled.from(Tier::Node, Outcome::Hit));
        }
        if matches!(role, Role::Holder | Role::Copy) {
            return Err(missing(place));
        }
        // All members that ask now share one fetch, whichever token each of them lent. Anonymous members share it with
        // anonymous callers of this node.
        let who = if place.identity.is_anonymous() {
            place.identity.fingerprint()
        } else {
            Fingerprint::MEMBERS
        };
        let manifest = self
            .fetch_upstream(place, Reference::Digest(*digest), who)
            .await?;
        Ok(manifest.pulled(false, Outcome::Miss))
    }

    /// A manifest from the other members, for a caller that may read the repository. A member that is asked in the role
    /// of holder asks no other member.
    pub(super) async fn manifest_from_members(
        &self,
        place: &Place,
        digest: &Digest,
    ) -> Option<Manifest> {
        let asking = async {
            // Depth 1 leaves out relays, which would each fetch the manifest for themselves. A root can easily send
            // one.
            for (member, role) in self.cluster.candidates(digest, 0, 1) {
                if self.cluster.admits(member)
                    && let Some(manifest) = self.manifest_from(place, digest, member, role).await
                {
                    return Some(manifest);
                }
            }
            None
        };
        // Upstream needs its turn before the client's time is up.
        timeout(MEMBERS_WITHIN, asking).await.ok().flatten()
    }

    /// As [`Self::manifest_from_members`], in an outage of upstream: every other member is asked, until one has it.
    pub(super) async fn manifest_from_anybody(
        &self,
        place: &Place,
        digest: &Digest,
    ) -> Option<Manifest> {
        let mut others: Vec<SocketAddr> = self.cluster.members.view().others().collect();
        let keepers = self.cluster.keepers(digest);
        others.sort_by_key(|member| !keepers.contains(member));
        let asked = stream::iter(others)
            .map(|member| self.manifest_from(place, digest, member, Role::Holder))
            .buffer_unordered(ASKED_AT_ONCE)
            .filter_map(std::future::ready);
        if let Some(manifest) = pin!(asked).next().await {
            return Some(manifest);
        }
        self.manifest_from_store(place, digest).await
    }

    /// As [`Self::manifest_from_anybody`], from the object store, if a link there says that the repository holds it.
    async fn manifest_from_store(&self, place: &Place, digest: &Digest) -> Option<Manifest> {
        let (registry, repository) = (&place.registry, &place.repository);
        let link = self
            .cluster
            .durable_link(registry, repository, digest)
            .await?;
        let size = link.size.min(media::MAX_MANIFEST);
        let mut object = self
            .cluster
            .durable_blob(digest, Range::new(0, size))
            .await?;
        let receiving = self
            .upstreams
            .receiving(registry, metrics::Source::ObjectStore);
        let mut bytes = Vec::new();
        while let Some(Ok(piece)) = object.body.next().await {
            receiving.add(piece.len() as u64);
            bytes.extend_from_slice(&piece);
        }
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            if let Some(store) = &self.cluster.store {
                store.distrust(*digest);
            }
            return None;
        }
        Manifest::of(*digest, bytes.into(), None).ok()
    }

    async fn manifest_from(
        &self,
        place: &Place,
        digest: &Digest,
        member: SocketAddr,
        role: Role,
    ) -> Option<Manifest> {
        let ask = self
            .fills
            .ask_of(place, peers::PeerSubject::Manifest(*digest), role)
            .await;
        let answer = self.cluster.peers.ask(member, &ask).await.ok()?;
        let receiving = self
            .upstreams
            .receiving(&place.registry, metrics::Source::Member);
        let bytes = answer.body.collect(media::MAX_MANIFEST, BODY).await.ok()?;
        receiving.add(bytes.len() as u64);
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            tracing::warn!(%member, blob.digest = %digest, "distrust: a member gave wrong bytes and is not asked for a while; look at its disk and memory, and run `larder verify` there");
            self.cluster.members.distrust(member);
            self.metrics.peers.distrusted.inc();
            return None;
        }
        Manifest::of(*digest, bytes, None).ok()
    }
}

/// Other members have this long to give a manifest before upstream is asked.
const MEMBERS_WITHIN: Duration = Duration::from_millis(1500);

/// How many members are asked at once for a manifest that upstream cannot give.
const ASKED_AT_ONCE: usize = 16;

/// A manifest's body must be complete within this time.
const BODY: Duration = Duration::from_secs(2);

fn missing(place: &Place) -> PullError {
    PullError::Upstream(Failure::NotFound(place.registry.to_string()))
}

fn unknown(why: &str) -> PullError {
    larder_shared::OciError::new(larder_shared::ErrorCode::Unsupported, why).into()
}
