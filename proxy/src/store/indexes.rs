//! Indexes of layers, which stand beside the layers' blobs: docs/index-format.md.
//!
//! ```text
//! <store>/indexes/sha256/ab/<hex>             made here, from the whole layer; `<hex>` is the layer's digest
//! <store>/indexes/sha256/ab/<hex>.foreign     another member made it: believed until the layer is whole here
//! <store>/indexes/wrong                       indexes that a whole layer has disproved, a line of JSON each
//! ```
//!
//! Each file is an index with its envelope. An index goes with its blob, unless a ready file of the layer or a caller
//! still needs it. The caller says whether a proof in an envelope is right.

mod disk;
mod wrong;

use std::{
    collections::HashMap,
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use larder_layer::{Envelope, Index, Unbelieved};
use larder_shared::{Algorithm, Digest};
use tokio::sync::Notify;

pub use self::wrong::WrongIndex;
use super::{Store, layout::Layout, lock};

/// The most refusals that are remembered.
const REMEMBERED: usize = 10_000;

/// An index without its layer stays for this long: the layer may be on its way.
const YOUNG: Duration = Duration::from_hours(1);

/// All indexes of one store.
#[derive(Debug)]
pub struct Indexes {
    layout: Arc<Layout>,
    state: Mutex<State>,
    /// Notified when an index is disproved: every user of that index has to stop.
    pub disproved: Notify,
}

#[derive(Debug, Default)]
struct State {
    own: HashMap<Digest, Lies>,
    foreign: HashMap<Digest, Lies>,
    /// How many callers need the index of a layer.
    needed: HashMap<Digest, usize>,
    /// Layers that have no index, and why.
    refused: HashMap<Digest, String>,
    wrong: Vec<WrongIndex>,
}

/// A file that lies on disk.
#[derive(Clone, Copy, Debug)]
struct Lies {
    bytes: u64,
    /// By the store's clock.
    since: u64,
}

/// Which index of a layer is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Made {
    /// This node made it from the whole layer.
    Here,
    /// Another member made it, and the layer has not been whole here since.
    Elsewhere,
}

/// An index that was read and checked. Its offsets are offsets in the file.
pub struct OpenIndex {
    pub index: Index,
    pub file: Arc<File>,
    pub made: Made,
    pub maker: String,
}

impl std::fmt::Debug for OpenIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the index of {} by {}", self.index.layer(), self.maker)
    }
}

/// Why an index was not kept.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    #[error("{0}")]
    Unbelieved(#[from] Unbelieved),
    #[error("{0} made an index that its layer disproved, and is not believed")]
    Disproved(String),
    #[error("writing it to the disk failed: {0}")]
    Disk(#[from] std::io::Error),
}

/// What became of another member's index when this node made its own.
#[derive(Debug)]
pub enum Other {
    /// There was none.
    None,
    /// The other member's index says the same.
    Right { maker: String },
    /// The other member's index says something else, and is set aside.
    Wrong(WrongIndex),
}

/// Sums over the indexes here.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct IndexTotals {
    pub own: u64,
    pub own_bytes: u64,
    pub foreign: u64,
    pub foreign_bytes: u64,
}

impl IndexTotals {
    pub const fn bytes(&self) -> u64 {
        self.own_bytes + self.foreign_bytes
    }
}

/// Keeps the index of a layer here until it is dropped.
#[derive(Debug)]
pub struct Needed {
    indexes: Arc<Indexes>,
    layer: Digest,
}

impl Drop for Needed {
    fn drop(&mut self) {
        let mut state = lock(&self.indexes.state);
        if let Some(count) = state.needed.get_mut(&self.layer) {
            *count -= 1;
            if *count == 0 {
                state.needed.remove(&self.layer);
            }
        }
    }
}

impl Indexes {
    pub(super) fn new(layout: Arc<Layout>) -> Self {
        Self {
            layout,
            state: Mutex::default(),
            disproved: Notify::new(),
        }
    }

    /// Which index of a layer is here, as far as is known without the disk.
    pub fn has(&self, layer: &Digest) -> Option<Made> {
        let state = lock(&self.state);
        if state.own.contains_key(layer) {
            return Some(Made::Here);
        }
        let foreign = state.foreign.contains_key(layer);
        foreign.then_some(Made::Elsewhere)
    }

    /// Layers of which an index was made here.
    pub fn made_here(&self) -> Vec<Digest> {
        lock(&self.state).own.keys().copied().collect()
    }

    /// Layers of which another member's index is here, and no own one.
    pub fn unproven(&self) -> Vec<Digest> {
        let state = lock(&self.state);
        let foreign = state.foreign.keys().copied();
        foreign
            .filter(|layer| !state.own.contains_key(layer))
            .collect()
    }

    /// Keeps the index of a layer, whatever becomes of the blob, until the returned guard is dropped.
    pub fn need(self: &Arc<Self>, layer: Digest) -> Needed {
        *lock(&self.state).needed.entry(layer).or_default() += 1;
        Needed {
            indexes: Arc::clone(self),
            layer,
        }
    }

    /// Why a layer has no index, if that is known.
    pub fn refused(&self, layer: &Digest) -> Option<String> {
        lock(&self.state).refused.get(layer).cloned()
    }

    /// Takes note of why a layer has no index. This process does not read the layer again to make one.
    pub fn refuse(&self, layer: Digest, why: String) {
        let mut state = lock(&self.state);
        if state.refused.len() < REMEMBERED {
            state.refused.insert(layer, why);
        }
    }

    pub fn totals(&self) -> IndexTotals {
        let state = lock(&self.state);
        let sum = |lies: &HashMap<Digest, Lies>| lies.values().map(|one| one.bytes).sum();
        IndexTotals {
            own: state.own.len() as u64,
            own_bytes: sum(&state.own),
            foreign: state.foreign.len() as u64,
            foreign_bytes: sum(&state.foreign),
        }
    }

    /// A temporary path for an index before it is kept.
    pub fn new_tmp(&self) -> PathBuf {
        self.layout.new_tmp()
    }

    fn path(&self, layer: &Digest, made: Made) -> PathBuf {
        self.layout.index(layer, made == Made::Elsewhere)
    }

    fn note(&self, layer: Digest, made: Made, bytes: Option<u64>) {
        let since = self.layout.clock().now();
        let mut state = lock(&self.state);
        let all = match made {
            Made::Here => &mut state.own,
            Made::Elsewhere => &mut state.foreign,
        };
        match bytes {
            Some(bytes) => all.insert(layer, Lies { bytes, since }),
            None => all.remove(&layer),
        };
    }
}

impl Store {
    /// Indexes of layers.
    pub fn indexes(&self) -> &Arc<Indexes> {
        &self.indexes
    }

    /// Removes indexes that nothing needs any more (blocking).
    pub(super) fn sweep_indexes(&self) {
        let (clock, indexes) = (self.clock(), &self.indexes);
        let old: Vec<Digest> = {
            let state = lock(&indexes.state);
            let all = state.own.iter().chain(&state.foreign);
            let old = all.filter(|(_, lies)| clock.age(lies.since) > YOUNG);
            old.map(|(layer, _)| *layer).collect()
        };
        for layer in old {
            if !self.has(&layer) && !self.adopts(&layer) && !self.has_partial(&layer) {
                self.let_index_go(&layer);
            }
        }
    }

    /// Removes the index of a layer that is not here any more, unless it is needed (blocking).
    pub(super) fn let_index_go(&self, layer: &Digest) {
        let indexes = &self.indexes;
        if indexes.has(layer).is_none() || lock(&indexes.state).needed.contains_key(layer) {
            return;
        }
        let ready = self.ready().and_then(|ready| ready.of_layer(layer));
        if ready.is_none() {
            indexes.remove(layer, Made::Here);
            indexes.remove(layer, Made::Elsewhere);
        }
    }
}

/// Whether a layer can have an index, judged by its digest alone.
pub fn may_have_index(layer: &Digest) -> bool {
    layer.algorithm() == Algorithm::Sha256
}

/// The caller's check of an envelope: whether its proof is right.
pub type IsSigned<'a> = &'a dyn Fn(&Envelope) -> bool;

#[cfg(test)]
mod tests;
