//! What the watcher remembers from one round to the next, so that it asks once. It is lost with the process, and what a
//! round did not need any more is forgotten.

use std::{collections::HashMap, sync::Arc};

use larder_shared::digest::Digest;

use super::{manifest::Known, translate::Volume};

/// What holds for as long as the thing is there.
#[derive(Debug, Default)]
pub struct Memory {
    /// Indexes and manifests, which never change.
    pub manifests: HashMap<Digest, Arc<Known>>,
    /// What containers run, by namespace and id, from when their image's name still led there.
    pub running: HashMap<(String, String), Digest>,
    /// The images that containers mount, by the container's id.
    pub volumes: HashMap<String, Arc<[Volume]>>,
    /// The images of sandboxes, by the sandbox's id.
    pub sandboxes: HashMap<String, Option<Arc<str>>>,
}
