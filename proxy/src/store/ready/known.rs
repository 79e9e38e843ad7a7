//! What the last look at this node's images found: the layers of each, and why not all of them are ready.

use std::collections::HashMap;

use larder_shared::{Digest, RegistryName, Repository, admin::ReadyLayers};

use super::{Phase, Ready};
use crate::store::lock;

/// What is known of one image's layers.
#[derive(Clone, Debug)]
pub struct OfImage {
    pub name: String,
    /// Each layer, and its diffID if the configuration names one.
    pub layers: Vec<(Digest, Option<Digest>)>,
    /// Why not all of them are ready, if that is so.
    pub why: Option<String>,
    /// The reason is worth showing: a person can change it, or has decided so.
    pub is_news: bool,
}

#[derive(Default, Debug)]
pub struct Known {
    images: HashMap<String, OfImage>,
    /// Why nothing new is offered at all.
    idle: Option<String>,
}

/// An image's name, by which it is known here.
pub fn image_name(registry: &RegistryName, repository: &Repository, manifest: &Digest) -> String {
    format!("{registry}/{repository}@{manifest}")
}

impl Ready {
    /// Takes note of what a look has found: all images, and why nothing new is offered, if so.
    pub fn found(&self, images: Vec<OfImage>, idle: Option<String>) {
        let images = images.into_iter();
        let images = images.map(|image| (image.name.clone(), image)).collect();
        lock(&self.state).known = Known { images, idle };
    }

    /// The images of which not all is offered, and why, in the order of their names; and why nothing new is, if so.
    pub fn why_not(&self) -> (Vec<(String, String)>, Option<String>) {
        let state = lock(&self.state);
        let images = state.known.images.values().filter(|image| image.is_news);
        let mut named: Vec<(String, String)> = images
            .filter_map(|image| Some((image.name.clone(), image.why.clone()?)))
            .collect();
        named.sort();
        (named, state.known.idle.clone())
    }

    /// How many of an image's layers are offered. `None` if the last look did not find the image.
    pub fn of_image(&self, name: &str) -> Option<ReadyLayers> {
        let state = lock(&self.state);
        let image = state.known.images.get(name)?;
        let is_offered = |diff_id: &Digest| {
            let file = state.files.get(diff_id);
            file.is_some_and(|file| file.phase == Phase::Offered)
        };
        let missing: Vec<Digest> = image
            .layers
            .iter()
            .filter(|(_, diff_id)| !diff_id.as_ref().is_some_and(is_offered))
            .map(|(layer, _)| *layer)
            .collect();
        let layers = image.layers.len() as u64;
        let why = || state.known.idle.clone().or_else(|| image.why.clone());
        Some(ReadyLayers {
            layers,
            ready: layers - missing.len() as u64,
            why: if missing.is_empty() { None } else { why() },
            missing,
        })
    }
}
