//! Explanations and diagnosis (promise P24): `larder explain` says what a pull would do, `larder doctor` what is wrong
//! with a node.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod doctor;
mod explain;
mod trace;
