//! A keeper's part: it checks whether the members live, and sees to it that enough of them hold a digest.
//!
//! A round comes every ten seconds. In each, a few members that were not heard lately are asked for a sign of life. A
//! digest is looked at when it is due ([`crate::cluster::holdings`]), after something about it changed. Before anything
//! is copied, the digest's other keepers are asked, because this keeper may have been started a moment ago.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, future::join_all, stream};
use http::Method;
use larder_shared::Digest;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Copies, WITHIN,
    decide::{Question, Verdict, decide},
    life::Life,
    lock,
    wire::{
        Announcement, Answer, COPIES, HOLDERS_OF, HolderOf, Item, LINKED_BATCH, LINKS, Links, Which,
    },
};
use crate::{cluster::holdings::Holding, metrics::LackingWhy};

/// The pause between two rounds, give or take a fifth.
const ROUND: Duration = Duration::from_secs(10);

/// Members that are asked for a sign of life in a round.
const ASKED: usize = 16;

/// How many members, the first in rank, are considered for a copy.
const CONSIDERED: usize = 16;

/// Digests that are looked at together, and the most times in a round.
const TOGETHER: usize = LINKED_BATCH;
const TIMES: usize = 16;

/// How long a copy may take, in seconds, before it is offered again. The first in rank may be the same member.
const COMING: u64 = 600;

/// Seconds until a digest is looked at again: after a busy member, after a declined offer, if no member can help now.
const BUSY: u64 = 20;
const NEXT: u64 = 1;
const LATER: u64 = 600;

/// Seconds for which a member that declined a digest is not offered it: for lack of room, and for a lasting reason.
const FULL: u64 = 300;
const OFF: u64 = 3600;

/// A copy that is to be made.
#[derive(Clone, Debug)]
struct Plan {
    digest: Digest,
    size: u64,
    used: u64,
    to: Vec<SocketAddr>,
    from: Vec<SocketAddr>,
}

impl Copies {
    /// Looks at members and digests.
    pub(super) async fn rounds(self: Arc<Self>) {
        loop {
            self.look_at_members().await;
            if self.wanted() > 1 {
                for _ in 0..TIMES {
                    if !self.look_at_digests().await {
                        break;
                    }
                }
            }
            tokio::time::sleep(ROUND.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
        }
    }

    async fn look_at_members(self: &Arc<Self>) {
        let view = self.cluster.members.view();
        lock(&self.lives).list(view.others(), self.now());
        if self.wanted() < 2 {
            return;
        }
        let asked = lock(&self.lives).to_ask(self.now(), ASKED);
        let signs = asked.into_iter().map(|member| async move {
            if !self.say(member, Announcement::default()).await {
                lock(&self.lives).missed(member, self.now());
            }
        });
        join_all(signs).await;
        let now = self.now();
        let members = self.members();
        let too_many = lock(&self.lives).too_many_are_missing(now);
        let was = self.held_back.swap(too_many, Ordering::Relaxed);
        if too_many && !was {
            tracing::warn!(
                "more than a third of the members is missing: no copies are made until they are back"
            );
        }
        if self.note_members(members.addresses.clone()) || (was && !too_many) {
            let lives: HashMap<SocketAddr, Life> = members
                .addresses
                .iter()
                .map(|m| (*m, self.life(*m)))
                .collect();
            let copies = self.wanted();
            self.cluster.holdings.look_again(now, now, |holders| {
                let living = holders
                    .iter()
                    .filter(|h| lives.get(&h.member) == Some(&Life::Living));
                living.count() < copies
            });
        }
    }

    /// Looks at some digests that are due. Returns whether more may be due.
    async fn look_at_digests(self: &Arc<Self>) -> bool {
        let due = self.cluster.holdings.take_due(self.now(), TOGETHER);
        let more = due.len() == TOGETHER;
        let lack: Vec<Digest> = due.into_iter().filter(|d| self.plan(d).is_some()).collect();
        if lack.is_empty() {
            return more;
        }
        self.ask_other_keepers(&lack).await;
        let plans: Vec<Plan> = lack.iter().filter_map(|digest| self.plan(digest)).collect();
        let items = self.with_links(plans).await;
        let mut offers: BTreeMap<SocketAddr, Vec<Item>> = BTreeMap::new();
        for (plan, item) in items {
            for to in plan.to {
                offers.entry(to).or_default().push(item.clone());
            }
        }
        let offers = offers.into_iter().map(|(to, items)| self.offer(to, items));
        stream::iter(offers)
            .buffer_unordered(TOGETHER)
            .count()
            .await;
        more
    }

    /// The copies to make of a digest now. Notes when to look at it again.
    fn plan(&self, digest: &Digest) -> Option<Plan> {
        let now = self.now();
        let holdings = &self.cluster.holdings;
        let known = holdings.look(digest, now)?;
        let used = known.used();
        let over = self
            .ttl()
            .is_some_and(|ttl| now.saturating_sub(used) > ttl.as_secs());
        let (Some(size), false) = (known.size, over) else {
            self.note_lacking(digest, None);
            return None;
        };
        let own = self.own()?;
        let with_life = |member: SocketAddr| (member, self.life(member));
        let ranked = self
            .members()
            .ranked(digest, CONSIDERED)
            .into_iter()
            .map(with_life);
        let ranked: Vec<(SocketAddr, Life)> = ranked.collect();
        let holders = known.holders.iter().map(|h| with_life(h.member));
        let holders: Vec<(SocketAddr, Life)> = holders.collect();
        let coming: Vec<SocketAddr> = known.coming.iter().map(|(member, _)| *member).collect();
        let declined: Vec<SocketAddr> = known.declined.iter().map(|(m, _)| *m).collect();
        let verdict = decide(&Question {
            copies: self.wanted(),
            held_back: self.is_held_back(),
            own,
            ranked: &ranked,
            holders: &holders,
            coming: &coming,
            declined: &declined,
        });
        match verdict {
            Verdict::NotOurs => self.note_lacking(digest, None),
            Verdict::Enough => {
                // A copy under way may fail, so the digest is looked at when it should have come.
                match known.coming.iter().map(|(_, until)| *until).min() {
                    Some(until) => holdings.again(digest, until),
                    None => self.note_lacking(digest, None),
                }
            }
            Verdict::Waits => {
                self.note_lacking(digest, Some(LackingWhy::Missing));
                holdings.again(digest, now + BUSY);
            }
            Verdict::Short => {
                let full = !declined.is_empty();
                let why = if full {
                    LackingWhy::Declined
                } else {
                    LackingWhy::Members
                };
                self.note_lacking(digest, Some(why));
                holdings.again(digest, now + LATER);
            }
            Verdict::Copy { to, from } => {
                return Some(Plan {
                    digest: *digest,
                    size,
                    used,
                    to,
                    from,
                });
            }
        }
        None
    }

    /// Asks the other keepers of these digests which members hold them.
    async fn ask_other_keepers(self: &Arc<Self>, digests: &[Digest]) {
        let own = self.own();
        let members = self.members();
        let mut asked: BTreeMap<SocketAddr, Vec<Digest>> = BTreeMap::new();
        for digest in digests {
            for keeper in members
                .keepers(digest)
                .into_iter()
                .filter(|k| Some(*k) != own)
            {
                asked.entry(keeper).or_default().push(*digest);
            }
        }
        let asked = asked.into_iter().map(|(keeper, digests)| async move {
            for (digest, holders) in self.ask_holders(keeper, digests).await {
                self.cluster.holdings.learn(&digest, &holders);
            }
        });
        join_all(asked).await;
    }

    /// The holders of these digests, as a keeper knows them.
    pub(super) async fn ask_holders(
        &self,
        keeper: SocketAddr,
        digests: Vec<Digest>,
    ) -> Vec<(Digest, Vec<Holding>)> {
        let asked = Which { digests };
        let told: Option<Vec<Vec<HolderOf>>> = self.ask(keeper, HOLDERS_OF, &asked).await;
        let now = self.now();
        let holding = |(member, heard, used): HolderOf| Holding {
            member,
            boot: None,
            heard: now.saturating_sub(heard),
            used: now.saturating_sub(used),
        };
        let told = told.unwrap_or_default().into_iter();
        let told = told.map(|holders| holders.into_iter().map(holding).collect());
        asked.digests.into_iter().zip(told).collect()
    }

    /// The plans that may be carried out, each with the links that travel along. Private content is not copied.
    async fn with_links(self: &Arc<Self>, plans: Vec<Plan>) -> Vec<(Plan, Item)> {
        let mut by_holder: BTreeMap<SocketAddr, Vec<Plan>> = BTreeMap::new();
        for plan in plans {
            // A random holder, so that all holders share the load.
            let holder = plan.from[fastrand::usize(..plan.from.len())];
            by_holder.entry(holder).or_default().push(plan);
        }
        let asked = by_holder.into_iter().map(|(holder, plans)| async move {
            let digests: Vec<Digest> = plans.iter().map(|plan| plan.digest).collect();
            let links = if self.own() == Some(holder) {
                Some(self.links_of(&digests).await)
            } else {
                self.ask::<_, Vec<Links>>(holder, LINKS, &Which { digests })
                    .await
            };
            let now = self.now();
            let mut items = Vec::new();
            for (plan, links) in plans.into_iter().zip(links.into_iter().flatten()) {
                if !links.here {
                    let gone = [plan.digest];
                    self.cluster.holdings.dropped(now, holder, &gone, true);
                    continue;
                }
                let mut from = plan.from.clone();
                from.sort_by_key(|member| *member != holder);
                let item = Item {
                    digest: plan.digest,
                    size: plan.size,
                    age: now.saturating_sub(plan.used),
                    from,
                    links: self.may_travel(links.links),
                    hurry: false,
                };
                if item.links.is_empty() {
                    self.note_lacking(&plan.digest, Some(LackingWhy::Private));
                    self.cluster.holdings.again(&plan.digest, now + OFF);
                } else {
                    items.push((plan, item));
                }
            }
            items
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// A member's answers to offers. The member may be this node.
    pub(super) async fn answers_of(
        self: &Arc<Self>,
        to: SocketAddr,
        items: &[Item],
    ) -> Vec<Answer> {
        if self.own() == Some(to) {
            return self.offered(items.to_vec()).await;
        }
        let answers = self.ask::<_, Vec<Answer>>(to, COPIES, &items).await;
        answers.unwrap_or_else(|| vec![Answer::Busy; items.len()])
    }

    /// Offers copies to a member, and notes its answers.
    async fn offer(self: &Arc<Self>, to: SocketAddr, items: Vec<Item>) {
        let answers = self.answers_of(to, &items).await;
        let now = self.now();
        let holdings = &self.cluster.holdings;
        for (item, answer) in items.iter().zip(answers) {
            let digest = &item.digest;
            match answer {
                Answer::Taken => {
                    self.note_lacking(digest, Some(LackingWhy::Coming));
                    holdings.answered(digest, to, true, now + COMING, now + COMING);
                }
                Answer::Held => {
                    let holding = Holding {
                        member: to,
                        boot: None,
                        heard: now,
                        used: now.saturating_sub(item.age),
                    };
                    holdings.learn(digest, &[holding]);
                    holdings.again(digest, now + NEXT);
                }
                Answer::Busy => {
                    self.note_lacking(digest, Some(LackingWhy::Coming));
                    holdings.again(digest, now + BUSY);
                }
                Answer::Full => {
                    holdings.answered(digest, to, false, now + FULL, now + NEXT);
                }
                Answer::Off | Answer::Old => {
                    holdings.answered(digest, to, false, now + OFF, now + NEXT);
                }
            }
        }
    }

    /// Asks a member something about copies. `None` if it does not answer, or if its answer cannot be parsed.
    pub(super) async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        member: SocketAddr,
        path: &str,
        question: &Q,
    ) -> Option<A> {
        let text = serde_json::to_vec(question).unwrap_or_default().into();
        let asked = self
            .cluster
            .peers
            .call(member, Method::POST, path, text, WITHIN);
        let answer = asked.await.inspect_err(|failure| {
            tracing::debug!(%failure, path, "a member was asked about copies in vain");
        });
        serde_json::from_slice(&answer.ok()?).ok()
    }
}
