//! Where a stream gets its bytes: from another member that passes them on; or directly, from a holder, from the object
//! store, or from upstream, in this order.
//!
//! Every answer and every failure of a source becomes one of two types, [`Opened`] and [`End`].

use std::{net::SocketAddr, time::Duration};

use futures_util::{StreamExt as _, stream};
use larder_shared::{Range, Reference, Role};
use tokio::time::timeout;

use super::{
    Fill, Fills, Source, lock,
    opened::{End, Opened, SourceBody},
};
use crate::{
    access::{Place, Verdict},
    client::Arrivals,
    cluster::{
        peers::{self, PeerRequest},
        placement,
    },
    upstream::{Lend, Need, Subject, Want, content_range},
};

/// Stands for every run of a blob: a member that failed for all runs is not asked again in the fill.
pub const ANY_RUN: u64 = u64::MAX;

/// Members asked at once whether they hold a blob that upstream cannot give, and how long that may take.
const SEARCHED_AT_ONCE: usize = 32;
const SEARCH: Duration = Duration::from_millis(1500);

/// A token that is to be lent has to be here within this time.
const LEND: Duration = Duration::from_millis(500);

/// Keepers are asked for holders within this time.
const KEEPER: Duration = Duration::from_millis(25);

/// What a stream asks: a member, or the source itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    Peer {
        member: SocketAddr,
        role: Role,
    },
    Direct,
    /// Directly, while a member is asked as well.
    Beside,
}

impl Via {
    /// How many members stand between the stream and the source.
    pub const fn depth(self) -> u8 {
        match self {
            Self::Peer { role, .. } => role.depth() + 1,
            Self::Direct | Self::Beside => 0,
        }
    }
}

/// Asks for `want` of the blob on behalf of `source`, and reads the head of the answer.
pub async fn open(
    fills: &Fills,
    fill: &Fill,
    source: &Source,
    want: Want,
    first: usize,
    via: Via,
) -> Result<Opened, End> {
    let range = match want {
        Want::Part(range) => Some(range),
        Want::All | Want::Head => None,
    };
    if let (Via::Peer { member, role }, Some(range)) = (via, range) {
        return open_peer(fills, fill, source, range, member, role).await;
    }
    let clustered = fills.cluster.has_others();
    // After wrong bytes a holder is asked only where upstream is out of reach: the bytes may have come from it.
    let doubted = fills.suspects.doubts(&fill.digest);
    if let (true, Some(range)) = (clustered && !doubted, range) {
        let hinted = fill.hinted.get_or_init(|| hinted(fills, fill)).await;
        if let Some(opened) = open_holder(fills, fill, source, range, hinted).await {
            return Ok(opened);
        }
    }
    if let (Some(range), false) = (range, fill.has_failed_object())
        && let Some(opened) = open_object(fills, fill, source, range).await
    {
        return Ok(opened);
    }
    let beside = via == Via::Beside;
    let refused = match open_upstream(fills, fill, source, want, first, beside).await {
        Err(End::Refused(failure)) => failure,
        opened => return opened,
    };
    let outage = fills.access.is_outage(&fills.place(source), &refused);
    // All members are searched only for a reader of this node: another member that asks does its own search.
    if let (true, true, Some(range)) = (clustered, outage && fill.is_read_here(), range) {
        let found = fill.found.get_or_init(|| search(fills, fill, source)).await;
        if let Some(opened) = open_holder(fills, fill, source, range, found).await {
            return Ok(opened);
        }
    }
    Err(End::Refused(refused))
}

/// A registry's answer.
async fn open_upstream(
    fills: &Fills,
    fill: &Fill,
    source: &Source,
    want: Want,
    first: usize,
    beside: bool,
) -> Result<Opened, End> {
    let place = fills.place(source);
    let mut ask = place.ask(Subject::Blob(fill.digest), want);
    ask.first = first;
    if beside {
        ask.need = Need::Beside;
    }
    ask.size = lock(&fill.state).size;
    ask.listed = fills.expected(&fill.digest);
    // If the caller is not known to have the right now, no remembered redirect may lead it past the registry.
    let subject = Reference::Digest(fill.digest);
    ask.anew = fills.access.verdict_on(&place, Some(&subject)) != Verdict::Allowed;
    let answer = match fills.upstreams.ask(&ask).await {
        Ok(answer) => answer,
        Err(failure) => {
            fills.access.met(&place, &ask.subject, &failure);
            return Err(End::Refused(failure));
        }
    };
    let size = fills.expected(&fill.digest);
    fills.access.answered(&place, &ask.subject, &answer, size);
    {
        // A mirror's bytes are as good as any, but its answer gives no reader a right.
        let mut state = lock(&fill.state);
        let state = &mut *state;
        let brought = if answer.proves {
            &mut state.served
        } else {
            &mut state.mirrored
        };
        if !brought.contains(source) {
            brought.push(source.clone());
        }
    }
    if answer.partial {
        let content = answer.content_range();
        let (start, size) = checked(content, want)?;
        return Ok(Opened {
            size,
            start,
            ranged: true,
            endpoint: answer.endpoint,
            member: None,
            passed_on: false,
            body: SourceBody::Upstream(answer.body),
            arrivals: answer.arrivals,
            first: None,
        });
    }
    let size = match answer.content_length().or(ask.size) {
        Some(size) => size,
        None => fills
            .find_length(&place, &fill.digest)
            .await
            .ok_or_else(|| End::WrongObject("an answer without Content-Length".to_owned()))?,
    };
    Ok(Opened {
        size,
        start: 0,
        ranged: false,
        endpoint: answer.endpoint,
        member: None,
        passed_on: false,
        body: SourceBody::Upstream(answer.body),
        arrivals: answer.arrivals,
        first: None,
    })
}

/// Where a 206 begins and how long the whole is, if the answer fits the question.
fn checked(content: Option<(Range, u64)>, want: Want) -> Result<(u64, u64), End> {
    let (range, size) = content
        .ok_or_else(|| End::WrongObject("a 206 without a readable Content-Range".to_owned()))?;
    let asked = match want {
        Want::Part(range) => range.start,
        Want::All | Want::Head => 0,
    };
    if range.start != asked {
        return Err(End::WrongObject(format!(
            "bytes from {} where {asked} was asked",
            range.start
        )));
    }
    Ok((range.start, size))
}

/// A member's answer. The member answers for the repository: it holds the digest there, or has been given it from
/// there.
async fn open_peer(
    fills: &Fills,
    fill: &Fill,
    source: &Source,
    range: Range,
    member: SocketAddr,
    role: Role,
) -> Result<Opened, End> {
    let subject = peers::PeerSubject::Blob(fill.digest, range);
    let mut ask = fills.ask_of(&fills.place(source), subject, role).await;
    if lock(&fill.state).partial.is_some() {
        ask.within = peers::LATER;
    } else if role != Role::Holder {
        ask.within = peers::FETCHED;
    }
    let failed = |why: String| End::Peer { member, why };
    let answer = fills
        .cluster
        .peers
        .ask(member, &ask)
        .await
        .map_err(|failure| failed(failure.to_string()))?;
    let content = content_range(answer.body.headers()).filter(|_| answer.partial);
    let (start, size) = checked(content, Want::Part(range))
        .map_err(|_| failed("an answer that does not fit".to_owned()))?;
    let mut state = lock(&fill.state);
    if !state.vouched.contains(source) {
        state.vouched.push(source.clone());
    }
    drop(state);
    Ok(Opened {
        size,
        start,
        ranged: true,
        endpoint: usize::MAX,
        member: Some(member),
        passed_on: answer.body.headers().contains_key(peers::PASSED_ON),
        arrivals: answer.body.arrivals(),
        body: SourceBody::Peer(Box::new(answer.body)),
        first: None,
    })
}

impl Fills {
    /// A question to a member on behalf of the caller of `place`. A root or a relay is lent a token if there is one to
    /// lend. Without a token it could not ask upstream, so it is asked as a holder.
    pub async fn ask_of(
        &self,
        place: &Place,
        subject: peers::PeerSubject,
        role: Role,
    ) -> PeerRequest {
        let (registry, repository) = (&place.registry, &place.repository);
        let lend = match role {
            Role::Holder | Role::Copy => Lend::Nothing,
            Role::Root | Role::Relay => {
                // If the token server is slow, the member is asked without a token for what it holds.
                let lending = self.upstreams.lend(registry, repository, &place.identity);
                timeout(LEND, lending).await.unwrap_or(Lend::Cannot)
            }
        };
        let (role, lent) = match lend {
            Lend::Nothing => (role, None),
            Lend::Token(token) if self.cluster.peers.may_lend() => (role, Some(token)),
            Lend::Token(_) | Lend::Cannot => (Role::Holder, None),
        };
        PeerRequest {
            registry: registry.clone(),
            repository: repository.clone(),
            subject,
            role,
            within: peers::SOON,
            lent,
            trace: place.trace.clone(),
        }
    }
}

/// The object store, if it says that the repository holds the digest.
async fn open_object(fills: &Fills, fill: &Fill, source: &Source, range: Range) -> Option<Opened> {
    let cluster = &fills.cluster;
    cluster.store.as_ref()?;
    let known = fills.place(source).record.link(&fill.digest);
    let linked = fill.durable.get_or_init(|| async {
        let (registry, repository) = (&source.registry, &source.repository);
        let link = cluster.durable_link(registry, repository, &fill.digest);
        link.await.map(|link| (source.clone(), link.size))
    });
    let size = if let Some(link) = known {
        link.size
    } else {
        let (whose, size) = linked.await.as_ref()?;
        (whose.repository == source.repository).then_some(*size)?
    };
    let object = cluster.durable_blob(&fill.digest, range).await?;
    if object.size != size || object.start != range.start {
        return None;
    }
    let mut state = lock(&fill.state);
    if !state.vouched.contains(source) {
        state.vouched.push(source.clone());
    }
    state.by_object = true;
    drop(state);
    Some(Opened {
        size,
        start: object.start,
        ranged: true,
        endpoint: usize::MAX,
        member: None,
        passed_on: false,
        body: SourceBody::Object(Box::new(object)),
        arrivals: Arrivals::default(),
        first: None,
    })
}

/// The first of `holders` that answers with the blob.
async fn open_holder(
    fills: &Fills,
    fill: &Fill,
    source: &Source,
    range: Range,
    holders: &[SocketAddr],
) -> Option<Opened> {
    let suspects = fills.suspects.of(&fill.digest);
    for member in holders {
        let suspect = suspects.contains(member);
        if suspect || fill.has_failed(ANY_RUN, *member) || !fills.cluster.admits(*member) {
            continue;
        }
        match open_peer(fills, fill, source, range, *member, Role::Holder).await {
            Ok(opened) => return Some(opened),
            Err(_) => fill.note_failed(ANY_RUN, *member),
        }
    }
    None
}

/// The members that hold the blob, as its keepers say.
async fn hinted(fills: &Fills, fill: &Fill) -> Vec<SocketAddr> {
    fills.cluster.holders(&fill.digest, KEEPER).await
}

/// Asks every other member once whether it holds the blob.
async fn search(fills: &Fills, fill: &Fill, source: &Source) -> Vec<SocketAddr> {
    let cluster = &fills.cluster;
    let others: Vec<SocketAddr> = cluster.members.view().others().collect();
    let ask = PeerRequest {
        registry: source.registry.clone(),
        repository: source.repository.clone(),
        subject: peers::PeerSubject::Has(fill.digest),
        role: Role::Holder,
        within: SEARCH,
        lent: None,
        trace: source.trace.clone(),
    };
    let answers = stream::iter(others)
        .map(|member| {
            let ask = &ask;
            async move {
                let asked = timeout(SEARCH, cluster.peers.ask(member, ask)).await;
                matches!(asked, Ok(Ok(_))).then_some(member)
            }
        })
        .buffer_unordered(SEARCHED_AT_ONCE);
    let found: Vec<SocketAddr> = answers
        .filter_map(std::future::ready)
        .take(3)
        .collect()
        .await;
    tracing::debug!(blob.digest = %fill.digest, holders = found.len(), "upstream is out of reach; every member was asked");
    found
}

/// The run of a byte.
pub fn run_of(at: u64) -> u64 {
    placement::run_of(at)
}
