//! Answers to other members' questions about copies.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use larder_shared::Digest;

use super::{
    Copies, lock,
    wire::{Announcement, Heard, HolderOf, LINKED, LINKED_BATCH, Linked, Links},
};
use crate::cluster::holdings::Told;

impl Copies {
    /// Takes what a member says it holds. `None` if the member is not listed.
    pub fn hear(&self, said: &Announcement) -> Option<Heard> {
        let holder = said.holder?;
        let now = self.now();
        if !self.cluster.members.view().addresses.contains(&holder) {
            return None;
        }
        lock(&self.lives).heard(holder, now);
        if self.own() != Some(holder) {
            self.note_boot(holder, said.boot);
        }
        let told = said.held.iter().map(|held| Told {
            digest: held.digest,
            size: Some(held.size),
            used: now.saturating_sub(held.age),
        });
        let told: Vec<Told> = told.collect();
        let incarnation = (holder, Some(said.boot));
        let holdings = &self.cluster.holdings;
        let younger = holdings.told(now, incarnation, said.fresh, &told, self.settled());
        holdings.dropped(now, holder, &said.gone, true);
        holdings.dropped(now, holder, &said.expired, false);
        let ago = |(index, used): (usize, u64)| (index, now.saturating_sub(used));
        Some(Heard {
            boot: self.boot,
            younger: younger.into_iter().map(ago).collect(),
        })
    }

    /// The holders of these digests, as this node knows them.
    pub fn holders_of(&self, digests: &[Digest]) -> Vec<Vec<HolderOf>> {
        let now = self.now();
        let holders = |digest: &Digest| {
            let known = self.cluster.holdings.of(digest, now).into_iter();
            let ago = |at: u64| now.saturating_sub(at);
            known
                .map(|h| (h.member, ago(h.heard), ago(h.used)))
                .collect()
        };
        digests.iter().map(holders).collect()
    }

    /// How repositories hold these digests here. Private links are left out, unless this node copies private content.
    pub async fn links_of(self: &Arc<Self>, digests: &[Digest]) -> Vec<Links> {
        let wanted: HashSet<Digest> = digests.iter().take(LINKED_BATCH).copied().collect();
        let private = self.copies_private();
        let look =
            move |store: &crate::store::Store| store.repositories().holders_of(&wanted, LINKED);
        let mut found = self.store.survey(look).await.unwrap_or_default();
        let config = self.config.load();
        let links = |digest: &Digest| {
            let here = self.store.holds(digest);
            let held = found.remove(digest).unwrap_or_default().into_iter();
            let open = held.filter(|held| private || held.public.is_some());
            let allowed = open.filter(|held| config.registry.allows(held.registry.as_str()));
            let linked = allowed.map(|held| Linked {
                registry: held.registry,
                repository: held.repository,
                media_type: held.link.media_type,
                public: held.public,
                tags: held.tags,
            });
            Links {
                here,
                links: linked.filter(|_| here).collect(),
            }
        };
        digests.iter().map(links).collect()
    }

    /// Takes the word of a member of an older version that it holds a digest. `false` if the member is not listed.
    pub fn hear_of(&self, digest: Digest, holder: SocketAddr) -> bool {
        let listed = self.cluster.members.view().addresses.contains(&holder);
        if listed {
            let now = self.now();
            let told = Told {
                digest,
                size: None,
                used: now,
            };
            let holdings = &self.cluster.holdings;
            holdings.told(now, (holder, None), true, &[told], self.settled());
        }
        listed
    }

    /// The store's ttl. A blob that was not used for longer is not copied.
    pub(super) fn ttl(&self) -> Option<Duration> {
        self.config.load().store.ttl
    }
}
