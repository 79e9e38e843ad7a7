//! A directory's blocks: each has entries of 12 bytes, followed by their names. Names ascend over all blocks.

use super::{BLOCK, FileType, fields::array};

/// Bytes of an entry without its name.
const ENTRY: usize = 12;

/// A name in a directory, and its inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Named<'a> {
    pub name: &'a [u8],
    /// The inode's place, in slots.
    pub slot: u64,
    pub kind: FileType,
}

/// Counts or writes blocks. A block takes as many entries as it can hold.
#[derive(Default)]
struct Packing {
    entries: usize,
    used: usize,
}

impl Packing {
    /// Whether this name does not fit into the block any more.
    fn is_full_for(&self, name: &[u8]) -> bool {
        self.used + ENTRY + name.len() > BLOCK
    }

    fn add(&mut self, name: &[u8]) {
        self.entries += 1;
        self.used += ENTRY + name.len();
    }
}

/// The size of a directory with these names, which must ascend.
pub fn size<'a>(names: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut packing = Packing::default();
    let mut before = 0;
    for name in names {
        if packing.is_full_for(name) {
            before += BLOCK as u64;
            packing = Packing::default();
        }
        packing.add(name);
    }
    before + packing.used as u64
}

/// The names of a directory, with `.` and `..` at their sorted places.
pub fn with_dots<'a>(names: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    let mut dots: &[&[u8]] = &[b".", b".."];
    let mut names = names.peekable();
    std::iter::from_fn(move || match (dots, names.peek()) {
        ([dot, rest @ ..], name) if name.is_none_or(|name| name > dot) => {
            dots = rest;
            Some(*dot)
        }
        _ => names.next(),
    })
}

/// Appends a directory's blocks. The last one is filled up with zeros.
pub fn write(entries: &[Named<'_>], to: &mut Vec<u8>) {
    let mut rest = entries;
    while !rest.is_empty() {
        let mut packing = Packing::default();
        let fitting = rest.iter().take_while(|entry| {
            let fits = !packing.is_full_for(entry.name);
            if fits {
                packing.add(entry.name);
            }
            fits
        });
        let (block, behind) = rest.split_at(fitting.count());
        let mut name_at = ENTRY * block.len();
        for entry in block {
            to.extend_from_slice(&entry.slot.to_le_bytes());
            to.extend_from_slice(&(name_at as u16).to_le_bytes());
            to.extend_from_slice(&[entry.kind.entry(), 0]);
            name_at += entry.name.len();
        }
        for entry in block {
            to.extend_from_slice(entry.name);
        }
        to.extend_from_slice(&[0; BLOCK][name_at..]);
        rest = behind;
    }
}

/// Reads a directory's blocks, of which the last one has `size % BLOCK` bytes. `None` if [`write()`] would not write the
/// same.
pub fn read(blocks: &[u8], size: u64) -> Option<Vec<Named<'_>>> {
    let mut entries: Vec<Named<'_>> = Vec::new();
    let mut left = usize::try_from(size).ok()?;
    for block in blocks.chunks_exact(BLOCK) {
        let used = left.min(BLOCK);
        left -= used;
        read_block(&block[..used], &mut entries)?;
    }
    let mut again = Vec::with_capacity(blocks.len());
    write(&entries, &mut again);
    (left == 0 && again == blocks && self::size(entries.iter().map(|entry| entry.name)) == size)
        .then_some(entries)
}

fn read_block<'a>(block: &'a [u8], entries: &mut Vec<Named<'a>>) -> Option<()> {
    let name_at = |at: usize| -> Option<usize> {
        let entry = block.get(at * ENTRY..(at + 1) * ENTRY)?;
        Some(usize::from(u16::from_le_bytes(array(entry, 8))))
    };
    let count = name_at(0)? / ENTRY;
    for at in 0..count {
        let entry = block.get(at * ENTRY..(at + 1) * ENTRY)?;
        let begin = name_at(at)?;
        let name = if at + 1 < count {
            block.get(begin..name_at(at + 1)?)?
        } else {
            let rest = block.get(begin..)?;
            let end = rest
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(rest.len());
            &rest[..end]
        };
        let ascends = entries.last().is_none_or(|before| before.name < name);
        if !ascends
            || name.is_empty()
            || name.len() > 255
            || name.contains(&0)
            || name.contains(&b'/')
        {
            return None;
        }
        let kind = FileType::ALL
            .into_iter()
            .find(|kind| kind.entry() == entry[10])?;
        let slot = u64::from_le_bytes(array(entry, 0));
        entries.push(Named { name, slot, kind });
    }
    Some(())
}
