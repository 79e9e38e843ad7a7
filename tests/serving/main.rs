//! The daemon as a program: how it starts and refuses to, what it shows, how it ends.

mod configuration;
mod drain;
mod handover;
mod seeing;
