//! Indexes that a whole layer has disproved: they are never believed again, and neither is their maker for a while.

use std::{fs, path::Path};

use data_encoding::HEXLOWER;
use larder_layer::{Difference, Envelope};
use larder_shared::Digest;
use serde::{Deserialize, Serialize};

use super::{Indexes, OpenIndex};
use crate::{clock::unix_now, store::lock};

/// The most that are remembered. The oldest are forgotten first.
const REMEMBERED: usize = 100;

/// For so many seconds no index of the same maker is believed, and a wrong index is shown.
const MAKER: u64 = 24 * 3600;
const SHOWN: u64 = 7 * 24 * 3600;

/// One disproved index.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WrongIndex {
    pub layer: Digest,
    /// The index itself, by its seal.
    pub seal: String,
    /// The member that made it, by its own word.
    pub maker: String,
    pub why: String,
    /// When it was found out, in Unix seconds.
    pub at: u64,
}

impl WrongIndex {
    pub(super) fn new(layer: &Digest, theirs: &OpenIndex, why: Difference) -> Self {
        Self {
            layer: *layer,
            seal: HEXLOWER.encode(&theirs.index.seal()),
            maker: theirs.maker.clone(),
            why: why.to_string(),
            at: unix_now(),
        }
    }
}

impl Indexes {
    /// Indexes that were disproved in the last days.
    pub fn wrong(&self) -> Vec<WrongIndex> {
        let now = unix_now();
        let wrong = lock(&self.state).wrong.clone().into_iter();
        wrong
            .filter(|one| now < one.at.saturating_add(SHOWN))
            .collect()
    }

    /// Whether an index is known to be wrong, or its maker to have made a wrong one lately.
    pub(super) fn is_wrong(&self, envelope: &Envelope) -> bool {
        let (now, maker) = (unix_now(), envelope.maker());
        let seal = HEXLOWER.encode(&envelope.seal);
        lock(&self.state).wrong.iter().any(|one| {
            one.seal == seal || (one.maker == maker && now < one.at.saturating_add(MAKER))
        })
    }
}

pub(super) fn add(wrong: &mut Vec<WrongIndex>, one: WrongIndex) {
    wrong.push(one);
    let over = wrong.len().saturating_sub(REMEMBERED);
    wrong.drain(..over);
}

pub(super) fn lines(wrong: &[WrongIndex]) -> Vec<u8> {
    let line = |one: &WrongIndex| serde_json::to_string(one).unwrap_or_default() + "\n";
    wrong.iter().map(line).collect::<String>().into_bytes()
}

pub(super) fn read(path: &Path) -> Vec<WrongIndex> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines();
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}
