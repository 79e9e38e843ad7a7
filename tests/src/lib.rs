//! Black-box tests of larder: what they stand on. The scenarios are in the test executables.
//!
//! Everything here runs in the test's own process, except [`node`], which starts the real program.

pub mod fake;
pub mod http;
pub mod image;
pub mod node;
