//! Lists between members: asking one, and answering one (see [`super::lister`]).

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Method;
use larder_shared::Digest;

use super::{
    Lists, Told, Wanted,
    kept::Came,
    lister::{before, lists_alone},
};
use crate::{
    clock::unix_now,
    cluster::{LISTS, peers::PeerFailure},
    metrics::ListOutcome,
};

/// Bytes of a member's longest answer.
const LONGEST: u64 = 32 << 20;

/// A member answers within this time. It may have to ask the registry first; if that takes longer, it answers
/// meanwhile.
const ANSWERS: Duration = Duration::from_secs(8);
const WITHIN: Duration = Duration::from_secs(12);

/// How often a node without a list asks a member again that is still asking the registry.
const AGAIN: u32 = 6;

/// After this many silent members, a node asks no further one.
const SILENT: u32 = 3;

impl Lists {
    /// Asks the members that stand before this node for a list. `true` if nothing is left to do: a member has told the
    /// list, or this node is to wait for them.
    pub(super) async fn by_member(
        self: &Arc<Self>,
        thing: &Digest,
        wanted: &Wanted,
        refresh: Duration,
    ) -> bool {
        let view = self.cluster.members.view();
        let lives = |index: usize| self.cluster.admits(view.addresses[index]);
        let asked = before(&view.keys, view.own, thing, lives);
        let mut silent = 0;
        for index in asked {
            let told = self.told(view.addresses[index], thing, wanted, Some(refresh));
            match told.await {
                Ok(()) => return true,
                // The member does not need this list itself, or may not give it away.
                Err(PeerFailure::Miss(_) | PeerFailure::Refused(_)) => {}
                Err(failure) => {
                    tracing::debug!(%failure, "a member was asked for a list in vain");
                    silent += 1;
                    if silent == SILENT {
                        break;
                    }
                }
            }
        }
        if silent == 0 {
            return false;
        }
        let waits = self.entry(thing, Some(wanted), |entry| {
            let since = *entry.silent.get_or_insert_with(Instant::now);
            let has_list = entry.kept.list.is_some();
            !lists_alone(has_list, since.elapsed(), refresh, entry.jitter)
        });
        waits == Some(true)
    }

    /// In an outage, a node without a list takes an older one from any member that has it.
    pub(super) async fn by_any_member(self: &Arc<Self>, thing: &Digest, wanted: &Wanted) {
        let lacks = self.entry(thing, Some(wanted), |entry| {
            let trouble = entry.kept.trouble.as_ref();
            entry.kept.list.is_none() && trouble.is_some_and(|trouble| !trouble.answered)
        });
        if lacks != Some(true) {
            return;
        }
        let view = self.cluster.members.view();
        let others =
            |index: usize| Some(index) != view.own && self.cluster.admits(view.addresses[index]);
        for index in before(&view.keys, None, thing, others) {
            let told = self.told(view.addresses[index], thing, wanted, None).await;
            let has_list = self.entry(thing, Some(wanted), |entry| entry.kept.list.is_some());
            if told.is_ok() && has_list == Some(true) {
                return;
            }
        }
    }

    /// Asks one member, and records its answer. With `refresh`, the member may ask the registry first.
    async fn told(
        self: &Arc<Self>,
        member: SocketAddr,
        thing: &Digest,
        wanted: &Wanted,
        refresh: Option<Duration>,
    ) -> Result<(), PeerFailure> {
        if !self.cluster.peers.lives(member).await {
            self.cluster.members.failed(member);
            let why = "it shows no sign of life".to_owned();
            return Err(PeerFailure::Gone(member, why));
        }
        for _ in 0..AGAIN {
            let before = self.entry(thing, Some(wanted), |entry| entry.kept.list.clone());
            let before = before.flatten();
            let known = before.as_ref().map_or("", |list| &list.generation);
            let rhythm = refresh.map_or_else(String::new, |refresh| {
                format!("&refresh={}", refresh.as_secs())
            });
            let path = format!("{LISTS}?thing={thing}&known={known}{rhythm}");
            let told = self
                .cluster
                .peers
                .call_up_to(member, Method::GET, &path, Bytes::new(), WITHIN, LONGEST)
                .await?;
            let no_list = |error| PeerFailure::Gone(member, format!("its list: {error}"));
            let told: Told = serde_json::from_slice(&told).map_err(no_list)?;
            let (pending, tried) = (told.pending, told.tried_ago);
            let now = unix_now();
            let teller = member.to_string();
            let (known, trouble) = told.understood(before.as_deref(), Some(&teller), now);
            self.entry(thing, Some(wanted), |entry| {
                let ago = tried.map(Duration::from_secs).filter(|_| refresh.is_some());
                let tried = ago.and_then(|ago| Instant::now().checked_sub(ago));
                entry.tried = tried.or(entry.tried);
                entry.silent = None;
            });
            if known.is_none() && pending {
                continue;
            }
            let came = match (known, trouble) {
                (Some(known), trouble) => Came::List(known, trouble),
                (None, Some(trouble)) => Came::Told(trouble),
                (None, None) => return Err(PeerFailure::Miss(member)),
            };
            self.learn(thing, wanted, came, now, Some(ListOutcome::Taken))
                .await;
            return Ok(());
        }
        Err(PeerFailure::Gone(member, "it has no list yet".to_owned()))
    }

    /// Answers a member that has the list `known`. With `refresh`, the time between that member's refreshes, this node
    /// first asks the registry if a list is due. `None` if this node does not need the list itself, or may not give it
    /// away.
    pub async fn tell(
        self: &Arc<Self>,
        thing: &Digest,
        known: Option<&str>,
        refresh: Option<Duration>,
    ) -> Option<Told> {
        let wanted = self.entry(thing, None, |entry| entry.wanted.clone())?;
        self.read(thing, &wanted).await;
        let mut pending = false;
        if let Some(refresh) = refresh {
            let asking = self.by_registry(*thing, &wanted, refresh.max(self.soonest));
            pending = tokio::time::timeout(ANSWERS, asking).await.is_err();
        }
        let (kept, tried) = self.entry(thing, None, |entry| (entry.kept.clone(), entry.tried))?;
        let private = kept.list.as_ref().is_some_and(|list| list.private);
        if private && !self.cluster.peers.may_lend() {
            return None;
        }
        Some(Told {
            tried_ago: tried.map(|tried| tried.elapsed().as_secs()),
            pending,
            ..Told::of(&kept, known)
        })
    }
}
