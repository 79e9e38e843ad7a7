//! The watcher: what its file says of real containerds and of a CRI runtime, how it reports trouble, and what its
//! process may not do (P30).

mod confined;
mod containerd;
mod crio;
mod fake;
mod trouble;
mod unit;
