//! What Kubernetes does with larder's chart. One node is enough for most of it: helm renders the chart, and the tests'
//! own kubelet runs the pod by the CRI of a real containerd. [`Cluster`] is a real Kubernetes.

mod chart;
mod cluster;
mod kubelet;
mod pod;

pub use chart::{Chart, Objects};
pub use cluster::Cluster;
pub use kubelet::{Kubelet, RunningPod};
pub use pod::Status;
