use std::future::pending;

use arc_swap::ArcSwap;
use larder_shared::{Digest, RegistryName, Role};
use tokio::sync::oneshot;

use super::*;
use crate::{
    access::{Access, Grants},
    client::Client,
    cluster::{Cluster, records::PeerRecords},
    config::Config,
    fill::{Fills, fetch::SharedPieces},
    identity::Identity,
    metrics::Metrics,
    store::Store,
    trace::Trace,
    upstream::Upstreams,
};

fn registry() -> RegistryName {
    "a.io".parse().unwrap()
}

/// A fill without a reader.
fn running(dir: &std::path::Path) -> Running {
    let config: Arc<ArcSwap<Config>> = Arc::default();
    let client = Arc::new(Client::new());
    let metrics = Arc::new(Metrics::new());
    let upstreams = Upstreams::new(Arc::clone(&config), Arc::clone(&client), Arc::default());
    let upstreams = Arc::new(upstreams);
    let records = PeerRecords::new(dir.join("records"));
    let cluster = Cluster::new(Arc::clone(&config), Arc::clone(&metrics), &client, records);
    let grants = Grants::load(dir.join("grants"), Duration::ZERO);
    let access = Access::new(
        Arc::clone(&config),
        Arc::clone(&upstreams),
        grants,
        Arc::clone(&metrics),
    );
    let store = Store::open(&dir.join("store")).unwrap();
    let fills = Fills::new(
        store,
        Arc::clone(&upstreams),
        metrics,
        Arc::new(access),
        config,
        cluster.unwrap(),
    );
    let fill = Fill::new(
        Digest::sha256(b""),
        registry(),
        upstreams,
        Arc::default(),
        SharedPieces::default(),
    );
    Running::new(&fills, &Arc::new(fill))
}

/// After the bytes were found wrong, what a stream still brings belongs to no attempt, and its gap is fetched again.
#[tokio::test]
async fn wrong_bytes_end_every_stream_of_their_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = running(dir.path());
    let source = Source {
        registry: registry(),
        repository: "b".parse().unwrap(),
        identity: Identity::anonymous(),
        trace: Trace::none(),
    };
    let member = SocketAddr::from(([127, 0, 0, 9], 7422));
    let role = Role::Root;
    let via = Via::Peer { member, role };
    let (id, track) = running.track(Range::new(0, 1000), source, via, None);
    track.member.set(member).unwrap();
    lock(&track.wrote).insert(Range::new(0, 100));
    let (lives, ended) = oneshot::channel::<()>();
    running.streams.spawn(async move {
        let _lives = lives;
        pending::<()>().await;
        (id, End::Done)
    });
    let others = running.distrust().await;
    assert!(others, "the rest has not been asked");
    assert!(running.flights.is_empty() && running.streams.is_empty());
    assert!(ended.await.is_err(), "it goes on");
    let shares: Vec<_> = running.shares.iter().map(|s| (s.member, s.range)).collect();
    assert_eq!(shares, [(member, Range::new(0, 100))]);
}
