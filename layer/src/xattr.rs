//! Extended attributes of an inode: which ones a tree has, and their form in EROFS.
//!
//! The attributes stand behind the inode: 12 bytes of zeros, then entries, each a multiple of four bytes.

use std::collections::BTreeMap;

use crate::refused::Refused;

/// Extended attributes by their full names.
pub type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// Bytes before the entries.
const HEAD: usize = 12;
/// Bytes before an entry's name.
const ENTRY: usize = 4;
/// The longest full name in Linux.
const LONGEST_NAME: usize = 255;
/// The longest value that the format can hold.
const LONGEST_VALUE: usize = u16::MAX as usize;

/// The attribute namespaces of Linux, with their numbers in the format.
const SPACES: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];

/// An entry: the number of the namespace, the rest of the name, the value. Entries are sorted in this order.
pub type Pair<'a> = (u8, &'a [u8], &'a [u8]);

/// Marks a directory that hides the content of lower layers.
pub const OPAQUE: Pair<'static> = (4, b"overlay.opaque", b"y");
/// Marks a directory with whiteouts. Without it, overlayfs would show them if no other layer has the directory.
pub const HAS_WHITEOUTS: Pair<'static> = (4, b"overlay.origin", b"");

/// Whether an attribute of a tar is kept in the tree. Like runtimes, this leaves out namespaces that Linux does not
/// have. It also leaves out `user.` attributes of inodes other than files and directories. `system.` is refused: it is
/// for access control lists, whose value depends on the mode.
pub fn is_kept(name: &[u8], value: &[u8], user: bool) -> Result<bool, Refused> {
    if name.starts_with(b"system.") {
        return Err(Refused::Xattr);
    }
    let Some((number, rest)) = split(name) else {
        return Ok(false);
    };
    if number == 1 && !user {
        return Ok(false);
    }
    let valid = !rest.is_empty()
        && !is_overlay(rest)
        && !name.contains(&0)
        && name.len() <= LONGEST_NAME
        && value.len() <= LONGEST_VALUE;
    if valid { Ok(true) } else { Err(Refused::Xattr) }
}

/// Whether overlayfs would take the attribute for one of its own.
fn is_overlay(rest: &[u8]) -> bool {
    rest.starts_with(b"overlay.")
}

fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    SPACES
        .iter()
        .find_map(|(number, space)| Some((*number, name.strip_prefix(*space)?)))
}

/// The sorted entries of an inode: these attributes, and overlayfs' own.
pub fn pairs<'a>(xattrs: Option<&'a Xattrs>, own: &[Pair<'a>]) -> Vec<Pair<'a>> {
    let mut pairs = own.to_vec();
    for (name, value) in xattrs.into_iter().flatten() {
        if let Some((number, rest)) = split(name) {
            pairs.push((number, rest, value));
        }
    }
    pairs.sort_unstable();
    pairs
}

/// The size of these entries with the bytes before them; 0 without entries.
pub fn size(pairs: &[Pair<'_>]) -> usize {
    let entry =
        |(_, name, value): &Pair<'_>| (ENTRY + name.len() + value.len()).next_multiple_of(4);
    match pairs {
        [] => 0,
        pairs => HEAD + pairs.iter().map(entry).sum::<usize>(),
    }
}

/// The size in the unit that inodes use.
pub fn count(size: usize) -> u16 {
    match size {
        0 => 0,
        size => ((size - HEAD) / 4 + 1) as u16,
    }
}

/// Whether an inode has room for all these attributes, and for overlayfs' own.
pub fn fits(xattrs: &Xattrs) -> bool {
    let size = size(&pairs(Some(xattrs), &[OPAQUE, HAS_WHITEOUTS]));
    size <= HEAD + 4 * (usize::from(u16::MAX) - 1)
}

/// Appends the attributes, as they stand behind an inode.
pub fn write(pairs: &[Pair<'_>], to: &mut Vec<u8>) {
    if pairs.is_empty() {
        return;
    }
    to.extend_from_slice(&[0; HEAD]);
    for (number, name, value) in pairs {
        to.extend_from_slice(&[name.len() as u8, *number]);
        to.extend_from_slice(&(value.len() as u16).to_le_bytes());
        to.extend_from_slice(name);
        to.extend_from_slice(value);
        let padding = (ENTRY + name.len() + value.len()).next_multiple_of(4)
            - ENTRY
            - name.len()
            - value.len();
        to.extend_from_slice(&[0; 4][..padding]);
    }
}

/// Reads the attributes behind an inode. `None` if [`write()`] would not have written exactly these bytes.
pub fn read(bytes: &[u8], directory: bool, user: bool) -> Option<Vec<Pair<'_>>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let (head, mut rest) = bytes.split_at_checked(HEAD)?;
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    while let [name_length, number, low, high, behind @ ..] = rest {
        let (name, behind) = behind.split_at_checked(usize::from(*name_length))?;
        let (value, behind) =
            behind.split_at_checked(usize::from(u16::from_le_bytes([*low, *high])))?;
        let pair = (*number, name, value);
        let padding = (rest.len() - behind.len()).next_multiple_of(4) - (rest.len() - behind.len());
        let (zeros, behind) = behind.split_at_checked(padding)?;
        let after = pairs
            .last()
            .is_none_or(|(number, name, _)| (*number, *name) < (pair.0, pair.1));
        let own = directory && (pair == OPAQUE || pair == HAS_WHITEOUTS);
        let space = SPACES.iter().find(|(known, _)| known == number);
        let kept = space
            .is_some_and(|(_, space)| is_kept(&[space, name].concat(), value, user) == Ok(true));
        if !after || !(own || kept) || zeros.iter().any(|byte| *byte != 0) {
            return None;
        }
        pairs.push(pair);
        rest = behind;
    }
    let whole = rest.is_empty() && head == [0; HEAD] && !pairs.is_empty();
    whole.then_some(pairs)
}
