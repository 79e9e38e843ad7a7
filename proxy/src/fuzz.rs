//! What a stranger may have written, given to what reads it, with what has to hold whatever it says.
//!
//! Tests and fuzzers alone have this: `fuzz/` runs the targets on bytes that it makes up, the tests here on its seeds.

mod requests;

use Target::{Bytes, Text};

use crate::{cli::install, credentials, flat, hold, lists, runtime, store, upstream, watch};

/// Takes anything. Panics if something does not hold.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    Bytes(fn(&[u8])),
    /// The text that the bytes begin with.
    Text(fn(&str)),
}

impl Target {
    fn try_with(self, bytes: &[u8]) {
        match self {
            Self::Bytes(target) => target(bytes),
            Self::Text(target) => target(match std::str::from_utf8(bytes) {
                Ok(text) => text,
                Err(error) => {
                    std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
                }
            }),
        }
    }
}

/// Each target by its name, in their order. Its seeds are in the directory of this name.
pub const TARGETS: [(&str, Target); 24] = [
    ("authorization", Text(credentials::fuzz::authorization)),
    ("challenges", Text(upstream::fuzz::challenges)),
    ("checkpoints", Text(store::fuzz::checkpoints)),
    ("cloud_answers", Bytes(credentials::fuzz::cloud_answers)),
    ("content_ranges", Text(upstream::fuzz::content_ranges)),
    ("docker_config", Bytes(credentials::fuzz::docker_config)),
    ("fuse_requests", Bytes(flat::fuzz::requests)),
    ("holder_messages", Bytes(hold::fuzz::messages)),
    ("hosts_toml", Text(install::fuzz::hosts_toml)),
    ("layer_indexes", Bytes(larder_layer::fuzz::indexes)),
    ("layer_trees", Bytes(larder_layer::fuzz::trees)),
    ("layers", Bytes(larder_layer::fuzz::layers)),
    ("links", Text(upstream::fuzz::links)),
    ("lists", Bytes(lists::fuzz::answers)),
    ("logs", Bytes(store::fuzz::logs)),
    ("manifests", Bytes(store::fuzz::manifests)),
    ("names", Text(requests::names)),
    ("peers", Text(requests::peers)),
    ("platforms", Bytes(watch::fuzz::platforms)),
    ("ranges", Text(requests::ranges)),
    ("routes", Text(requests::routes)),
    ("runtime", Bytes(runtime::fuzz::report)),
    ("tokens", Bytes(upstream::fuzz::tokens)),
    ("visitors", Text(requests::visitors)),
];

/// Runs the target of this name.
///
/// # Panics
/// There is none of this name, or something does not hold.
pub fn run(name: &str, bytes: &[u8]) {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = found.unwrap_or_else(|| panic!("no target {name}"));
    target.try_with(bytes);
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    fn seeds() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds")
    }

    fn entries(dir: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn every_target_has_seeds_and_they_hold() {
        let name = |dir: &PathBuf| dir.file_name().unwrap().to_str().unwrap().to_owned();
        let mut dirs: Vec<_> = entries(&seeds()).iter().map(name).collect();
        dirs.sort();
        assert_eq!(dirs, TARGETS.map(|(name, _)| name));
        for (name, target) in TARGETS {
            let files = entries(&seeds().join(name));
            assert!(!files.is_empty(), "{name} has no seeds");
            for file in files {
                target.try_with(&std::fs::read(file).unwrap());
            }
        }
    }

    /// Cut off at many places, and with another byte there.
    #[test]
    fn what_is_near_a_seed_holds() {
        for (name, target) in TARGETS {
            for file in entries(&seeds().join(name)) {
                let seed = std::fs::read(file).unwrap();
                for at in (0..seed.len()).step_by(seed.len() / 32 + 1) {
                    target.try_with(&seed[..at]);
                    for byte in *b"0\"\n/\0\xff" {
                        let mut changed = seed.clone();
                        changed[at] = byte;
                        target.try_with(&changed);
                    }
                }
            }
        }
    }
}
