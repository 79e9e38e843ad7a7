//! larder's image in the pod that its chart renders, on a node: real containerd, the CRI, the bridge and portmap
//! plugins, in network namespaces of the test's own. The tests' own kubelet carries out the pod's specification.

mod life;
mod memory;
mod serves;
mod setup;
mod watch;
