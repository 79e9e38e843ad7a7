//! Answers to the kernel, as bytes. Pure, except for what the files say about themselves.

use super::{
    Entry, Files,
    wire::{Offer, Operation, Request},
};
use crate::sys::fuse::{EINVAL, EIO, ENOENT, ENOSYS, EPROTO, ESTALE};

/// The answer to INIT. It is given once and holds as long as the connection, whatever version of larder serves it
/// later. **Never change it for a connection that exists**, and see docs/holder.md before changing it at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Init {
    pub major: u32,
    pub minor: u32,
    /// How far the kernel reads ahead, in bytes. The device's own bound may be lower.
    pub max_readahead: u32,
    /// The most read-ahead requests that the kernel has under way at once.
    pub max_background: u16,
    pub congestion_threshold: u16,
    /// The least that the kernel accepts. Nothing is ever written.
    pub max_write: u32,
    /// The most pages of one request.
    pub max_pages: u16,
    /// Only those that the kernel offers are set.
    pub flags: u64,
}

/// `FUSE_ASYNC_READ`, `FUSE_PARALLEL_DIROPS`, `FUSE_MAX_PAGES`, `FUSE_INIT_EXT`, `FUSE_HAS_RESEND`.
const FLAGS: u64 = 1 | 1 << 18 | 1 << 22 | 1 << 30 | 1 << 39;

pub const INIT: Init = Init {
    major: 7,
    // The version that brought RESEND: Linux 6.9.
    minor: 40,
    max_readahead: 1 << 20,
    max_background: 64,
    congestion_threshold: 64,
    max_write: 4096,
    max_pages: 256,
    flags: FLAGS,
};

/// `FUSE_ROOT_ID`.
const ROOT: u64 = 1;

/// How long the kernel may keep a name and a file's attributes, in seconds. Neither ever changes. Until then the kernel
/// can open a file while no process serves.
const NAME_KEPT: u64 = 60;
const FILE_KEPT: u64 = 24 * 3600;

/// The length of `struct fuse_out_header`.
const HEAD: usize = 16;

/// Asks the kernel to send again all requests that were read and not answered.
pub(super) fn resend() -> [u8; HEAD] {
    const NOTIFY_RESEND: i32 = 7;
    header(HEAD, NOTIFY_RESEND, 0)
}

/// The header of an answer with `length` bytes of body.
pub(super) fn head(unique: u64, length: usize) -> [u8; HEAD] {
    header(HEAD + length, 0, unique)
}

/// An answer that is an error.
pub(super) fn error(unique: u64, error: i32) -> [u8; HEAD] {
    header(HEAD, -error, unique)
}

fn header(length: usize, error: i32, unique: u64) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&(length as u32).to_ne_bytes());
    head[4..8].copy_from_slice(&error.to_ne_bytes());
    head[8..].copy_from_slice(&unique.to_ne_bytes());
    head
}

/// The answer to any request but a read. `None` if the request gets no answer.
///
/// OPEN and RELEASE get ENOSYS, and the kernel then sends no more of them. So it can open a file that it knows while no
/// process serves. Nobody can list the directory.
pub(super) fn at_once(request: &Request<'_>, files: &impl Files) -> Option<Vec<u8>> {
    let body = match request.operation {
        Operation::Silent | Operation::Read { .. } => return None,
        Operation::Init(offer) => init(offer),
        Operation::Lookup { name } if request.node == ROOT => match files.named(name) {
            Some(file) if file.node > ROOT => Ok(entry(file)),
            Some(_) => Err(EIO),
            None => Err(ENOENT),
        },
        Operation::Lookup { .. } => Err(ENOENT),
        Operation::GetAttr if request.node == ROOT => Ok(attributes(None)),
        Operation::GetAttr => match files.of(request.node) {
            Some(file) => Ok(attributes(Some(file))),
            None => Err(ESTALE),
        },
        Operation::StatFs => Ok(file_system()),
        Operation::Other => Err(ENOSYS),
        Operation::Short => Err(EINVAL),
    };
    Some(match body {
        Ok(body) => [&head(request.unique, body.len())[..], &body].concat(),
        Err(failed) => error(request.unique, failed).to_vec(),
    })
}

/// `struct fuse_init_out`.
fn init(offer: Offer) -> Result<Vec<u8>, i32> {
    // A newer kernel learns this version from the answer, and sends INIT again.
    if offer.major < INIT.major {
        return Err(EPROTO);
    }
    let flags = INIT.flags & offer.flags;
    let mut out = Bytes::default();
    out.u32(INIT.major).u32(INIT.minor.min(offer.minor));
    out.u32(INIT.max_readahead).u32(flags as u32);
    out.u16(INIT.max_background).u16(INIT.congestion_threshold);
    // The 1 is the granularity of times, in nanoseconds.
    out.u32(INIT.max_write).u32(1);
    out.u16(INIT.max_pages).u16(0).u32((flags >> 32) as u32);
    Ok(out.padded(64))
}

/// `struct fuse_entry_out`. The generation is always 0, because a node id never stands for another file.
fn entry(file: Entry) -> Vec<u8> {
    let mut out = Bytes::default();
    out.u64(file.node).u64(0).u64(NAME_KEPT).u64(FILE_KEPT);
    out.u32(0).u32(0).attributes(Some(file));
    out.0
}

/// `struct fuse_attr_out`, of the directory if there is no file.
fn attributes(file: Option<Entry>) -> Vec<u8> {
    let mut out = Bytes::default();
    out.u64(FILE_KEPT).u32(0).u32(0).attributes(file);
    out.0
}

/// `struct fuse_statfs_out`.
fn file_system() -> Vec<u8> {
    let mut out = Bytes::default();
    out.u64(0).u64(0).u64(0).u64(0).u64(0);
    out.u32(4096).u32(255).u32(4096);
    out.padded(80)
}

/// A kernel structure, built field by field.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    /// `struct fuse_attr`.
    fn attributes(&mut self, file: Option<Entry>) -> &mut Self {
        const DIRECTORY: u32 = 0o040_555;
        const FILE: u32 = 0o100_400;
        let (node, bytes) = file.map_or((ROOT, 0), |file| (file.node, file.bytes));
        self.u64(node).u64(bytes).u64(bytes.div_ceil(512));
        // Times, and their nanoseconds.
        self.u64(0).u64(0).u64(0).u32(0).u32(0).u32(0);
        let mode = if file.is_some() { FILE } else { DIRECTORY };
        // Links, user, group, device.
        self.u32(mode).u32(1).u32(0).u32(0).u32(0);
        // The size of blocks, flags.
        self.u32(4096).u32(0)
    }

    fn padded(mut self, length: usize) -> Vec<u8> {
        self.0.resize(length, 0);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::{ops::Range, sync::Arc};

    use super::*;
    use crate::flat::Unread;

    /// One file, `file`, whose node id may be wrong.
    struct One(u64);

    impl Files for One {
        fn named(&self, name: &[u8]) -> Option<Entry> {
            (name == b"file").then_some(Entry {
                node: self.0,
                bytes: 1000,
            })
        }

        fn of(&self, node: u64) -> Option<Entry> {
            (node == self.0).then_some(Entry { node, bytes: 1000 })
        }

        async fn read(self: Arc<Self>, _: u64, _: Range<u64>) -> Result<bytes::Bytes, Unread> {
            Err(Unread::Failed)
        }
    }

    fn answer(node: u64, operation: Operation<'_>) -> Option<Vec<u8>> {
        let request = Request {
            unique: 5 | 1 << 63,
            node,
            operation,
        };
        at_once(&request, &One(77))
    }

    /// The error and the number of bytes behind the head, which is checked.
    fn shape(answer: &[u8]) -> (i32, usize) {
        assert_eq!(answer[..4], (answer.len() as u32).to_ne_bytes());
        assert_eq!(answer[8..16], (5u64 | 1 << 63).to_ne_bytes());
        let error = i32::from_ne_bytes(answer[4..8].try_into().unwrap());
        (-error, answer.len() - HEAD)
    }

    #[test]
    fn answers_are_as_long_as_the_kernels_structures() {
        let offer = Offer {
            major: 7,
            minor: 45,
            flags: u64::MAX,
        };
        for (node, operation, wanted) in [
            (1, Operation::Lookup { name: b"file" }, (0, 128)),
            (1, Operation::Lookup { name: b"other" }, (ENOENT, 0)),
            (77, Operation::Lookup { name: b"file" }, (ENOENT, 0)),
            (1, Operation::GetAttr, (0, 104)),
            (77, Operation::GetAttr, (0, 104)),
            (78, Operation::GetAttr, (ESTALE, 0)),
            (1, Operation::StatFs, (0, 80)),
            (0, Operation::Init(offer), (0, 64)),
            (1, Operation::Other, (ENOSYS, 0)),
            (1, Operation::Short, (EINVAL, 0)),
        ] {
            let answer = answer(node, operation).unwrap();
            assert_eq!(shape(&answer), wanted, "{operation:?}");
        }
        assert_eq!(answer(1, Operation::Silent), None);
    }

    #[test]
    fn the_roots_node_is_no_files() {
        let request = Request {
            unique: 5 | 1 << 63,
            node: ROOT,
            operation: Operation::Lookup { name: b"file" },
        };
        assert_eq!(shape(&at_once(&request, &One(1)).unwrap()), (EIO, 0));
    }

    /// Connections made by earlier versions live on. Change this test only together with docs/holder.md.
    #[test]
    fn the_answer_to_init_is_what_it_always_was() {
        let offer = |minor, flags| {
            Operation::Init(Offer {
                major: 7,
                minor,
                flags,
            })
        };
        let words = |answer: Vec<u8>| -> Vec<u32> {
            let (words, _) = answer[HEAD..].as_chunks();
            words.iter().map(|word| u32::from_ne_bytes(*word)).collect()
        };
        let background = 64 << 16 | 64;
        let whole = words(answer(0, offer(45, u64::MAX)).unwrap());
        let flags = 1 | 1 << 18 | 1 << 22 | 1 << 30;
        assert_eq!(
            whole[..9],
            [7, 40, 1 << 20, flags, background, 4096, 1, 256, 1 << 7]
        );
        assert!(whole[9..].iter().all(|word| *word == 0));
        // Flags that the kernel does not offer are not set.
        let less = words(answer(0, offer(31, 1)).unwrap());
        assert_eq!(less[..4], [7, 31, 1 << 20, 1]);
        let old = Operation::Init(Offer {
            major: 6,
            minor: 0,
            flags: 0,
        });
        assert_eq!(shape(&answer(0, old).unwrap()), (EPROTO, 0));
    }

    #[test]
    fn resend_is_a_word_of_sixteen_bytes() {
        let wanted: Vec<u8> = [16u32, 7, 0, 0]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        assert_eq!(resend()[..], wanted);
    }
}
