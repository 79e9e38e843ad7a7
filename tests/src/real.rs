//! The real programs that larder lives among, each run privately for one test.
//!
//! Every program here has its own temporary directory, storage, and socket or loopback port, and ends when its value is
//! dropped. Debian's own instances of the same programs are never touched.
//!
//! Images, the faulty fake registry and larder itself are elsewhere.

mod browser;
mod containerd;
mod copy;
pub mod cri;
mod nginx;
mod process;
mod registry;
mod seaweed;
mod token_server;

use std::io::Write as _;

pub use browser::Browser;
pub use containerd::{Containerd, Release};
pub use copy::{Podman, PrefixMirror, Skopeo};
pub use cri::{Auth, CriClient, CriImage};
pub use nginx::Nginx;
pub use process::{free_port, run, succeeded, until};
pub use registry::{DockerRegistry, Logged, Requests};
pub use seaweed::SeaweedFs;
pub use token_server::{Account, TokenServer};

/// Why this machine cannot run containers at all, if it cannot.
///
/// A missing program is no such reason: `scripts/test` installs the programs, so a test that needs one fails without
/// it.
pub fn refusal() -> Option<&'static str> {
    if nix::unistd::geteuid().is_root() {
        None
    } else {
        Some("containerd mounts file systems, which takes root")
    }
}

/// Says on the real standard error, past the test harness's capture, that `test` was skipped.
pub fn skipped(test: &str, why: &str) {
    // There is nothing left to do when standard error itself is closed.
    let _ = writeln!(std::io::stderr(), "skipped {test}: {why}");
}
