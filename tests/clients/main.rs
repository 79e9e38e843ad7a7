//! Real clients pull through the mirror: containerd by `ctr` and by CRI, podman, skopeo.
//!
//! Each test has its own registry, mirror and client. The mirror is reached in both of its
//! addressings: `/v2/<repo>/…?ns=<registry>` by containerd, `/v2/<registry>/<repo>/…` by the rest.

mod access;
mod conformance;
mod fallback;
mod image;
mod killed;
mod mirror;
mod node;
mod prefix;
mod removal;
mod runtime;
mod setup;
