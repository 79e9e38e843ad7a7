//! Real containerd starts images before they are here (promise P33): the first member of a cluster has pulled an image and made
//! its indexes, the second one mounts the layers by them.

mod deaths;
mod faults;
mod kills;
mod lies;
mod node;
mod rights;
mod starts;
