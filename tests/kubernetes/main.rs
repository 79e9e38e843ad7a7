//! larder on a real Kubernetes (promises P12, P14, P17, P21, P23, P28 and P34): what an operator does with it, and what
//! the pods of the cluster notice.
//!
//! `scripts/kube` makes the cluster: API server, controllers, scheduler, kubelets, kube-proxy, CoreDNS and containerd 2
//! on nodes of their own. Each test has a cluster of its own.

mod admission;
mod disk;
mod guide;
mod life;
mod older;
mod outage;
mod pulls;
mod ready;
mod removal;
mod setup;
