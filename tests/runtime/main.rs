//! The watcher: what the file says of real containerds and of a CRI runtime, what happens when something is wrong, and what
//! the process may not do (P30).

mod confined;
mod containerd;
mod crio;
mod fake;
mod trouble;
mod unit;
