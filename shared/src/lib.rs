//! The language of larder: digests, names, routes, ranges and OCI errors.
//!
//! Everything here is pure: no I/O, no clock, no environment and no async runtime. So the daemon, the CLI, the tests'
//! fake registry and the property tests share one meaning of each word.

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
