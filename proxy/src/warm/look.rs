//! A look at the registries of a set: lists, questions for tags, the choice.
//!
//! A registry that does not answer, and one that lists nothing all of a sudden, leaves the set as it was.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt as _, stream};
use larder_shared::{
    Digest, Reference, RegistryName, Repository, Tag,
    name::ImageName,
    warm::{ListBy, ListedTag, Listing},
};

use super::{
    Warm,
    choice::{Resolved, choose},
    state::{SetState, SourceState, Trouble, Wanted, parts_of},
};
use crate::{
    clock::unix_now,
    config::{FromRepository, WarmSet, WarmSource},
    metrics::WarmListed,
    pull::Looked,
    store::WarmImage,
};

/// A list without a tag, after one with tags, is believed when it came so often.
const EMPTY: u32 = 3;

/// Tags that a registry is asked for at once.
const ASKED: usize = 4;

/// Each round of questions may bring up tags that nobody asked for yet: where several are one image.
const ROUNDS: usize = 16;

impl Warm {
    /// Asks the set's registries, and chooses.
    pub(super) async fn look(&self, name: &str, set: &WarmSet, before: SetState) -> SetState {
        let holds = self.pull.store.warm_sets().remove(name).unwrap_or_default();
        let held: Vec<WarmImage> = holds.images;
        let mut sources = Vec::new();
        let mut images: Vec<Wanted> = Vec::new();
        for (index, source) in set.from.iter().enumerate() {
            let known = before.sources.get(index);
            let known = known.filter(|known| known.source == *source).cloned();
            let mut state = known.unwrap_or_else(|| SourceState::new(source.clone()));
            let more = match source {
                WarmSource::Repository(from) => {
                    self.look_at_repository(name, from, &mut state, &held).await
                }
                WarmSource::Images(named) => {
                    self.look_at_images(name, named, &mut state, &held).await
                }
            };
            sources.push(state);
            for image in more {
                join(&mut images, image);
            }
        }
        let same_platforms = before.platforms == set.platforms || !before.looked;
        for image in &mut images {
            let Some(digest) = image.digest else {
                continue;
            };
            let mut known = before.images.iter();
            let known = known.find(|known| known.is(&image.registry, &image.repository, &digest));
            let mut files = held.iter().filter(|held| {
                held.digest == digest
                    && held.registry == image.registry
                    && held.repository == image.repository
            });
            if same_platforms {
                let parts = known.and_then(|known| known.parts.clone());
                image.parts = parts.or_else(|| files.next().map(parts_of));
            }
        }
        for image in &images {
            if let (Some(by_digest), Some(parts)) = (image.by_digest(), &image.parts)
                && self.pull.store.has_all(&parts.all)
            {
                let tags = &image.tags;
                self.pull.hear_listed(&by_digest, tags, parts).await;
            }
        }
        let mut left: Vec<WarmImage> = Vec::new();
        for held in held {
            let wanted = images
                .iter()
                .any(|image| image.is(&held.registry, &held.repository, &held.digest));
            if !wanted {
                left.push(WarmImage { left: true, ..held });
            }
        }
        SetState {
            labels: set.nodes.clone(),
            matches: true,
            sources,
            images,
            left,
            looked: true,
            platforms: set.platforms.clone(),
            keep: set.keep,
        }
    }

    async fn look_at_repository(
        &self,
        set: &str,
        from: &FromRepository,
        state: &mut SourceState,
        held: &[WarmImage],
    ) -> Vec<Wanted> {
        let mut trouble = None;
        if from.list != ListBy::Off && !from.newest.is_empty() {
            trouble = self.list(set, from, state).await;
        }
        let before = known_tags(&from.registry, &from.repository, held);
        // Without any list, what the set held is what is known.
        let listing = match &state.listed {
            Some(listed) => listed.listing.clone(),
            None if from.newest.is_empty() => Listing::default(),
            None => as_listing(&before),
        };
        let old = std::mem::take(&mut state.answers);
        let mut choice = choose(from, &listing, &state.answers, unix_now());
        for _ in 0..ROUNDS {
            if choice.unresolved.is_empty() {
                break;
            }
            let asked = stream::iter(choice.unresolved.clone())
                .map(|tag| async {
                    let looked = self.ask_tag(&from.registry, &from.repository, &tag).await;
                    (tag, looked)
                })
                .buffer_unordered(ASKED)
                .collect::<Vec<_>>()
                .await;
            for (tag, looked) in asked {
                let known = match old.get(&tag) {
                    Some(Resolved::Digest(digest)) => Some(*digest),
                    _ => before.get(&tag).copied(),
                };
                let (resolved, why) = settle(looked, known);
                if let Some(why) = why {
                    trouble.get_or_insert(format!("{tag}: {why}"));
                }
                state.answers.insert(tag, resolved);
            }
            choice = choose(from, &listing, &state.answers, unix_now());
        }
        note(state, trouble);
        let images = choice.images.iter().map(|chosen| Wanted {
            registry: from.registry.clone(),
            repository: from.repository.clone(),
            digest: chosen.digest,
            tags: chosen.tags.clone(),
            why: chosen.why.to_string(),
            parts: None,
            progress: chosen.why.clone().into(),
        });
        let images = images.collect();
        state.choice = Arc::new(choice);
        images
    }

    /// Lists a repository. Says why there is no new list, if there is none.
    async fn list(
        &self,
        set: &str,
        from: &FromRepository,
        state: &mut SourceState,
    ) -> Option<String> {
        let listed = self
            .lists
            .list(&from.registry, &from.repository, from.list)
            .await;
        let had = state
            .listed
            .as_ref()
            .is_some_and(|listed| !listed.listing.tags.is_empty());
        match listed {
            Ok(listed) if listed.listing.tags.is_empty() && had && state.empty + 1 < EMPTY => {
                state.empty += 1;
                self.count_list(set, WarmListed::Empty);
                Some("the registry lists no tags any more".to_owned())
            }
            Ok(listed) => {
                state.empty = 0;
                self.count_list(set, WarmListed::Listed);
                state.listed = Some(Arc::new(listed));
                None
            }
            Err(why) => {
                self.count_list(set, WarmListed::Failed);
                Some(why)
            }
        }
    }

    async fn look_at_images(
        &self,
        _set: &str,
        named: &[ImageName],
        state: &mut SourceState,
        held: &[WarmImage],
    ) -> Vec<Wanted> {
        let asked = stream::iter(named.iter().cloned())
            .map(|image| async {
                let looked = match &image.reference {
                    Reference::Digest(digest) => Ok(Looked::Now(*digest)),
                    Reference::Tag(_) => self.pull.look_up(&image).await,
                };
                (image, looked)
            })
            .buffered(ASKED)
            .collect::<Vec<_>>()
            .await;
        let mut trouble = None;
        let mut images = Vec::new();
        for (image, looked) in asked {
            let tags: Vec<Tag> = match &image.reference {
                Reference::Tag(tag) => vec![tag.clone()],
                Reference::Digest(_) => Vec::new(),
            };
            let before = known_tags(&image.registry, &image.repository, held);
            let known = tags.first().and_then(|tag| before.get(tag)).copied();
            let (resolved, why) = settle(looked, known);
            if let Some(why) = why {
                trouble.get_or_insert(format!("{image}: {why}"));
            }
            let mut wanted = Wanted {
                registry: image.registry,
                repository: image.repository,
                digest: None,
                tags,
                why: "named in `images`".to_owned(),
                parts: None,
                progress: super::state::Progress::Waiting,
            };
            match resolved {
                Resolved::Digest(digest) => wanted.digest = Some(digest),
                Resolved::Missing => {
                    let why = "the registry does not have it".to_owned();
                    trouble.get_or_insert(format!("{}: {why}", wanted.name()));
                    wanted.progress = super::state::Progress::Failed(why);
                }
                Resolved::Failed(why) => wanted.progress = super::state::Progress::Failed(why),
            }
            images.push(wanted);
        }
        note(state, trouble);
        images
    }

    async fn ask_tag(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        tag: &Tag,
    ) -> Result<Looked, String> {
        let image = ImageName {
            registry: registry.clone(),
            repository: repository.clone(),
            reference: Reference::Tag(tag.clone()),
        };
        self.pull.look_up(&image).await
    }
}

/// What an answer means where `known` was known before, and what is wrong if something is.
fn settle(looked: Result<Looked, String>, known: Option<Digest>) -> (Resolved, Option<String>) {
    let late = || "the registry could not be asked, this is what was known before".to_owned();
    match (looked, known) {
        (Ok(Looked::Now(digest)), _) => (Resolved::Digest(digest), None),
        (Ok(Looked::Before(digest)), _) => (Resolved::Digest(digest), Some(late())),
        (Ok(Looked::Missing), _) => (Resolved::Missing, None),
        (Err(why), Some(known)) => (Resolved::Digest(known), Some(why)),
        (Err(why), None) => (Resolved::Failed(why.clone()), Some(why)),
    }
}

/// Takes down whether the source is in trouble, and since when.
fn note(state: &mut SourceState, trouble: Option<String>) {
    let now = unix_now();
    state.trouble = match (trouble, state.trouble.take()) {
        (None, _) => {
            state.at = Some(now);
            None
        }
        (Some(why), before) => Some(Trouble {
            why,
            since: before.map_or(now, |before| before.since),
        }),
    };
}

/// Puts an image at the end, or joins its tags to the same image.
fn join(images: &mut Vec<Wanted>, image: Wanted) {
    let same = image.digest.and_then(|digest| {
        let mut all = images.iter_mut();
        all.find(|other| other.is(&image.registry, &image.repository, &digest))
    });
    match same {
        Some(other) => {
            for tag in image.tags {
                if !other.tags.contains(&tag) {
                    other.tags.push(tag);
                }
            }
        }
        None => images.push(image),
    }
}

/// What the tags of the set's images pointed to.
fn known_tags(
    registry: &RegistryName,
    repository: &Repository,
    held: &[WarmImage],
) -> HashMap<Tag, Digest> {
    let images = held
        .iter()
        .filter(|held| !held.left && held.registry == *registry && held.repository == *repository);
    let tags = images.flat_map(|held| held.tags.iter().map(|tag| (tag.clone(), held.digest)));
    tags.collect()
}

fn as_listing(known: &HashMap<Tag, Digest>) -> Listing {
    let mut tags: Vec<_> = known.iter().collect();
    tags.sort();
    Listing {
        tags: tags
            .into_iter()
            .map(|(tag, digest)| ListedTag {
                tag: tag.clone(),
                digest: Some(*digest),
                size: None,
                pushed: None,
            })
            .collect(),
        complete: false,
    }
}
