//! The cluster tier: the other nodes, and the object store behind all of them.
//!
//! Owns the list of members, the order in which they are asked, and how they are asked. Knows neither this node's disk
//! nor registries: its users decide where bytes go and which callers may have them.

pub mod durable;
pub mod holdings;
pub mod members;
mod news;
pub mod object_store;
mod own;
pub mod peers;
pub mod placement;
pub mod probes;
pub mod records;
pub mod tls;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, FuturesUnordered},
};
use http::Method;
use larder_shared::{Digest, Role};

use self::{
    holdings::Holdings,
    members::{Admission, Members},
    news::News,
    object_store::{ObjectStore, OpenError},
    own::OwnRecords,
    peers::Peers,
    placement::{Key, Turn},
    probes::Probes,
    records::{PeerRecord, PeerRecords},
};
use crate::{
    client::Client,
    clock::{Clock, unix_now},
    config::Config,
    drain::Watch,
    metrics::Metrics,
};

/// How many members are asked for a run, one after the other, before a node fetches the run itself.
const ASKED: usize = 2;

/// How many of the members that are said to hold a blob are asked for it.
const HOLDERS_ASKED: usize = 4;

/// Where a member asks keepers which members hold a digest. Older members report there what they hold.
pub const HOLDERS: &str = "/larder/v1/holders";

/// Where a member asks keepers what is known of a thing, and reports what it knows itself.
pub const RECORDS: &str = "/larder/v1/records";

/// Where a member asks keepers about probes of silent registries, and reports its own.
pub const PROBES: &str = "/larder/v1/probes";

/// Where a member asks another one for a registry's list of tags.
pub const LISTS: &str = "/larder/v1/lists";

/// Where a member asks another one for the index of a layer.
pub const INDEXES: &str = "/larder/v1/indexes";

/// Where a member asks another one what it has learnt of an image's start.
pub const ORDERS: &str = "/larder/v1/orders";

/// Keepers are asked within this time: in an outage, a client waits for the answer.
const RECALL: Duration = Duration::from_millis(250);

/// The same for all other members, where the keepers know too little; and how many are asked at once.
const RECALL_ANY: Duration = Duration::from_millis(700);
const RECALLED_AT_ONCE: usize = 64;

/// A report reaches a keeper within this time, or not at all.
const TELL: Duration = Duration::from_secs(2);

/// How many members keep the holder hints and the records of a thing: the first in rank for it.
pub const KEEPERS: usize = 3;

/// This node's side of the cluster.
#[derive(Debug)]
pub struct Cluster {
    pub members: Arc<Members>,
    pub peers: Arc<Peers>,
    /// Which members hold what, where this node is the keeper.
    pub holdings: Holdings,
    /// What has come to this node since its keepers were last told.
    pub news: News,
    clock: Clock,
    /// Whose turn it is to probe a silent registry, where this node is the keeper.
    pub probes: Probes,
    own: OwnRecords,
    /// The object store, if there is one.
    pub store: Option<Arc<ObjectStore>>,
}

impl Cluster {
    /// `records` are those that this node keeps for others.
    pub fn new(
        config: Arc<ArcSwap<Config>>,
        metrics: Arc<Metrics>,
        client: &Arc<Client>,
        records: PeerRecords,
    ) -> Result<Arc<Self>, OpenError> {
        let store = match &config.load().cluster.object_store {
            Some(store) => Some(ObjectStore::open(store, client, &metrics.object_store)?),
            None => None,
        };
        let members = Arc::new(Members::new(Arc::clone(&config)));
        Ok(Arc::new(Self {
            store: store.map(Arc::new),
            peers: Arc::new(Peers::new(config, Arc::clone(&members), metrics)),
            members,
            holdings: Holdings::default(),
            news: News::default(),
            clock: Clock::from(unix_now()),
            probes: Probes::default(),
            own: OwnRecords::new(records),
        }))
    }

    /// The records that this node keeps for others.
    pub fn records(&self) -> &PeerRecords {
        &self.own.records
    }

    /// Whether there are other members.
    pub fn has_others(&self) -> bool {
        self.members.view().has_others()
    }

    /// Whether this node is a member of a cluster, be it the only one so far.
    pub fn is_joined(&self) -> bool {
        self.members.are_configured()
    }

    /// The members to ask for `run` of `digest`, best first; [`Self::admits`] says whether each is worth asking. None
    /// where this node is the root, and none that would stand deeper than `depth` allows.
    pub fn candidates(&self, digest: &Digest, run: u64, depth: u8) -> Vec<(SocketAddr, Role)> {
        let view = self.members.view();
        let asked = placement::candidates(&view.keys, view.own, digest, run, depth, ASKED);
        let address = |(index, role): (usize, Role)| (view.addresses[index], role);
        asked.into_iter().map(address).collect()
    }

    /// Where `run` stands in the order in which this node fetches what no reader waits for.
    pub fn turn(&self, digest: &Digest, run: u64) -> Turn {
        let view = self.members.view();
        let own = view.own.map_or_else(|| Key::of(""), |own| view.keys[own]);
        let root = placement::rank(&view.keys, digest, run, 1);
        placement::turn(
            own,
            view.own.is_some() && root.first() == view.own.as_ref(),
            run,
        )
    }

    /// Whether a peer or the object store may know of something.
    pub fn is_there(&self) -> bool {
        self.has_others() || self.store.is_some()
    }

    /// Looks for members until the drain, and probes avoided members: on a node that pulls nothing, no request would
    /// find out that they are well again.
    pub async fn run(self: Arc<Self>, watch: Watch) {
        let look_after = || {
            for member in self.members.view().others() {
                self.admits(member);
            }
        };
        self.members.run(watch, look_after).await;
    }

    /// Whether a member is worth asking. A member that was avoided long enough is probed in the background.
    pub fn admits(self: &Arc<Self>, member: SocketAddr) -> bool {
        let admission = self.members.admission(member);
        if admission == Admission::Probe {
            let cluster = Arc::clone(self);
            tokio::spawn(async move {
                if cluster.peers.lives(member).await {
                    cluster.members.answered(member);
                } else {
                    cluster.members.failed(member);
                }
            });
        }
        admission == Admission::Ask
    }

    /// The members that hold `digest`, as its keepers know.
    pub async fn holders(self: &Arc<Self>, digest: &Digest, within: Duration) -> Vec<SocketAddr> {
        let (keepers, own) = (self.keepers(digest), self.members.view().own_address());
        let mut holders = self.holdings.holders(digest, self.now());
        let path = format!("{HOLDERS}?digest={digest}");
        let mut answers: FuturesUnordered<_> = keepers
            .into_iter()
            .filter(|keeper| Some(*keeper) != own && self.admits(*keeper))
            .map(|keeper| {
                self.peers
                    .call(keeper, Method::GET, &path, Bytes::new(), within)
            })
            .collect();
        while let Some(answer) = answers.next().await {
            let told = answer.ok();
            let told = told.and_then(|text| serde_json::from_slice::<Vec<SocketAddr>>(&text).ok());
            holders.extend(told.unwrap_or_default());
        }
        // A keeper may name members that have gone since, or that never were.
        let (view, mut seen) = (self.members.view(), Vec::new());
        holders.retain(|holder| {
            let member = Some(*holder) != own && view.addresses.contains(holder);
            let new = member && !seen.contains(holder);
            seen.push(*holder);
            new
        });
        holders.truncate(HOLDERS_ASKED);
        holders
    }

    /// Notes that this node holds `digest` from now on: its keepers are told soon.
    pub fn announce(&self, digest: Digest) {
        if self.has_others() {
            self.news.add(digest);
        }
    }

    /// Seconds of a clock that goes on with this process, whatever the node's clock does.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Whether this node may probe a registry that silenced it so long ago. It may if no keeper can be asked.
    pub async fn may_probe(self: &Arc<Self>, silence: &Digest, silenced: Duration) -> probes::Turn {
        let view = self.members.view();
        let Some(own) = view.own_address().filter(|_| view.has_others()) else {
            return probes::Turn::Go;
        };
        let path = format!("{PROBES}?thing={silence}&silenced={}", silenced.as_secs());
        for keeper in self.keepers(silence) {
            if keeper == own {
                return self.probes.ask(*silence, silenced, Instant::now());
            }
            if self.admits(keeper) {
                let told = self
                    .peers
                    .call(keeper, Method::POST, &path, Bytes::new(), RECALL)
                    .await;
                if let Some(turn) = told.ok().and_then(|told| probes::Turn::parse(&told)) {
                    return turn;
                }
            }
        }
        probes::Turn::Go
    }

    /// Tells the keepers that this node's probe was answered.
    pub async fn probed(self: Arc<Self>, silence: Digest) {
        let own = self.members.view().own_address();
        let path = format!("{PROBES}?thing={silence}&over");
        for keeper in self.keepers(&silence) {
            if Some(keeper) == own {
                self.probes.over(silence, Instant::now());
            } else if self.admits(keeper) {
                let told = self
                    .peers
                    .call(keeper, Method::POST, &path, Bytes::new(), TELL);
                if let Err(failure) = told.await {
                    tracing::debug!(%failure, "a keeper was not told that a silence is over");
                }
            }
        }
    }

    /// What the members know of `thing`. Its keepers are asked first, and all other members if that is not `enough`.
    pub async fn recall(
        self: &Arc<Self>,
        thing: &Digest,
        enough: impl Fn(&PeerRecord) -> bool,
    ) -> PeerRecord {
        let known = self.recall_from(thing, self.keepers(thing), RECALL).await;
        if enough(&known) {
            return known;
        }
        let mut more = self
            .recall_from(thing, self.members.view().others().collect(), RECALL_ANY)
            .await;
        more.merge(known);
        more
    }

    async fn recall_from(
        self: &Arc<Self>,
        thing: &Digest,
        members: Vec<SocketAddr>,
        within: Duration,
    ) -> PeerRecord {
        let own = self.members.view().own_address();
        let path = format!("{RECORDS}?thing={thing}");
        let mut known = self.kept(thing).await.unwrap_or_default();
        let others = members
            .into_iter()
            .filter(|member| Some(*member) != own && self.admits(*member));
        let mut answers = stream::iter(others)
            .map(|member| {
                self.peers
                    .call(member, Method::GET, &path, Bytes::new(), within)
            })
            .buffer_unordered(RECALLED_AT_ONCE);
        while let Some(answer) = answers.next().await {
            let told = answer.ok();
            if let Some(told) = told.and_then(|text| serde_json::from_slice(&text).ok()) {
                known.merge(told);
            }
        }
        known
    }

    /// Whether `news` of `thing` is worth sending: it is new, or was not sent for a while.
    pub fn is_news(&self, thing: &Digest, news: &PeerRecord) -> bool {
        let word = Digest::sha256(&json(&news.timeless()));
        self.own.records.is_news(thing, &word)
    }

    /// Tells the keepers of `thing` what this node knows of it. A node that is alone keeps the record for members to
    /// come.
    pub async fn remember(self: Arc<Self>, thing: Digest, news: PeerRecord) {
        if !self.is_joined() {
            return;
        }
        let view = self.members.view();
        let (path, text) = (format!("{RECORDS}?thing={thing}"), json(&news));
        // This node keeps the record as well: the keepers may be out of reach, now or when the record is needed.
        if let Err(error) = self.keep(&thing, news).await {
            tracing::debug!(%error, "a record cannot be kept");
        }
        for keeper in self.keepers(&thing) {
            if Some(keeper) == view.own_address() {
                continue;
            }
            if self.admits(keeper) {
                let told = self
                    .peers
                    .call(keeper, Method::POST, &path, text.clone(), TELL);
                if let Err(failure) = told.await {
                    tracing::debug!(%failure, "a keeper was not told of a record");
                }
            }
        }
    }

    /// The keepers of `thing`, this node perhaps among them.
    pub fn keepers(&self, thing: &Digest) -> Vec<SocketAddr> {
        let view = self.members.view();
        let ranked = placement::rank(&view.keys, thing, 0, KEEPERS);
        ranked
            .into_iter()
            .map(|index| view.addresses[index])
            .collect()
    }
}

/// A record as JSON. Writing these types to memory cannot fail.
fn json(kept: &PeerRecord) -> Bytes {
    serde_json::to_vec(kept).unwrap_or_default().into()
}
