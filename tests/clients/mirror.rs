//! The mirror under test: the one place that says what it is and how it is started.

use std::net::SocketAddr;

use anyhow::Result;
use larder_tests::real::Nginx;
use tempfile::TempDir;

/// The registry a mirror stands in front of.
pub(crate) struct Upstream {
    /// Its name in references and in `ns`.
    pub(crate) name: String,
    /// Its base URL.
    pub(crate) url: String,
}

/// A running mirror with an empty cache; ended and removed on drop.
pub(crate) struct Mirror {
    pub(crate) addr: SocketAddr,
    process: Nginx,
    _dir: TempDir,
}

/// Starts a mirror of one registry.
pub(crate) async fn start_mirror(upstream: &Upstream) -> Result<Mirror> {
    let dir = tempfile::Builder::new().prefix("mirror-").tempdir()?;
    let process = Nginx::caching(dir.path(), &upstream.name, &upstream.url).await?;
    Ok(Mirror {
        addr: process.addr(),
        process,
        _dir: dir,
    })
}

impl Mirror {
    /// `kill -9`; returns when it is gone and its port refuses connections.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }
}
