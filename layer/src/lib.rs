//! The index of a layer: what makes a tar.gz, as it was pushed, a file system that can be mounted and read in pieces.
//!
//! An index has two parts. The *tree* is an EROFS file system without any file's content: its files point into the
//! layer's tar, which stands right behind the tree in one flat file, `[tree][tar]`. The *spans* cut the tar into pieces
//! of about 2 MiB; each can be decoded from a range of the compressed layer alone, and is checked against its sha256.
//!
//! [`build()`] makes an index in one pass over a layer, [`Index`] reads one, and [`check`] is what a tree passes before a
//! kernel may see it. docs/index-format.md describes the file. [`ready`] brings both together, once the whole layer is here.
//! There is no I/O here but reading and writing through traits, no clock and no async runtime.

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
