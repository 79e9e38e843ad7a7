//! The language of larder: what a digest, a name, a route, a range and an OCI error are.
//!
//! Everything here is pure. There is no I/O, no clock, no environment and no async runtime, so that the daemon, the
//! CLI, the tests' fake registry and the property tests mean the same thing by the same word.

pub mod admin;
pub mod digest;
pub mod error;
pub mod link;
pub mod media;
pub mod name;
pub mod range;
pub mod repository;
pub mod role;
pub mod route;
pub mod runtime;
pub mod spans;
pub mod trace;
pub mod warm;

pub use digest::{Algorithm, Digest, Hasher};
pub use error::{ErrorCode, OciError};
pub use name::{Reference, RegistryName, Repository, Tag};
pub use range::{Range, RangeHeader};
pub use repository::{Link, TagRecord};
pub use role::Role;
pub use route::Route;
pub use spans::Spans;
