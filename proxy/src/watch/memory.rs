//! What the watcher remembers from one round to the next, so that it asks only once. The memory is lost with the
//! process. An entry that a round did not need is forgotten.

use std::{collections::HashMap, sync::Arc};

use larder_shared::digest::Digest;

use super::{manifest::Known, translate::Volume};

/// Answers that hold as long as their object exists.
#[derive(Debug, Default)]
pub struct Memory {
    /// Indexes and manifests, which never change.
    pub manifests: HashMap<Digest, Arc<Known>>,
    /// The images that containers run, by namespace and id. Recorded while the image's name still led there.
    pub running: HashMap<(String, String), Digest>,
    /// The images that containers mount, by the container's id.
    pub volumes: HashMap<String, Arc<[Volume]>>,
    /// The images of sandboxes, by the sandbox's id.
    pub sandboxes: HashMap<String, Option<Arc<str>>>,
}
