//! A path of a tar, split into names.

use crate::refused::Refused;

/// The longest path, and the longest target of a symbolic link, that Linux can follow.
pub const LONGEST: usize = 4095;
/// The longest name in a directory.
const LONGEST_NAME: usize = 255;

/// The place that a path names.
pub enum Place<'a, I> {
    Root,
    Below { parents: I, name: &'a [u8] },
}

/// Splits a path. It starts at the layer's root, with or without a slash in front.
pub fn components(path: &[u8]) -> Result<Place<'_, impl Iterator<Item = &[u8]>>, Refused> {
    if path.is_empty() || path.contains(&0) {
        return Err(Refused::Path);
    }
    let names = || {
        path.split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty() && *name != b".")
    };
    if names().any(|name| name == b"..") {
        return Err(Refused::Path);
    }
    if path.len() > LONGEST || names().any(|name| name.len() > LONGEST_NAME) {
        return Err(Refused::NameTooLong);
    }
    let Some(name) = names().next_back() else {
        return Ok(Place::Root);
    };
    let parents = names().count() - 1;
    Ok(Place::Below {
        parents: names().take(parents),
        name,
    })
}
