//! larder: a node-local registry mirror and image cache, daemon and CLI.
//!
//! The modules are in the order of ARCHITECTURE.md, lowest first. Each imports only modules that stand above it.

pub mod adopt;
pub mod events;
pub mod sys;

pub mod clock;
pub mod coalesce;

pub mod config;

pub mod client;

pub mod credentials;
pub mod drain;
pub mod flat;
pub mod hold;
pub mod identity;
pub mod memory;
pub mod metrics;
pub mod trace;
pub mod visitor;
pub mod watch;

pub mod record;
pub mod telemetry;

pub mod history;

pub mod store;

pub mod runtime;

pub mod upstream;

pub mod cluster;

pub mod lists;

pub mod copies;

pub mod access;
pub mod tags;

pub mod fill;

pub mod body;

pub mod pull;

pub mod keep;

pub mod layers;
pub mod warm;

pub mod doctor;
pub mod page;

pub mod admin;
pub mod registry;

pub mod peers;

pub mod listen;

pub mod app;
pub mod cli;

#[cfg(any(test, fuzzing))]
pub mod fuzz;
