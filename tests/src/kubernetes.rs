//! What Kubernetes does with larder's chart, as far as one node shows it: helm renders it, a kubelet of the tests' own runs
//! the pod by the CRI of a real containerd.

mod chart;
mod kubelet;
mod pod;

pub use chart::{Chart, Objects};
pub use kubelet::{Kubelet, RunningPod};
pub use pod::Status;
