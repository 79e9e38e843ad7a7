//! larder: a node-local image cache. The library half of the program; `main` only calls into it.

pub mod cli;
pub mod config;
