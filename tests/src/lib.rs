//! The building blocks of larder's black-box tests. The scenarios are in the test executables.
//!
//! [`real`] runs the programs that larder meets in the field: registries, runtimes and copying clients. [`node`] starts
//! larder itself, and [`members`] several of them. [`runtime`] pulls through it as runtimes do. [`hosts`] makes
//! networks for them, and [`kubernetes`] runs larder's pod there as its chart says. [`clouds`] gives identities, and
//! [`machine`] gives larder a false view of the machine. [`watcher`] is the real `larder runtime`, [`holder`] the real
//! `larder hold`. [`holding`] writes the files that a watcher would write. Everything else lives in the test's own
//! process.

pub mod clouds;
pub mod fake;
pub mod holder;
pub mod holding;
pub mod hosts;
pub mod http;
pub mod image;
pub mod kubernetes;
pub mod machine;
pub mod members;
pub mod mirrors;
pub mod node;
pub mod real;
pub mod runtime;
pub mod scene;
pub mod schemas;
pub mod tmpfs;
pub mod watcher;
