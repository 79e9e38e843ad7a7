//! A look at the registries of a set: lists, questions for tags, and the choice.
//!
//! If a registry does not answer, or suddenly lists nothing, the set stays as it was.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use larder_shared::{
    Digest, Reference, RegistryName, Repository, Tag,
    name::ImageName,
    warm::{ListedTag, Listing},
};

use super::{
    Warm,
    choice::{Resolved, choose},
    state::{SetState, SourceState, Trouble, Wanted, parts_of},
};
use crate::{
    clock::unix_now,
    config::{FromRepository, WarmSet, WarmSource},
    lists,
    pull::Looked,
    store::WarmImage,
};

/// How many tags a registry is asked for at once.
const ASKED: usize = 4;

/// The most rounds of questions. A round may bring up new tags to ask for, if several tags turn out to be one image.
const ROUNDS: usize = 16;

impl Warm {
    /// Asks the set's registries, and chooses.
    pub(super) async fn look(
        &self,
        set: &WarmSet,
        name: &str,
        before: SetState,
        within: Duration,
    ) -> SetState {
        let holds = self.pull.store.warm_sets().remove(name).unwrap_or_default();
        let (held_for, held) = (holds.platforms, holds.images);
        let mut sources = Vec::new();
        let mut images: Vec<Wanted> = Vec::new();
        for (index, source) in set.from.iter().enumerate() {
            let known = before.sources.get(index);
            let known = known.filter(|known| known.source == *source).cloned();
            let mut state = known.unwrap_or_else(|| SourceState::new(source.clone()));
            let more = match source {
                WarmSource::Repository(from) => {
                    self.look_at_repository(from, &mut state, &held, within)
                        .await
                }
                WarmSource::Images(named) => self.look_at_images(named, &mut state, &held).await,
                WarmSource::Seen(from) => self.look_at_seen(from, &mut state, within).await,
            };
            sources.push(state);
            for image in more {
                join(&mut images, image);
            }
        }
        let platforms = if before.looked {
            &before.platforms
        } else {
            &held_for
        };
        let same_platforms = *platforms == set.platforms;
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
                let (tags, listed) = (&image.tags, &image.listed);
                self.pull.hear_listed(&by_digest, tags, parts, listed).await;
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
        from: &FromRepository,
        state: &mut SourceState,
        held: &[WarmImage],
        within: Duration,
    ) -> Vec<Wanted> {
        let mut trouble = None;
        if from.needs_list() {
            trouble = self.list(from, state, within).await;
        }
        let before = known_tags(&from.registry, &from.repository, held);
        // Without any list, the tags that the set held are all that is known.
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
                    trouble.get_or_insert((format!("{tag}: {why}"), None));
                }
                state.answers.insert(tag, resolved);
            }
            choice = choose(from, &listing, &state.answers, unix_now());
        }
        note(state, trouble);
        let with_digest = listing.tags.iter().filter(|listed| listed.digest.is_some());
        let with_digest: HashSet<&Tag> = with_digest.map(|listed| &listed.tag).collect();
        let listed_at = state.listed.as_ref().map(|listed| listed.at);
        let listed = |tags: &[Tag]| {
            let tags = tags.iter().filter(|tag| with_digest.contains(tag));
            let at = |tag: &Tag| Some((tag.clone(), listed_at?));
            tags.filter_map(at).collect()
        };
        let images = choice.images.iter().map(|chosen| Wanted {
            registry: from.registry.clone(),
            repository: from.repository.clone(),
            digest: chosen.digest,
            tags: chosen.tags.clone(),
            listed: listed(&chosen.tags),
            why: chosen.why.to_string(),
            parts: None,
            progress: chosen.why.clone().into(),
        });
        let images = images.collect();
        state.choice = Arc::new(choice);
        images
    }

    /// Lists a repository. If the list is not the newest, returns why, and since when.
    async fn list(
        &self,
        from: &FromRepository,
        state: &mut SourceState,
        within: Duration,
    ) -> Option<(String, Option<u64>)> {
        let kept = self.pull.lists.refresh(&list_of(from), within).await;
        state.listed = kept.list.map(|known| Arc::new(known.listed()));
        let trouble = kept.trouble?;
        Some((trouble.why, Some(trouble.since)))
    }

    async fn look_at_images(
        &self,
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
                trouble.get_or_insert((format!("{image}: {why}"), None));
            }
            let mut wanted = Wanted {
                registry: image.registry,
                repository: image.repository,
                digest: None,
                tags,
                listed: HashMap::new(),
                why: "named in `images`".to_owned(),
                parts: None,
                progress: super::state::Progress::Waiting,
            };
            match resolved {
                Resolved::Digest(digest) => wanted.digest = Some(digest),
                Resolved::Missing => {
                    let why = "the registry does not have it".to_owned();
                    trouble.get_or_insert((format!("{}: {why}", wanted.name()), None));
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

/// The list of a source.
pub(super) fn list_of(from: &FromRepository) -> lists::Wanted {
    lists::Wanted {
        registry: from.registry.clone(),
        repository: from.repository.clone(),
        by: from.list,
    }
}

/// The meaning of an answer, and what is wrong, if anything. `known` is the tag's digest from before.
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

/// Records the source's trouble, if there is any, and since when.
pub(super) fn note(state: &mut SourceState, trouble: Option<(String, Option<u64>)>) {
    let now = unix_now();
    state.trouble = match (trouble, state.trouble.take()) {
        (None, _) => {
            state.at = Some(now);
            None
        }
        (Some((why, since)), before) => Some(Trouble {
            why,
            since: since.unwrap_or_else(|| before.map_or(now, |before| before.since)),
        }),
    };
}

/// Adds an image at the end, or adds its tags to the same image.
fn join(images: &mut Vec<Wanted>, image: Wanted) {
    let same = image.digest.and_then(|digest| {
        let mut all = images.iter_mut();
        all.find(|other| other.is(&image.registry, &image.repository, &digest))
    });
    match same {
        Some(other) => {
            other.listed.extend(image.listed);
            for tag in image.tags {
                if !other.tags.contains(&tag) {
                    other.tags.push(tag);
                }
            }
        }
        None => images.push(image),
    }
}

/// The last known targets of the tags of the set's images.
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
