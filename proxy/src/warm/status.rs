//! The status of the sets, for people and programs.

use std::collections::HashSet;

use larder_shared::{
    Digest, RegistryName, Repository,
    warm::{
        CommonImage, ImageState, ImageStatus, NodeStatus, SetImage, SetStatus, SourceStatus,
        TagStatus,
    },
};

use super::{
    Warm, lock,
    state::{Progress, SetState, SourceState, Wanted},
};
use crate::{
    config::WarmSource,
    metrics::{OfSet, WarmImages},
    store::WarmImage,
};

impl Warm {
    /// The names of the sets, in the order of the configuration.
    pub fn names(&self) -> Vec<String> {
        let config = self.pull.config.load();
        config
            .warm
            .sets
            .iter()
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// A set, as this node sees it; `None` if there is no such set.
    pub fn status(&self, name: &str) -> Option<SetStatus> {
        let all_images = all(&self.state(name));
        let status = self.in_short(name)?;
        Some(SetStatus {
            all_images,
            ..status
        })
    }

    /// Every set, as this node sees it, without the tags of the lists, since these may be many.
    pub fn all_in_short(&self) -> Vec<SetStatus> {
        let names = self.names().into_iter();
        names.filter_map(|name| self.in_short(&name)).collect()
    }

    /// Why this node's labels are not known, if their file cannot be read.
    pub fn label_trouble(&self) -> Option<String> {
        lock(&self.label_trouble).clone()
    }

    fn in_short(&self, name: &str) -> Option<SetStatus> {
        let config = self.pull.config.load_full();
        let set = config.warm.set(name)?;
        let mut state = self.state(name);
        state.labels.clone_from(&set.nodes);
        // Until the first look, this node may be one of the set's nodes.
        state.matches |= !state.looked;
        let images: Vec<ImageStatus> = state.images.iter().map(|image| self.image(image)).collect();
        let left = state.left.iter().map(|image| self.left(image)).collect();
        let desired: Vec<SetImage> = state.images.iter().map(shown).collect();
        let is_here = |(image, _): &(&ImageStatus, &SetImage)| image.state == ImageState::Here;
        let both = || images.iter().zip(&desired);
        let here: Vec<SetImage> = both().filter(is_here).map(|(_, s)| s.clone()).collect();
        let lacking = both().filter(|both| !is_here(both));
        let missing = lacking.clone().count() as u64;
        let common = state.images.iter().zip(&images);
        let common = common.filter(|(_, image)| image.state == ImageState::Here);
        let sources: Vec<SourceStatus> = state.sources.iter().map(source).collect();
        let trouble = self
            .label_trouble()
            .map(|why| format!("the node's labels: {why}"));
        let waiting = (!state.looked).then(|| "the registries are being asked".to_owned());
        Some(SetStatus {
            name: name.to_owned(),
            labels: state.labels.clone(),
            common_cache: common.map(|(image, _)| shared(image)).collect(),
            all_images: Vec::new(),
            images_to_cache: lacking.map(|(_, s)| s.clone()).collect(),
            available_images: here,
            desired_images: desired,
            matches: state.matches,
            listed_at: sources.iter().filter_map(|source| source.listed_at).min(),
            error: sources
                .iter()
                .find_map(|source| source.error.clone())
                .or(trouble)
                .or(waiting),
            sources,
            images,
            left,
            nodes: vec![NodeStatus {
                name: self.own_name(),
                matches: state.matches,
                missing: state.matches.then_some(missing),
                error: None,
            }],
        })
    }

    /// The same, reduced to what this node knows to be public.
    pub async fn public_status(&self, name: &str) -> Option<SetStatus> {
        let status = self.cluster_status(name).await?;
        Some(self.only_public(name, status).await)
    }

    /// Reduces a status to public repositories. Content that this node does not know to be public is removed, even if
    /// another member told it. So are errors, which may name hidden content.
    pub(super) async fn only_public(&self, name: &str, mut status: SetStatus) -> SetStatus {
        let state = self.state(name);
        let images = state.images.iter();
        let images = images.map(|image| (&image.registry, &image.repository));
        let left = state.left.iter();
        let left = left.map(|image| (&image.registry, &image.repository));
        let sources = state
            .sources
            .iter()
            .filter_map(|state| match &state.source {
                WarmSource::Repository(from) => Some((&from.registry, &from.repository)),
                WarmSource::Images(_) | WarmSource::Seen(_) => None,
            });
        let known: HashSet<(&RegistryName, &Repository)> =
            images.chain(left).chain(sources).collect();
        let mut public: Vec<String> = Vec::new();
        for (registry, repository) in known {
            let record = self.pull.store.record(registry, repository).await;
            if record.public_since().is_some() {
                public.push(format!("{registry}/{repository}"));
                // Without its port, the name of this registry would not look like one.
                public.push(format!("{registry}:443/{repository}"));
            }
        }
        let is_open = |image: &str| {
            public.iter().any(|of| {
                let rest = image.strip_prefix(of.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
            })
        };
        status
            .common_cache
            .retain(|image| is_open(&image.image_url));
        for images in [
            &mut status.all_images,
            &mut status.available_images,
            &mut status.desired_images,
            &mut status.images_to_cache,
        ] {
            images.retain(|image| is_open(&image.image_url));
        }
        status.images.retain(|image| is_open(&image.image));
        status.left.retain(|image| is_open(&image.image));
        status.sources.retain(|source| is_open(&source.source));
        let hide = |error: &mut Option<String>| {
            if let Some(error) = error {
                "see `larder warm`".clone_into(error);
            }
        };
        hide(&mut status.error);
        for source in &mut status.sources {
            hide(&mut source.error);
        }
        for node in &mut status.nodes {
            hide(&mut node.error);
        }
        status
    }

    /// This node's name among the members.
    fn own_name(&self) -> String {
        let own = self.pull.cluster.members.view().own_address();
        own.map_or_else(|| "this node".to_owned(), |own| own.to_string())
    }

    fn is_here(&self, image: &Wanted) -> bool {
        let parts = image.parts.as_ref();
        parts.is_some_and(|parts| self.pull.store.has_all(&parts.all))
    }

    fn image(&self, image: &Wanted) -> ImageStatus {
        let sizes = image.parts.as_ref();
        let sizes = sizes.map(|parts| self.pull.store.present(&parts.all));
        let (state, error) = match (&image.progress, self.is_here(image)) {
            (_, true) => (ImageState::Here, None),
            (Progress::Waiting, false) => (ImageState::Waiting, None),
            (Progress::Coming(_), false) => (ImageState::Coming, None),
            (Progress::NoRoom, false) => {
                let why = "the sets may hold no more: raise [warm] max_size or [store] max_size, or choose fewer images";
                (ImageState::NoRoom, Some(why.to_owned()))
            }
            (Progress::Failed(why), false) => (ImageState::Failed, Some(why.clone())),
        };
        let coming = match &image.progress {
            Progress::Coming(counts) => Some(counts.progress().bytes),
            _ => None,
        };
        ImageStatus {
            image: image.name().to_string(),
            digest: text(image.digest.as_ref()),
            tags: image.tags.iter().map(ToString::to_string).collect(),
            state,
            bytes: sizes.map(|(_, all)| all),
            present_bytes: sizes.map(|(here, all)| here.max(coming.unwrap_or(0)).min(all)),
            why: image.why.clone(),
            error,
        }
    }

    fn left(&self, image: &WarmImage) -> ImageStatus {
        let (here, all) = self.pull.store.present(&image.parts);
        let reference = match image.tags.first() {
            Some(tag) => format!(":{tag}"),
            None => format!("@{}", image.digest),
        };
        ImageStatus {
            image: format!("{}/{}{reference}", image.registry, image.repository),
            digest: image.digest.to_string(),
            tags: image.tags.iter().map(ToString::to_string).collect(),
            state: if here == all {
                ImageState::Here
            } else {
                ImageState::Waiting
            },
            bytes: Some(all),
            present_bytes: Some(here),
            why: "it left the set and is held for `keep`".to_owned(),
            error: None,
        }
    }

    /// Sets the gauges, for a scrape.
    pub fn show(&self) {
        let (metrics, now) = (&self.pull.metrics.warm, crate::clock::unix_now());
        metrics.images.clear();
        metrics.bytes.clear();
        metrics.listed.clear();
        for name in self.names() {
            let Some(status) = self.in_short(&name) else {
                continue;
            };
            let of_set = OfSet { set: name.clone() };
            for state in ImageState::ALL {
                let images = status.images.iter().filter(|image| image.state == state);
                let labels = WarmImages {
                    set: name.clone(),
                    state: state.as_str(),
                };
                metrics
                    .images
                    .get_or_create(&labels)
                    .set(images.count() as i64);
            }
            let bytes = status.images.iter().filter_map(|image| image.present_bytes);
            metrics
                .bytes
                .get_or_create(&of_set)
                .set(bytes.sum::<u64>() as i64);
            if let Some(at) = status.listed_at {
                let age = now.saturating_sub(at) as i64;
                metrics.listed.get_or_create(&of_set).set(age);
            }
        }
    }
}

fn text(digest: Option<&Digest>) -> String {
    digest.map(ToString::to_string).unwrap_or_default()
}

/// An image with its first tag. The second tag follows in brackets, since the first may be an alias.
fn shown(image: &Wanted) -> SetImage {
    let name = match &image.tags[..] {
        [] => image.name().to_string(),
        [tag] => tag.to_string(),
        [tag, other, ..] => format!("{tag} ({other})"),
    };
    SetImage {
        image_url: image.name().to_string(),
        image_hash: text(image.digest.as_ref()),
        name,
    }
}

fn shared(image: &Wanted) -> CommonImage {
    CommonImage {
        image_url: image.name().to_string(),
        image_hash: text(image.digest.as_ref()),
        tags: image.tags.iter().skip(1).map(ToString::to_string).collect(),
    }
}

/// Every tag of the lists, and the images that are on no list.
fn all(state: &SetState) -> Vec<SetImage> {
    let mut all = Vec::new();
    for source in &state.sources {
        let WarmSource::Repository(from) = &source.source else {
            continue;
        };
        let listed = source.listed.iter();
        for listed in listed.flat_map(|listed| &listed.listing.tags) {
            let answered = match source.answers.get(&listed.tag) {
                Some(super::choice::Resolved::Digest(digest)) => Some(*digest),
                _ => None,
            };
            all.push(SetImage {
                image_url: format!("{}/{}:{}", from.registry, from.repository, listed.tag),
                image_hash: text(listed.digest.or(answered).as_ref()),
                name: listed.tag.to_string(),
            });
        }
    }
    for image in &state.images {
        let image = SetImage {
            name: image
                .tags
                .first()
                .map(ToString::to_string)
                .unwrap_or_default(),
            ..shown(image)
        };
        if !all.iter().any(|known| known.image_url == image.image_url) {
            all.push(image);
        }
    }
    all
}

fn source(state: &SourceState) -> SourceStatus {
    let tags = state.choice.tags.iter().map(|(tag, why)| TagStatus {
        tag: tag.to_string(),
        chosen: why.is_chosen(),
        why: why.to_string(),
    });
    SourceStatus {
        source: match &state.source {
            WarmSource::Repository(from) => format!("{}/{}", from.registry, from.repository),
            WarmSource::Images(_) => "images".to_owned(),
            WarmSource::Seen(_) => "seen".to_owned(),
        },
        listed_at: state.at,
        listed_by: state.listed.as_ref().and_then(|listed| listed.by.clone()),
        error: state.trouble.as_ref().map(|trouble| trouble.why.clone()),
        failing_since: state.trouble.as_ref().map(|trouble| trouble.since),
        tags: tags.collect(),
    }
}
