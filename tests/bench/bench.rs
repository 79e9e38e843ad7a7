//! What all sections share: sizes and rounds, the upstream's files, the counter of processor time, and how the programs
//! under comparison are started.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use larder_tests::node::Node;
use larder_tests::real::DockerRegistry;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::cpu::Accounting;
use crate::nginx::{Nginx, ORIGIN, STATIC, cache};
use crate::origin::Origin;
use crate::server::Server;

/// The name that the upstream goes by in requests to larder.
pub const REGISTRY: &str = "origin.test";

/// Sizes and counts of one run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub quick: bool,
    /// The whole run must end within this time.
    pub limit: Duration,
    /// Bytes of the large blob.
    pub blob: u64,
    /// Interleaved rounds of each comparison; the median counts.
    pub rounds: usize,
    /// Rounds with the upstream that is limited to 50 MB/s per connection: 12 s each for 600 MB.
    pub limited_rounds: usize,
    /// Downloads one after another that make one figure of a single client.
    pub passes: usize,
    /// How long each load of manifest requests lasts.
    pub load: Duration,
    /// Blobs of each size whose first byte is timed.
    pub firsts: usize,
    /// Rounds of the counts of upstream bytes, which hardly differ.
    pub counts: usize,
    /// Blobs in the store of the restart and memory sections.
    pub stored: usize,
    /// How long the slow streams are watched.
    pub watch: Duration,
    /// How long idle nodes are watched.
    pub idle: Duration,
    /// Compressed bytes of the large image, about.
    pub image: u64,
    /// Rounds of its pulls.
    pub pulls: usize,
}

impl Plan {
    pub fn full() -> Self {
        Self {
            quick: false,
            limit: Duration::from_mins(15),
            blob: 600_000_000,
            rounds: 5,
            limited_rounds: 5,
            passes: 3,
            load: Duration::from_secs(3),
            firsts: 100,
            counts: 3,
            stored: 100_000,
            watch: Duration::from_secs(6),
            idle: Duration::from_mins(1),
            image: 945_000_000,
            pulls: 3,
        }
    }

    /// Enough to see that everything works; the figures are rough.
    pub fn quick() -> Self {
        Self {
            quick: true,
            limit: Duration::from_mins(3),
            blob: 200_000_000,
            rounds: 3,
            limited_rounds: 1,
            passes: 2,
            load: Duration::from_secs(1),
            firsts: 30,
            counts: 1,
            stored: 20_000,
            watch: Duration::from_secs(2),
            idle: Duration::from_secs(15),
            image: 60_000_000,
            pulls: 1,
        }
    }
}

/// One run.
pub struct Bench {
    pub plan: Plan,
    pub runtime: Runtime,
    pub accounting: Accounting,
    /// The files that every server serves, or is filled from.
    pub origin: Origin,
    /// The large blob's digest.
    pub blob: String,
    /// A manifest of ordinary size, by its digest.
    pub manifest: String,
    /// nginx in front of the files, as upstream.
    pub upstream: Nginx,
    pub dir: TempDir,
}

/// How fast the upstream sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it can.
    Open,
    /// 50 MB/s on each connection.
    Limited,
    /// 125 MB/s on each connection: one client that uses one connection sees a link of 1 Gbit/s.
    Link,
}

impl Bench {
    /// Makes the content and starts the upstream.
    pub fn new(plan: Plan) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("larder-bench-").tempdir()?;
        let runtime = Runtime::new().context("no runtime")?;
        let accounting = Accounting::find();
        let mut origin = Origin::new(dir.path().join("origin"))?;
        let blob = origin.put_synthetic("bench", 1, plan.blob)?;
        let manifest = origin.put_sample_manifest("bench")?;
        let upstream = Nginx::start(&dir.path().join("upstream"), ORIGIN, 3, origin.dir())?;
        Ok(Self {
            plan,
            runtime,
            accounting,
            origin,
            blob,
            manifest,
            upstream,
            dir,
        })
    }

    /// Where the upstream answers at this pace.
    pub fn upstream(&self, pace: Pace) -> SocketAddr {
        self.upstream.addr(pace as usize)
    }

    /// The upstream itself, as a peer without an account.
    pub fn direct(&self, pace: Pace) -> Server {
        Server::unmetered("direct", self.upstream(pace))
    }

    /// larder with an empty store in front of the upstream.
    pub fn larder(&self, pace: Pace, log: &str) -> Result<Server> {
        let node = self.node(pace, log, None);
        Server::larder(&self.accounting, node)
    }

    /// larder as the tests start it, with its own store unless one is named.
    pub fn node(&self, pace: Pace, log: &str, store: Option<&Path>) -> Node {
        let upstream = format!("http://{}", self.upstream(pace));
        let mut builder = Node::builder()
            .upstream_at(REGISTRY, &upstream)
            .log_level(log);
        if let Some(store) = store {
            builder = builder.store(store);
        }
        self.runtime.block_on(builder.start())
    }

    /// nginx with sendfile over the very files; its second port keeps an access log.
    pub fn nginx_static(&self) -> Result<Server> {
        let dir = self.dir.path().join("static");
        let nginx = Nginx::start(&dir, STATIC, 2, self.origin.dir())?;
        Server::nginx(&self.accounting, "nginx static", nginx)
    }

    /// nginx as an empty cache in front of the upstream, in a directory of its own.
    pub fn nginx_cache(&self, pace: Pace) -> Result<Server> {
        let dir = self.dir.path().join("cache");
        let nginx = Nginx::start(&dir, &cache(self.upstream(pace)), 1, self.origin.dir())?;
        Server::nginx(&self.accounting, "nginx proxy_cache", nginx)
    }

    /// docker-registry that holds the large blob.
    pub fn registry(&self) -> Result<Server> {
        let dir = self.dir.path().join("registry");
        // The directory of an earlier registry, which has ended, would be in the way.
        let _ = std::fs::remove_dir_all(&dir);
        self.origin
            .lay_out_for_registry(&dir.join("data"), "bench", &self.blob)?;
        let registry = self.runtime.block_on(DockerRegistry::start(&dir))?;
        Server::docker_registry(&self.accounting, registry)
    }

    /// The path of the large blob.
    pub fn blob_path(&self) -> String {
        format!("/v2/bench/blobs/{}", self.blob)
    }
}
