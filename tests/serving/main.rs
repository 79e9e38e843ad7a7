//! The daemon as a program: how it starts or refuses to start, what it reports, how it ends.

mod configuration;
mod drain;
mod handover;
mod seeing;
