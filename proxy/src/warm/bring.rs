//! Fetches the sets' images, one after the other, as far as there is room for them.
//!
//! Each step plans anew: what is here, what the sets may hold, and which image is next. So a set that changes meanwhile
//! and an image that is evicted need no special case.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream};
use larder_shared::{Digest, name::ImageName};

use super::{
    Warm,
    budget::{Ask, Limits, admit},
    lock,
    state::{Progress, SetState, Wanted},
};
use crate::{
    config::{Amount, Config},
    pull::{Pace, Parts, Platforms},
    store::{Bounds, Counts, WarmHolds, WarmImage},
};

/// Without another reason to look, the tier is looked at this often: an image may have been evicted or removed.
const AGAIN: Duration = Duration::from_secs(30);

/// How many images' manifests are asked for at once.
const MANIFESTS: usize = 4;

/// The image that is fetched next, and its set.
struct Next {
    set: String,
    image: ImageName,
    digest: Digest,
    platforms: Platforms,
}

impl Warm {
    pub(super) async fn brings(&self) {
        loop {
            let config = self.pull.config.load_full();
            self.find_parts(&config).await;
            let next = self.plan(&config).await;
            if next.is_empty() {
                let rung = self.bring.notified();
                let _ = tokio::time::timeout(AGAIN, rung).await;
                continue;
            }
            let pace = self.pace(&config);
            let bringing = next.iter().map(|next| self.bring_one(next, &pace));
            join_all(bringing).await;
        }
    }

    /// Requests of other members do not count as clients. Otherwise two nodes that warm different sets would wait for
    /// each other.
    fn pace(&self, config: &Config) -> Pace {
        let metrics = Arc::clone(&self.pull.metrics);
        Pace::new(config.warm.max_rate, move || {
            metrics.clients.in_flight.get() > 0
        })
    }

    /// Asks for the manifests of images whose parts are not known.
    async fn find_parts(&self, config: &Config) {
        let mut unknown = Vec::new();
        for (name, state) in lock(&self.sets).iter() {
            let platforms = platforms(&state.platforms);
            for image in &state.images {
                let failed = matches!(image.progress, Progress::Failed(_));
                if let (None, false, Some(by_digest)) = (&image.parts, failed, image.by_digest()) {
                    unknown.push((name.clone(), image.digest, by_digest, platforms.clone()));
                }
            }
        }
        let mut found = stream::iter(unknown)
            .map(|(set, digest, image, platforms)| async move {
                let parts = self.pull.parts_of(&image, &platforms).await;
                (set, digest, image, parts)
            })
            .buffered(MANIFESTS);
        while let Some((set, digest, image, parts)) = found.next().await {
            if config.warm.set(&set).is_none() {
                continue;
            }
            self.change(&set, &image, digest, |wanted| match parts {
                Ok(parts) => wanted.parts = Some(parts),
                Err(why) => wanted.progress = Progress::Failed(why),
            });
        }
    }

    fn change(
        &self,
        set: &str,
        image: &ImageName,
        digest: Option<Digest>,
        change: impl FnOnce(&mut Wanted),
    ) {
        let mut sets = lock(&self.sets);
        let state = sets.iter_mut().find(|(name, _)| name == set);
        let Some((state, digest)) = state.map(|(_, state)| state).zip(digest) else {
            return;
        };
        let mut images = state.images.iter_mut();
        let wanted = images.find(|one| one.is(&image.registry, &image.repository, &digest));
        if let Some(wanted) = wanted {
            change(wanted);
        }
    }

    /// Decides what the sets hold, records that, and returns the images that come next.
    async fn plan(&self, config: &Arc<Config>) -> Vec<Next> {
        let mut sets: Vec<(String, SetState)> = lock(&self.sets).clone();
        if sets.is_empty() && self.pull.store.warm_sets().is_empty() {
            return Vec::new();
        }
        let limits = self.limits(config, &sets).await;
        for (_, state) in &mut sets {
            self.let_go_of_old(state);
        }
        let wanted = sets.iter().enumerate().flat_map(|(set, (_, state))| {
            let images = state.images.iter().enumerate();
            images.filter_map(move |(at, image)| Some((set, at, image.parts.as_ref()?)))
        });
        let wanted: Vec<(usize, usize, Parts)> = wanted
            .map(|(set, at, parts)| (set, at, parts.clone()))
            .collect();
        let left = sets.iter().enumerate().flat_map(|(set, (_, state))| {
            let images = state.left.iter().cloned();
            images.map(move |image| (set, image))
        });
        let left: Vec<(usize, WarmImage)> = left.collect();
        let asks = wanted.iter().map(|(set, _, parts)| Ask {
            set: *set,
            parts: &parts.all,
        });
        let asks = asks.chain(left.iter().map(|(set, image)| Ask {
            set: *set,
            parts: &image.parts,
        }));
        let admitted = admit(&limits, &asks.collect::<Vec<_>>());
        let (of_wanted, of_left) = admitted.split_at(wanted.len());
        let mut next = Vec::new();
        for ((set, at, parts), fits) in wanted.iter().zip(of_wanted) {
            let (name, state) = &mut sets[*set];
            let wanted_platforms = platforms(&state.platforms);
            let image = &mut state.images[*at];
            let here = self.pull.store.has_all(&parts.all);
            image.progress = match (&image.progress, fits) {
                (_, false) => Progress::NoRoom,
                (Progress::NoRoom, true) => Progress::Waiting,
                (known, true) => known.clone(),
            };
            let waits = matches!(image.progress, Progress::Waiting);
            if *fits
                && !here
                && waits
                && next.len() < config.warm.at_once
                && let Some(by_digest) = image.by_digest()
            {
                next.push(Next {
                    set: name.clone(),
                    image: by_digest,
                    digest: parts.digest,
                    platforms: wanted_platforms,
                });
            }
        }
        for (_, state) in &mut sets {
            state.left.clear();
        }
        for ((set, image), fits) in left.into_iter().zip(of_left) {
            if *fits {
                sets[set].1.left.push(image);
            }
        }
        self.hold(config, sets).await;
        next
    }

    /// An image that left a set is held until all images of the set are here, and for `keep` from then on.
    fn let_go_of_old(&self, state: &mut SetState) {
        let now = self.pull.store.clock().now();
        let store = &self.pull.store;
        let pending = state.images.iter().any(|image| {
            let whole = image
                .parts
                .as_ref()
                .is_some_and(|parts| store.has_all(&parts.all));
            image.digest.is_some() && !whole && !matches!(image.progress, Progress::NoRoom)
        });
        state.left.retain_mut(|image| {
            if !store.has_all(&image.parts) {
                return false;
            }
            if !pending {
                image.left_at.get_or_insert(now);
            }
            image
                .left_at
                .is_none_or(|at| now.saturating_sub(at) < state.keep.as_secs())
        });
    }

    /// How many bytes the sets may hold.
    async fn limits(&self, config: &Arc<Config>, sets: &[(String, SetState)]) -> Limits {
        let own: HashMap<Digest, u64> = sets
            .iter()
            .flat_map(|(_, state)| &state.images)
            .filter_map(|image| image.parts.as_ref())
            .flat_map(|parts| parts.all.iter().copied())
            .collect();
        let limits = self.pull.limits();
        let looked = self.pull.store.survey(move |store| {
            let space = store.space().ok()?;
            let bounds: Bounds = limits.bounds(space.total);
            let ready = store.ready_totals();
            let taken = store.taken();
            let capacity = bounds.capacity(taken, space.free);
            Some((
                bounds.max,
                capacity.saturating_sub(store.spoken_for(&own) + ready.kept),
            ))
        });
        // If the disk does not answer, nothing new is held.
        let (max, room) = looked.await.flatten().unwrap_or_default();
        let of = |amount: Amount| amount.of(max);
        let set = |(name, _): &(String, SetState)| {
            let set = config.warm.set(name).and_then(|set| set.max_size);
            set.map_or(u64::MAX, of)
        };
        Limits {
            all: of(config.warm.max_size).min(room),
            sets: sets.iter().map(set).collect(),
        }
    }

    /// Applies the plan: in memory, and in the sets' files.
    async fn hold(&self, config: &Arc<Config>, planned: Vec<(String, SetState)>) {
        let mut holds = Vec::new();
        {
            let mut sets = lock(&self.sets);
            for (name, plan) in planned {
                let images = plan.images.iter();
                let fits = images.filter(|image| !matches!(image.progress, Progress::NoRoom));
                let held = fits
                    .filter_map(Wanted::held)
                    .chain(plan.left.iter().cloned());
                holds.push((
                    name.clone(),
                    WarmHolds::of(plan.platforms.clone(), held.collect()),
                ));
                let state = sets.iter_mut().find(|(of, _)| *of == name);
                let Some((_, state)) = state else { continue };
                // A look may have changed the set meanwhile. The plan applies only to images that are still in it.
                for image in &mut state.images {
                    let same = image.digest.and_then(|digest| {
                        let mut all = plan.images.iter();
                        all.find(|one| one.is(&image.registry, &image.repository, &digest))
                    });
                    if let Some(same) = same
                        && !matches!(image.progress, Progress::Coming(_) | Progress::Failed(_))
                    {
                        image.progress = same.progress.clone();
                    }
                }
                state.left.retain_mut(|image| {
                    let mut left = plan.left.iter();
                    let kept = left.find(|one| one.digest == image.digest);
                    image.left_at = kept.and_then(|kept| kept.left_at);
                    kept.is_some()
                });
            }
        }
        let config = Arc::clone(config);
        let write = move |store: &crate::store::Store| {
            for name in store.warm_sets().into_keys() {
                if config.warm.set(&name).is_none() {
                    store.hold_warm(&name, None)?;
                }
            }
            for (name, holds) in holds {
                store.hold_warm(&name, Some(holds))?;
            }
            Ok::<(), std::io::Error>(())
        };
        let store = Arc::clone(&self.pull.store);
        let written = tokio::task::spawn_blocking(move || write(&store)).await;
        if let Ok(Err(error)) = written {
            tracing::debug!(%error, "what the warm sets hold cannot be written down");
        }
    }

    async fn bring_one(&self, next: &Next, pace: &Pace) {
        let counts = Arc::new(Counts::default());
        let change = |progress| {
            self.change(&next.set, &next.image, Some(next.digest), |wanted| {
                wanted.progress = progress;
            });
        };
        change(Progress::Coming(Arc::clone(&counts)));
        let pull = &self.pull;
        let brought = Box::pin(pull.bring(&next.image, &next.platforms, &counts, pace)).await;
        match brought {
            // Without this failure, the image would be fetched again and again.
            Ok(()) if !self.is_whole(next) => {
                change(Progress::Failed(
                    "it came, and was evicted at once: what is pinned or in use leaves too little room".to_owned(),
                ));
            }
            Ok(()) => {
                tracing::info!(set = next.set, image = %next.image, "an image of a warm set is here");
                change(Progress::Waiting);
                self.hear_tags(next).await;
            }
            Err(why) => {
                tracing::warn!(set = next.set, image = %next.image, error = why, "an image of a warm set could not be fetched, and is tried again at the next refresh");
                change(Progress::Failed(why));
            }
        }
    }

    fn wanted(&self, next: &Next) -> Option<Wanted> {
        let state = self.state(&next.set);
        let (registry, repository) = (&next.image.registry, &next.image.repository);
        let mut images = state.images.into_iter();
        images.find(|image| image.is(registry, repository, &next.digest))
    }

    fn is_whole(&self, next: &Next) -> bool {
        let parts = self.wanted(next).and_then(|image| image.parts);
        parts.is_none_or(|parts| self.pull.store.has_all(&parts.all))
    }

    /// Makes the tags of a warmed image resolve in an outage.
    async fn hear_tags(&self, next: &Next) {
        if let Some(image) = self.wanted(next)
            && let Some(parts) = &image.parts
        {
            let (tags, listed) = (&image.tags, &image.listed);
            self.pull
                .hear_listed(&next.image, tags, parts, listed)
                .await;
        }
    }
}

fn platforms(named: &[String]) -> Platforms {
    if named.is_empty() {
        Platforms::own()
    } else {
        Platforms::These(named.to_vec())
    }
}
