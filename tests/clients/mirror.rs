//! The mirror under test: the one place that says which program it is and how it is started.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use larder_tests::node::Node;
use nix::sys::signal::Signal;

/// The registry a mirror stands in front of.
pub(crate) struct Upstream {
    /// Its name in references and in `ns`.
    pub(crate) name: String,
    /// Its base URL.
    pub(crate) url: String,
}

/// A running larder with an empty store; ended and removed on drop.
pub(crate) struct Mirror {
    pub(crate) addr: SocketAddr,
    node: Node,
}

/// Starts a mirror of one registry.
pub(crate) async fn start_mirror(upstream: &Upstream) -> Result<Mirror> {
    let node = Node::builder()
        .upstream_at(&upstream.name, &upstream.url)
        .start()
        .await;
    Ok(Mirror {
        addr: node.addr().parse()?,
        node,
    })
}

/// Starts a mirror of one registry that paths name by `alias`.
pub(crate) async fn start_mirror_with_alias(upstream: &Upstream, alias: &str) -> Result<Mirror> {
    let Upstream { name, url } = upstream;
    let node = Node::builder()
        .config(format!(
            "[upstreams.\"{name}\"]\nendpoints = [\"{url}\"]\nalias = \"{alias}\"\n"
        ))
        .start()
        .await;
    Ok(Mirror {
        addr: node.addr().parse()?,
        node,
    })
}

impl Mirror {
    /// `kill -9`; returns when it is gone and its port refuses connections.
    pub(crate) fn kill(&mut self) {
        self.node.signal(Signal::SIGKILL);
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.node.ended().is_none() {
            assert!(Instant::now() < deadline, "larder survives kill -9");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// SIGTERM; returns at once.
    pub(crate) fn terminate(&mut self) {
        self.node.terminate();
    }

    /// Waits until it has ended after [`terminate`](Self::terminate), and says whether it exited with success.
    pub(crate) async fn ended(&mut self) -> bool {
        self.node.wait().await.success()
    }
}
