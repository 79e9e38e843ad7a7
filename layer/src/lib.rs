//! The index of a layer: with it, a tar.gz as it was pushed becomes a file system that can be mounted and read in
//! pieces.
//!
//! An index has two parts. The *tree* is an EROFS file system without any file content. Its files point into the
//! layer's tar, which stands right behind the tree in one flat file, `[tree][tar]`. The *spans* cut the tar into pieces
//! of about 2 MiB. Each span can be decoded from a range of the compressed layer alone, and is checked against its
//! sha256.
//!
//! [`build()`] makes an index in one pass over a layer, and [`Index`] reads one. [`check`] verifies a tree before a
//! kernel may see it. [`ready`] joins tree and tar once the whole layer is here. docs/index-format.md describes the
//! file. The only I/O here is through the traits for reading and writing; there is no clock and no async runtime.

pub mod build;
pub mod compare;
pub mod deflate;
pub mod entry;
pub mod envelope;
pub mod erofs;
pub mod format;
pub mod fuzz;
pub mod index;
pub mod inflate;
pub mod ready;
pub mod refused;
pub mod spans;
pub mod tar;
pub mod tree;
pub mod window;
pub mod xattr;

pub use build::{Error, Summary, build};
pub use compare::{Difference, difference};
pub use envelope::{Envelope, Unbelieved};
pub use erofs::check::{Facts, Flaw, check};
pub use format::{Compression, Span, Start};
pub use index::{Broken, Index, SpanError, decode};
pub use refused::Refused;
