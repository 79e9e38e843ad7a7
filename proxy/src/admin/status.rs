//! `GET /status`: this node at a glance.

use larder_shared::{
    admin::{
        ClusterStatus, FillStatus, MemberStatus, ObjectStoreStatus, RuntimeStatus, Served, Status,
        StoreStatus, UpstreamStatus,
    },
    runtime::Software,
};

use super::Admin;
use crate::{metrics::Tier, runtime::State, store::Tenure};

impl Admin {
    fn endpoints(&self, registry: &str) -> Vec<String> {
        let Ok(registry) = registry.parse() else {
            return Vec::new();
        };
        let fares = self.pull.upstreams.fares(&registry);
        fares
            .iter()
            .map(|endpoint| format!("{} ({})", endpoint.url, endpoint.words()))
            .collect()
    }

    pub(super) async fn status(&self) -> Status {
        let store = &self.pull.store;
        let config = self.pull.config.load_full();
        let mut upstreams = Vec::new();
        for (registry, upstream) in &config.upstreams {
            let findings = self.pull.credentials.findings(registry, upstream).await;
            upstreams.push(UpstreamStatus {
                registry: registry.clone(),
                endpoints: self.endpoints(registry),
                findings,
            });
        }
        let totals = store.totals();
        let (in_use, room) = (self.pull.runtime.in_use(), store.room());
        let disk = self.disk().await;
        let space = disk.as_ref().and_then(|disk| disk.space.as_ref());
        let partial_bytes = disk.as_ref().map_or(0, |disk| disk.partial_bytes);
        let bounds = space.map(|space| self.pull.limits().bounds(space.total));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            listen: self.listen.clone(),
            store: StoreStatus {
                path: store.root().display().to_string(),
                blobs: totals.blobs,
                bytes: totals.bytes,
                partial_bytes,
                max_bytes: bounds.map_or(0, |bounds| bounds.max),
                free_bytes: space.map_or(0, |s| s.free),
                in_use_blobs: in_use.blobs,
                in_use_bytes: in_use.bytes,
                kept_bytes: room.kept,
                room_bytes: (room.kept > 0).then(|| room.left()),
                min_free_bytes: bounds.map_or(0, |bounds| bounds.min_free),
                capacity_bytes: bounds.zip(space).map(|(bounds, space)| {
                    let taken = totals.bytes + partial_bytes + store.bytes_of_layers();
                    bounds.capacity(taken, space.free)
                }),
                state: match (store.tenure(), store.trouble()) {
                    (Tenure::Held, None) if disk.is_none() => "the disk does not answer".to_owned(),
                    (Tenure::Held, None) => "ready".to_owned(),
                    (_, Some(why)) => {
                        format!("failing, larder is a plain proxy: {why}")
                    }
                    (Tenure::Waiting, None) => {
                        "waiting, larder is a plain proxy: another larder has the store".to_owned()
                    }
                },
            },
            fills: self
                .pull
                .fills
                .list()
                .into_iter()
                .map(|fill| FillStatus {
                    digest: fill.digest,
                    present_bytes: fill.present,
                    size_bytes: fill.size,
                    readers: fill.readers,
                    repository: fill
                        .source
                        .map(|s| format!("{}/{}", s.registry, s.repository)),
                })
                .collect(),
            upstreams,
            served: Served {
                requests: self.metrics.answered(),
                node_bytes: self.metrics.used_from(Tier::Node),
                cluster_bytes: self.metrics.used_from(Tier::Cluster),
                upstream_bytes: self.metrics.used_from(Tier::Upstream),
            },
            runtime: self.runtime(),
            cluster: config.cluster.peers.is_some().then(|| self.cluster()),
            object_store: config.cluster.object_store.as_ref().and_then(|named| {
                let view = self.pull.cluster.store.as_ref()?.view();
                Some(ObjectStoreStatus {
                    url: named.url.clone(),
                    waiting: view.queue as u64,
                    waiting_bytes: view.waiting_bytes,
                    written: view.written,
                    already_there: view.already_there,
                    dropped: view.dropped,
                    last_error: view.last_error,
                })
            }),
        }
    }

    fn runtime(&self) -> Option<RuntimeStatus> {
        let known = self.pull.runtime.known();
        if known.state == State::Off {
            return None;
        }
        let file = self.pull.config.load().runtime.file.clone()?;
        let report = known.report();
        Some(RuntimeStatus {
            file: file.display().to_string(),
            state: known.state.as_str().to_owned(),
            why: self.pull.runtime.why_unknown(),
            unknown_seconds: self.pull.runtime.unknown_for().map(|age| age.as_secs()),
            runtime: report.map(|report| {
                let Software { name, version } = &report.runtime;
                format!("{name} {version}")
            }),
            users: report.map_or(0, |report| report.users.len() as u64),
        })
    }

    fn cluster(&self) -> ClusterStatus {
        let peers = &self.metrics.peers;
        let members = self.pull.cluster.members.list().into_iter();
        ClusterStatus {
            members: members
                .map(|member| MemberStatus {
                    address: member.address.to_string(),
                    own: member.own,
                    state: member.state.as_str().to_owned(),
                })
                .collect(),
            received_bytes: self.metrics.received_from_members(),
            sent_bytes: self.metrics.sent_to_members(),
            distrusted: peers.distrusted.get(),
            copies: self.pull.copies.status(),
        }
    }
}
