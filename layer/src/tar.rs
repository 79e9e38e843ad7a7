//! Reads the tar of a layer as it arrives: headers become entries of a tree, and content is skipped.
//!
//! Supported are GNU and PAX names, PAX attributes and times, and numbers in base 256. If readers of tar (GNU tar, Go's
//! archive/tar, mkfs.erofs) disagree about a header, the layer is refused. So a layer with an index shows what a
//! runtime would have unpacked.

mod header;
mod pax;

use crate::entry::{Attributes, Entry, Kind};
use crate::refused::Refused;
use crate::tree::Tree;
use header::{Type, read_header};
use pax::Records;

/// Bytes of a tar's block, and of the tree's.
pub const BLOCK: usize = 512;

/// The longest extended header: names, times and attributes of one entry.
const EXTENDED: u64 = 1 << 20;

/// What extended headers say about the next entry.
#[derive(Default)]
struct Next {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Option<Records>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Extended {
    Records,
    Global,
    Path,
    Link,
}

enum State {
    /// At a header; the block may be filled in part.
    Header,
    /// In an entry's content and padding.
    Content { left: u64 },
    /// In an extended header's content. `left` counts the padding, `wanted` does not.
    Extended {
        of: Extended,
        left: u64,
        wanted: u64,
        bytes: Vec<u8>,
    },
    /// Behind the end mark.
    Over,
}

/// Reads a tar in pieces of any size.
pub struct Reader {
    state: State,
    block: [u8; BLOCK],
    filled: usize,
    /// The tar's bytes so far.
    at: u64,
    zero_blocks: u8,
    next: Next,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            state: State::Header,
            block: [0; BLOCK],
            filled: 0,
            at: 0,
            zero_blocks: 0,
            next: Next::default(),
        }
    }
}

impl Reader {
    /// Takes the next bytes of the tar.
    pub fn push(&mut self, mut bytes: &[u8], tree: &mut Tree) -> Result<(), Refused> {
        while !bytes.is_empty() {
            let taken = match &mut self.state {
                State::Over => bytes.len(),
                State::Header => {
                    let taken = bytes.len().min(BLOCK - self.filled);
                    self.block[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
                    self.filled += taken;
                    taken
                }
                State::Content { left } => {
                    let taken = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len());
                    *left -= taken as u64;
                    taken
                }
                State::Extended {
                    left,
                    wanted,
                    bytes: collected,
                    ..
                } => {
                    let taken = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len());
                    let content = usize::try_from(*wanted).unwrap_or(usize::MAX).min(taken);
                    collected.extend_from_slice(&bytes[..content]);
                    *left -= taken as u64;
                    *wanted -= content as u64;
                    taken
                }
            };
            bytes = &bytes[taken..];
            self.at += taken as u64;
            self.go_on(tree)?;
        }
        Ok(())
    }

    /// Ends the tar.
    pub fn finish(self) -> Result<(), Refused> {
        match self.state {
            State::Over => Ok(()),
            // Writers may leave out the end mark.
            State::Header if self.filled == 0 => self.next.nothing(),
            _ => Err(Refused::Truncated),
        }
    }

    /// Acts on a block or an extended header that is complete.
    fn go_on(&mut self, tree: &mut Tree) -> Result<(), Refused> {
        match &mut self.state {
            State::Header if self.filled == BLOCK => {
                self.filled = 0;
                self.header(tree)
            }
            State::Content { left: 0 } => {
                self.state = State::Header;
                Ok(())
            }
            State::Extended {
                of, left: 0, bytes, ..
            } => {
                let (of, bytes) = (*of, std::mem::take(bytes));
                self.state = State::Header;
                self.next.read(of, &bytes)
            }
            _ => Ok(()),
        }
    }

    fn header(&mut self, tree: &mut Tree) -> Result<(), Refused> {
        if self.block == [0; BLOCK] {
            self.next.nothing()?;
            self.zero_blocks += 1;
            if self.zero_blocks == 2 {
                self.state = State::Over;
            }
            return Ok(());
        }
        // Behind a single block of zeros, GNU tar reads on and Go does not.
        if self.zero_blocks > 0 {
            return Err(Refused::Header);
        }
        let header = read_header(&self.block)?;
        let extended = match header.kind {
            Type::PaxRecords => Some(Extended::Records),
            Type::PaxGlobal => Some(Extended::Global),
            Type::GnuPath => Some(Extended::Path),
            Type::GnuLink => Some(Extended::Link),
            _ => None,
        };
        if let Some(of) = extended {
            if header.size > EXTENDED {
                return Err(Refused::TooLarge);
            }
            self.state = State::Extended {
                of,
                left: header.size.next_multiple_of(BLOCK as u64),
                wanted: header.size,
                bytes: Vec::new(),
            };
            return self.go_on(tree);
        }
        let block = u32::try_from(self.at / BLOCK as u64).map_err(|_| Refused::TooLarge)?;
        let (entry, size) = std::mem::take(&mut self.next).entry(header, block)?;
        let padded = size
            .checked_next_multiple_of(BLOCK as u64)
            .ok_or(Refused::Header)?;
        if u32::try_from(padded / BLOCK as u64 + u64::from(block)).is_err() {
            return Err(Refused::TooLarge);
        }
        self.state = State::Content { left: padded };
        tree.add(entry)?;
        self.go_on(tree)
    }
}

impl Next {
    /// An error if an extended header has no entry behind it.
    fn nothing(&self) -> Result<(), Refused> {
        match self {
            Self {
                path: None,
                link: None,
                records: None,
            } => Ok(()),
            _ => Err(Refused::Truncated),
        }
    }

    fn read(&mut self, of: Extended, bytes: &[u8]) -> Result<(), Refused> {
        // If a header of one kind comes twice, some readers replace the first, and others add to it.
        let fresh = match of {
            Extended::Global => return pax::check_global(bytes),
            Extended::Records => self.records.replace(Records::read(bytes)?).is_none(),
            Extended::Path => self.path.replace(until_zero(bytes)).is_none(),
            Extended::Link => self.link.replace(until_zero(bytes)).is_none(),
        };
        if fresh { Ok(()) } else { Err(Refused::Header) }
    }

    /// The entry of a header, and the size of the content behind it.
    fn entry(self, header: header::Header, block: u32) -> Result<(Entry, u64), Refused> {
        let records = self.records.unwrap_or_default();
        let either = |gnu: Option<Vec<u8>>, pax: Option<Vec<u8>>, short: Vec<u8>| match (gnu, pax) {
            (Some(_), Some(_)) => Err(Refused::Header),
            (Some(long), None) | (None, Some(long)) => Ok(long),
            (None, None) => Ok(short),
        };
        let path = either(self.path, records.path, header.path)?;
        let target = either(self.link, records.link, header.link)?;
        let size = records.size.unwrap_or(header.size);
        let slash = path.last() == Some(&b'/');
        let kind = match header.kind {
            Type::Old if slash => Kind::Directory,
            // GNU tar reads such an entry as a directory.
            Type::Regular if slash => return Err(Refused::Header),
            Type::Old | Type::Regular => Kind::File { block, size },
            Type::HardLink => Kind::HardLink { target },
            Type::Symlink => Kind::Symlink { target },
            Type::CharDevice => Kind::CharDevice {
                major: header.major,
                minor: header.minor,
            },
            Type::BlockDevice => Kind::BlockDevice {
                major: header.major,
                minor: header.minor,
            },
            Type::Directory => Kind::Directory,
            Type::Fifo => Kind::Fifo,
            Type::PaxRecords | Type::PaxGlobal | Type::GnuPath | Type::GnuLink => {
                return Err(Refused::Header);
            }
        };
        // Readers disagree on whether content follows entries of these kinds.
        if size > 0 && !matches!(kind, Kind::File { .. }) {
            return Err(Refused::Header);
        }
        // The largest number means no owner.
        let owner = |number: i64| match u32::try_from(number) {
            Ok(number) if number < u32::MAX => Ok(number),
            _ => Err(Refused::Number),
        };
        let (seconds, nanoseconds) = records.modified.unwrap_or((header.seconds, 0));
        let attributes = Attributes {
            mode: header.mode,
            uid: owner(records.uid.unwrap_or(header.uid))?,
            gid: owner(records.gid.unwrap_or(header.gid))?,
            seconds,
            nanoseconds,
            xattrs: records.xattrs,
        };
        Ok((
            Entry {
                path,
                kind,
                attributes,
            },
            size,
        ))
    }
}

fn until_zero(bytes: &[u8]) -> Vec<u8> {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    bytes[..end].to_vec()
}
