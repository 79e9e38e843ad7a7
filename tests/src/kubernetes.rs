//! What Kubernetes does with larder's chart. As far as one node shows it, helm renders it, and a kubelet of the tests' own runs
//! the pod by the CRI of a real containerd. [`Cluster`] is a real Kubernetes.

mod chart;
mod cluster;
mod kubelet;
mod pod;

pub use chart::{Chart, Objects};
pub use cluster::Cluster;
pub use kubelet::{Kubelet, RunningPod};
pub use pod::Status;
