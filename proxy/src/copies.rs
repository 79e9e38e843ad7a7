//! Copies: a blob that is in use, or was used within its ttl, is whole on a few living members (promise P28).
//!
//! For one digest each of three parts is played by a few members. A *holder* has the blob and says so to the digest's
//! keepers, again and again ([`announce`]). The first *keeper* that lives decides whether enough members hold it
//! ([`keeper`], by the pure [`decide`] and [`life`]). A *taker* is offered a copy and fetches it at low priority
//! ([`take`]). docs/copies.md explains it on a page. A copy never gives a caller a right: only links travel with it,
//! which say that a repository holds the blob.

mod announce;
mod answers;
pub mod decide;
mod hand_over;
mod keeper;
pub mod life;
mod standing;
mod take;
pub mod wire;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use larder_shared::{Digest, admin::CopiesStatus};
use tokio::sync::Notify;

pub use self::standing::Standing;
use self::{
    life::{Life, Lives},
    take::Taking,
};
use crate::{
    cluster::{
        Cluster, KEEPERS,
        holdings::SETTLED,
        placement::{self, Key},
    },
    config::{Config, Peers},
    drain::Watch,
    metrics::{Lacking, LackingWhy, Metrics},
    store::Store,
};

/// How long a member may take to answer a request about copies.
const WITHIN: Duration = Duration::from_secs(2);

/// The most digests that are listed as lacking copies, with the reason.
const LISTED: usize = 10_000;

/// This node's part in keeping copies.
pub struct Copies {
    config: Arc<ArcSwap<Config>>,
    metrics: Arc<Metrics>,
    store: Arc<Store>,
    cluster: Arc<Cluster>,
    /// A random number that stands for this process.
    boot: u64,
    started: u64,
    lives: Mutex<Lives<SocketAddr>>,
    retelling: Mutex<Retelling>,
    /// Rings when announcements have to be repeated to a new or forgetful keeper.
    retell: Notify,
    /// Whether more than a third of the members was missing at the last look.
    held_back: AtomicBool,
    /// Digests for which this node decides and that lack copies, and why.
    lacking: Mutex<HashMap<Digest, LackingWhy>>,
    taking: Taking,
    /// Blobs that enough other members keep, as of the last time that the store needed room.
    surplus: Mutex<HashSet<Digest>>,
    /// Set when this node is about to stop: it hands over what it alone holds, and takes nothing.
    leaving: AtomicBool,
    /// Whether clients of this node wait for bytes.
    busy: Box<dyn Fn() -> bool + Send + Sync>,
}

impl std::fmt::Debug for Copies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copies")
            .field("boot", &self.boot)
            .finish_non_exhaustive()
    }
}

/// Which keepers have to be told what this node holds.
#[derive(Default, Debug)]
struct Retelling {
    /// The members when the last retelling began.
    before: Vec<SocketAddr>,
    /// The members now.
    members: Vec<SocketAddr>,
    /// The `boot` of each keeper that has answered.
    boots: HashMap<SocketAddr, u64>,
    /// Keepers that were started anew, or that missed an announcement.
    deaf: HashSet<SocketAddr>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Copies {
    /// Does nothing until [`Self::run`]. `busy` tells whether clients of this node wait for bytes.
    pub fn new(
        config: Arc<ArcSwap<Config>>,
        metrics: Arc<Metrics>,
        store: Arc<Store>,
        cluster: Arc<Cluster>,
        busy: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            boot: fastrand::u64(1..),
            started: cluster.now(),
            lives: Mutex::default(),
            retelling: Mutex::default(),
            retell: Notify::new(),
            held_back: AtomicBool::new(false),
            lacking: Mutex::default(),
            taking: Taking::default(),
            surplus: Mutex::default(),
            leaving: AtomicBool::new(false),
            busy: Box::new(busy),
            config,
            metrics,
            store,
            cluster,
        })
    }

    /// Tells, decides and fetches until the drain. Does nothing if the configuration names no members.
    pub async fn run(self: Arc<Self>, mut watch: Watch) {
        if !self.cluster.is_joined() {
            return;
        }
        // The drain waits for these tasks: none of them outlives it.
        let mut all = tokio::task::JoinSet::new();
        all.spawn(Arc::clone(&self).tell_news());
        all.spawn(Arc::clone(&self).tell_again());
        all.spawn(Arc::clone(&self).retell());
        all.spawn(Arc::clone(&self).rounds());
        all.spawn(Arc::clone(&self).take_all());
        watch.stopped().await;
    }

    /// `[cluster]` as it is now.
    fn peers(&self) -> Option<Peers> {
        self.config.load().cluster.peers.clone()
    }

    /// How many living members should hold a digest. 1 if no copies are made.
    pub fn wanted(&self) -> usize {
        self.config
            .load()
            .cluster
            .peers
            .as_ref()
            .map_or(1, |peers| peers.copies)
    }

    fn copies_private(&self) -> bool {
        self.peers().is_some_and(|peers| peers.copies_private)
    }

    fn now(&self) -> u64 {
        self.cluster.now()
    }

    fn own(&self) -> Option<SocketAddr> {
        self.cluster.members.view().own_address()
    }

    fn life(&self, member: SocketAddr) -> Life {
        if Some(member) == self.own() {
            return Life::Living;
        }
        lock(&self.lives).life(member, self.now())
    }

    /// Until this moment a digest that is new to this keeper may be one that holders told its last process.
    fn settled(&self) -> u64 {
        self.started + SETTLED
    }

    /// All members that are not gone, this one included, and their keys.
    fn members(&self) -> Members {
        let (view, now) = (self.cluster.members.view(), self.now());
        let lives = lock(&self.lives);
        let mut addresses = lives.not_gone(now);
        let listed = view.addresses.iter().copied().enumerate();
        let lives_now = |(index, member): &(usize, SocketAddr)| {
            Some(*index) == view.own || !lives.is_gone(*member, now)
        };
        addresses.extend(listed.filter(lives_now).map(|(_, member)| member));
        drop(lives);
        addresses.sort_unstable();
        addresses.dedup();
        Members::new(addresses)
    }

    /// Records why a digest lacks copies, or that it no longer does.
    fn note_lacking(&self, digest: &Digest, why: Option<LackingWhy>) {
        let mut lacking = lock(&self.lacking);
        match why {
            Some(why) if lacking.len() < LISTED || lacking.contains_key(digest) => {
                lacking.insert(*digest, why);
            }
            Some(_) => {}
            None => {
                lacking.remove(digest);
            }
        }
    }

    /// How many digests lack copies, by reason. Counts only digests for which this node decides.
    pub fn lacking(&self) -> Vec<(LackingWhy, usize)> {
        let lacking = lock(&self.lacking);
        let all = LackingWhy::ALL.iter().copied();
        all.map(|why| (why, lacking.values().filter(|known| **known == why).count()))
            .collect()
    }

    /// The state for the status page. `None` if no copies are made.
    pub fn status(&self) -> Option<CopiesStatus> {
        let wanted = self.wanted();
        let lacking = self.lacking().into_iter().filter(|(_, count)| *count > 0);
        let lacking = lacking.map(|(why, count)| (why.as_str().to_owned(), count as u64));
        (wanted > 1).then(|| CopiesStatus {
            wanted: wanted as u64,
            lacking: lacking.collect(),
            held_back: self.is_held_back(),
            waiting: self.taking.waiting() as u64,
        })
    }

    /// Sets the gauges, for a scrape.
    pub fn show(&self) {
        let metrics = &self.metrics.copies;
        for (why, count) in self.lacking() {
            metrics
                .lacking
                .get_or_create(&Lacking { why })
                .set(count as i64);
        }
        metrics.known.set(self.cluster.holdings.count() as i64);
        metrics.held_back.set(i64::from(self.is_held_back()));
        metrics.waiting.set(self.taking.waiting() as i64);
    }

    /// Whether nothing is copied because too many members are missing.
    pub fn is_held_back(&self) -> bool {
        self.held_back.load(Ordering::Relaxed)
    }
}

/// Members with the keys that a ranking needs.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Members {
    addresses: Vec<SocketAddr>,
    keys: Vec<Key>,
}

impl Members {
    fn new(addresses: Vec<SocketAddr>) -> Self {
        let keys = addresses.iter().map(|a| Key::of(&a.to_string())).collect();
        Self { addresses, keys }
    }

    /// The first in rank for a digest.
    fn ranked(&self, digest: &Digest, most: usize) -> Vec<SocketAddr> {
        let ranked = placement::rank(&self.keys, digest, 0, most);
        ranked
            .into_iter()
            .map(|index| self.addresses[index])
            .collect()
    }

    /// The keepers of a digest among these members.
    fn keepers(&self, digest: &Digest) -> Vec<SocketAddr> {
        self.ranked(digest, KEEPERS)
    }
}
