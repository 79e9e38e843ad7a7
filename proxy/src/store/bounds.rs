//! Chooses what has to go so that the node tier stays within its bounds: a pure function of the index.
//!
//! Partials that no fill writes go before any blob, see [`super::sweeping`]. Among blobs, [`Class`] is the order.

use larder_shared::Digest;

use super::Entry;

/// The bounds in force, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// The most that blobs and partials may take together.
    pub max: u64,
    /// Bytes that must stay free on the file system.
    pub min_free: u64,
}

/// The order in which blobs go, the first class first. Within a class, the least recently used goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// Not used for longer than it may stay. It goes even if no room is wanted.
    Expired,
    /// The runtime's own store has it too, or more members have it than `copies` asks for.
    Spare,
    /// Any other blob.
    Idle,
    /// A warm set holds it.
    Warm,
    /// A container of this node uses it, and other members have it whole.
    InUse,
    /// Pinned, or used by a container of this node and whole nowhere else: it never goes.
    Stays,
}

impl Class {
    /// The class in one word, for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Spare => "spare",
            Self::Idle => "idle",
            Self::Warm => "warm",
            Self::InUse => "in-use",
            Self::Stays => "stays",
        }
    }

    /// The class of a blob with these facts.
    pub const fn of(facts: Facts) -> Self {
        let Facts {
            pinned,
            in_use,
            expired,
            around:
                Around {
                    in_runtime,
                    surplus,
                    warm,
                    whole_elsewhere,
                },
        } = facts;
        if pinned {
            Self::Stays
        } else if in_use {
            if in_runtime {
                // The runtime's copy is served in its place.
                Self::Spare
            } else if whole_elsewhere {
                Self::InUse
            } else {
                Self::Stays
            }
        } else if warm && !in_runtime {
            Self::Warm
        } else if expired && !warm {
            Self::Expired
        } else if in_runtime || surplus {
            Self::Spare
        } else {
            Self::Idle
        }
    }
}

/// The facts about a blob that decide its class.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Facts {
    pub pinned: bool,
    /// A container of this node uses it, or was known to use it less than its TTL ago.
    pub in_use: bool,
    /// It has not been used for longer than it may stay.
    pub expired: bool,
    pub around: Around,
}

/// What other parts of larder know of a blob.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub struct Around {
    /// The runtime's own store has it, and it is served from there.
    pub in_runtime: bool,
    /// More living members have it whole than `copies` asks for, and this node is one that may let it go.
    pub surplus: bool,
    /// A warm set holds it.
    pub warm: bool,
    /// Enough other living members have it whole.
    pub whole_elsewhere: bool,
}

impl Bounds {
    /// What the tier may hold now, if it holds `used` bytes and `free` bytes are free. At 0 it keeps nothing, because
    /// other files fill the file system.
    pub fn capacity(&self, used: u64, free: u64) -> u64 {
        allowed(*self, used, free)
    }
}

/// One blob in the choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub digest: Digest,
    pub entry: Entry,
    pub class: Class,
}

/// Bytes that must be freed to be within `bounds`, when `used` are taken and `free` are free.
pub fn excess(bounds: Bounds, used: u64, free: u64) -> u64 {
    let over = used.saturating_sub(bounds.max);
    let short = bounds.min_free.saturating_sub(free);
    over.max(short)
}

/// What the tier may take within `bounds`, when it takes `used` now and `free` are free besides.
pub fn allowed(bounds: Bounds, used: u64, free: u64) -> u64 {
    let by_disk = (used + free).saturating_sub(bounds.min_free);
    bounds.max.min(by_disk)
}

/// The blobs to evict, in the order of class and last use: all that have expired, then as many as free `excess` bytes.
/// `stays` may be expensive, so it is asked last, and only about a blob whose turn it is.
pub fn victims(
    candidates: &mut [Candidate],
    excess: u64,
    mut stays: impl FnMut(&Digest) -> bool,
) -> Vec<Digest> {
    candidates.sort_by_key(|candidate| (candidate.class, candidate.entry.used));
    let mut freed = 0;
    let mut gone = Vec::new();
    for candidate in candidates {
        let turn = match candidate.class {
            Class::Expired => true,
            Class::Stays => break,
            Class::Spare | Class::Idle | Class::Warm | Class::InUse => freed < excess,
        };
        if turn && !stays(&candidate.digest) {
            freed += candidate.entry.size;
            gone.push(candidate.digest);
        }
    }
    gone
}

#[cfg(test)]
mod tests;
