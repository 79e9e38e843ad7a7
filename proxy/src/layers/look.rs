//! One look at reports, images and rights: decides what to make ready, and withdraws what may no longer be offered.

use std::{collections::HashSet, sync::Arc, time::Instant};

use larder_shared::{Digest, runtime::Report};

use super::{
    Layers,
    images::{self, Barred, Image, Read},
    origin_of,
    rights::{self, Facts, Refusal},
    work::NO_ROOM,
};
use crate::{
    config::{Config, Sharing},
    runtime::{State, references, tells},
    store::{Cause, Ground, OfImage, Ready, Told},
};

const OFF: &str = "[streaming] mode is \"off\": nothing new is offered";

const NO_WATCHER: &str = "no watcher reports the container runtime";

/// What a survey of the store found.
pub(super) struct Survey {
    /// The runtime's report when the survey began. Later reports are not in it.
    report: Option<Arc<Report>>,
    read: Read,
    images: Vec<Image>,
    barred: Option<Barred>,
}

const OF_ANOTHER: &str = "it belongs to an image that is never offered";

/// What a look finds about an image.
enum Finding {
    /// Part of it can be made ready. The text says why the rest cannot.
    Lacks(Option<String>),
    /// Nothing of it can be made ready, for a reason that the operator may want to change.
    Not(String),
    /// Nothing of it is made ready until it no longer waits.
    Waits(Waits),
}

/// What an image waits for.
#[derive(Clone, Copy)]
enum Waits {
    Whole,
    Held,
    Pull,
    Report,
    Size,
    Turn,
    Use,
}

impl Waits {
    fn of(config: &Config, image: &Image, pulled: bool, told_since: bool) -> Option<Self> {
        let largest = image.content.layers.iter().map(|(_, size)| *size).max();
        let small = largest.unwrap_or(0) < config.streaming.min_layer;
        let waits = [
            (!image.whole, Self::Whole),
            (!image.held, Self::Held),
            (!pulled, Self::Pull),
            (!told_since, Self::Report),
            (small, Self::Size),
        ];
        let mut waits = waits.into_iter();
        waits.find_map(|(does, waits)| does.then_some(waits))
    }

    /// The reason, for logs and pages.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "not all of the image is on this node",
            Self::Held => "its repository is not known to hold all of it",
            Self::Pull => "no client of this node has pulled it",
            Self::Report => "the watcher has not reported since it was pulled",
            Self::Size => "none of its layers has [streaming] min_layer bytes",
            Self::Turn => "they are made when the machine has nothing else to do",
            Self::Use => "its ready files were removed, and are made again after a new pull",
        }
    }
}

/// Why nothing new is offered at all. `None` if new layers are offered.
pub(super) fn idle(report: Option<&Report>, state: &State) -> Option<String> {
    let Some(report) = report else {
        return Some(NO_WATCHER.to_owned());
    };
    if !tells(report) {
        return Some(format!(
            "{} {} does not tell which files its snapshots refer to: containerd 2.4.2 and later do",
            report.runtime.name, report.runtime.version
        ));
    }
    let old = *state != State::Fresh;
    old.then(|| "the watcher's last report of the container runtime is old".to_owned())
}

impl Layers {
    /// One look: updates what snapshots refer to, withdraws what may no longer be offered, and lists what to make.
    pub(super) async fn look(&self) {
        let Some(ready) = self.ready() else { return };
        let (runtime, config) = (self.pull.runtime.known(), self.pull.config.load_full());
        let report = runtime.report().cloned();
        let referred = report.as_deref().and_then(references);
        let told = report.as_ref().filter(|_| referred.is_some());
        let told = told.map(|report| Told {
            at: report.at,
            fresh: runtime.state == State::Fresh,
        });
        ready.told(told, referred.as_ref());
        self.look_for_links(ready);
        if !self.offers {
            for diff_id in ready.files().into_keys() {
                ready.withdraw(&diff_id, true);
            }
            ready.found(Vec::new(), Some(OFF.to_owned()));
            return;
        }
        let idle = idle(report.as_deref(), &runtime.state);
        let Some(found) = self.survey(report.as_ref(), &config).await else {
            return;
        };
        let Survey {
            report,
            read,
            images,
            barred,
        } = found;
        self.lock().read = read;
        if self.keeps_indexes() {
            self.look_for_indexes(&config, &images, barred.as_ref());
        }
        let barred = barred.map(Arc::new);
        if let Some(barred) = &barred {
            self.lock().barred = Arc::clone(barred);
            self.withdraw(ready, &config, &images, barred).await;
        }
        let room = self.room(&images).await;
        let of_runtime = report.iter().flat_map(|report| &report.images);
        let of_runtime: HashSet<Digest> = of_runtime
            .flat_map(|image| [Some(image.target), image.manifest, image.config])
            .flatten()
            .collect();
        let (mut found, mut todo) = (Vec::new(), Vec::new());
        for image in images {
            let state = match (&report, &barred) {
                (Some(report), Some(barred)) if idle.is_none() => {
                    let held = of_runtime.contains(&image.manifest)
                        || of_runtime.contains(&image.content.config);
                    let served = self.pull.served.at(&image.manifest);
                    // Only a report after the pull tells whether a pod of a `streaming.never` namespace uses the image.
                    let told_since = served.is_none_or(|served| report.at > served);
                    let waits = Waits::of(&config, &image, held || served.is_some(), told_since);
                    match waits {
                        Some(waits) => Finding::Waits(waits),
                        None => self.state(ready, &config, &image, barred, room).await,
                    }
                }
                // The reason why nothing new is offered is logged once, not per image.
                _ => Finding::Waits(Waits::Turn),
            };
            let (why, is_news) = match &state {
                Finding::Waits(waits) => (waits.as_str().to_owned(), false),
                Finding::Lacks(None) => (Waits::Turn.as_str().to_owned(), false),
                Finding::Lacks(Some(why)) | Finding::Not(why) => (why.clone(), true),
            };
            found.push(OfImage {
                name: image.name(),
                layers: image.layers(),
                why: Some(why),
                is_news,
            });
            if matches!(state, Finding::Lacks(_)) {
                todo.push(image);
            }
        }
        todo.sort_by_key(|image| std::cmp::Reverse((image.used, image.manifest)));
        ready.found(found, idle);
        let some = !todo.is_empty();
        self.lock().todo = todo;
        if some {
            self.work.notify_one();
        }
    }

    /// Whether something of an image that waits for nothing can be made ready, and if not, why. `room` is in bytes.
    async fn state(
        &self,
        ready: &Ready,
        config: &Config,
        image: &Image,
        barred: &Barred,
        room: u64,
    ) -> Finding {
        if let Err(refusal) = self.ground(config, image, barred).await {
            return Finding::Not(refusal.as_str().to_owned());
        }
        if self.waits_for_room(image, room) {
            return Finding::Not(NO_ROOM.to_owned());
        }
        let why = self.known_against(image);
        match (self.lacks(ready, image), why) {
            (true, why) => Finding::Lacks(why),
            (false, Some(why)) => Finding::Not(why),
            (false, None) => Finding::Waits(Waits::Use),
        }
    }

    /// What the store and this report say about the images. A survey that outlasts the wait goes on, and the next look
    /// waits for it. If each look began a new survey, a slow survey would never end.
    async fn survey(&self, report: Option<&Arc<Report>>, config: &Config) -> Option<Survey> {
        let mut ongoing = self.survey.lock().await;
        let mut survey = ongoing.take().unwrap_or_else(|| {
            let mut read = std::mem::take(&mut self.lock().read);
            let (report, streaming) = (report.cloned(), config.streaming.clone());
            self.pull.store.begin_survey(move |store| {
                let images = images::images(store, &mut read);
                let of = report.as_ref();
                let barred = of.map(|of| Barred::of(store, &mut read, of, &streaming, &images));
                Survey {
                    report,
                    read,
                    images,
                    barred,
                }
            })
        });
        if let Some(ended) = self.pull.store.wait_for_survey(&mut survey).await {
            return ended.ok();
        }
        *ongoing = Some(survey);
        None
    }

    /// Bytes of room for more ready files. Images that are gone no longer wait for room.
    async fn room(&self, images: &[Image]) -> u64 {
        {
            let mut known = self.lock();
            let here: HashSet<Digest> = images.iter().map(|image| image.manifest).collect();
            known.no_room.retain(|manifest, _| here.contains(manifest));
            if known.no_room.is_empty() {
                return 0;
            }
        }
        let limits = self.pull.limits();
        let room = self
            .pull
            .store
            .survey(move |store| store.room_for_ready(&limits));
        room.await.flatten().unwrap_or(0)
    }

    /// Whether an image lacked room and still does.
    fn waits_for_room(&self, image: &Image, room: u64) -> bool {
        let mut known = self.lock();
        match known.no_room.get(&image.manifest) {
            Some(bytes) if *bytes > room => true,
            Some(_) => {
                known.no_room.remove(&image.manifest);
                false
            }
            None => false,
        }
    }

    /// Why nothing of an image, or not all of it, is offered.
    fn known_against(&self, image: &Image) -> Option<String> {
        let known = self.lock();
        if known.foreign.contains(&image.manifest) {
            return Some(Refusal::Foreign.as_str().to_owned());
        }
        let is_later = known.later.get(&image.manifest);
        if is_later.is_some_and(|at| *at > Instant::now())
            && let Some(why) = known.failed.get(&image.manifest)
        {
            return Some(format!("{why}; it is tried again"));
        }
        let mut layers = image.content.layers.iter();
        layers.find_map(|(layer, _)| {
            let why = known.refused.get(layer).map(String::as_str);
            let why = why.or_else(|| known.barred.has(layer).then_some(OF_ANOTHER))?;
            Some(format!("layer {layer}: {why}"))
        })
    }

    /// Whether a layer of an image could be made ready and is not.
    fn lacks(&self, ready: &Ready, image: &Image) -> bool {
        let known = self.lock();
        let Some(diff_ids) = &image.content.diff_ids else {
            return false;
        };
        if known.foreign.contains(&image.manifest)
            || known
                .later
                .get(&image.manifest)
                .is_some_and(|at| *at > Instant::now())
        {
            return false;
        }
        let layers = image.content.layers.iter().enumerate();
        let open = layers.filter(|(_, (layer, _))| {
            !known.refused.contains_key(layer) && !known.barred.has(layer)
        });
        let mut open = open.map(|(place, (layer, _))| (layer, diff_ids.get(place)));
        open.any(|(layer, diff_id)| {
            // If the configuration and the file's name differ, the layer is compared again.
            let made = ready
                .of_layer(layer)
                .is_some_and(|made| Some(&made) == diff_id);
            !made && !diff_id.is_some_and(|diff_id| ready.has_or_had(diff_id, image.used))
        })
    }

    async fn facts(&self, config: &Config, image: &Image, barred: &Barred) -> Facts {
        let subjects = image.subjects();
        let any = |is: fn(&Barred, &Digest) -> bool| {
            is(barred, &image.manifest) || is(barred, &image.content.config)
        };
        let open = self
            .pull
            .open_to(&image.registry, &image.repository, &subjects);
        Facts {
            own: any(Barred::is_own),
            sandbox: any(Barred::is_of_sandbox),
            never: any(Barred::is_never),
            open: open.await,
            private: config.streaming.private,
        }
    }

    pub(super) async fn ground(
        &self,
        config: &Config,
        image: &Image,
        barred: &Barred,
    ) -> Result<Ground, Refusal> {
        rights::ground(self.facts(config, image, barred).await)
    }

    /// Withdraws layers that may no longer be offered. Another image that holds the layer can be the new ground.
    async fn withdraw(&self, ready: &Ready, config: &Config, images: &[Image], barred: &Barred) {
        for (diff_id, file) in ready.files() {
            let Some(origin) = file.origin else {
                ready.withdraw(&diff_id, true);
                continue;
            };
            let subjects = [origin.manifest, origin.layer];
            let open = self
                .pull
                .open_to(&origin.registry, &origin.repository, &subjects);
            let facts = Facts {
                own: barred.is_own(&origin.layer),
                sandbox: barred.is_of_sandbox(&origin.layer),
                never: barred.is_never(&origin.layer),
                open: open.await,
                private: config.streaming.private,
            };
            let upstream = config.upstream(origin.registry.as_str());
            let mut stays = rights::stays(origin.ground, facts, upstream.access == Sharing::Shared);
            if !stays && !barred.has(&origin.layer) {
                for image in images {
                    let mut layers = image.content.layers.iter();
                    if image.held
                        && layers.any(|(layer, _)| *layer == origin.layer)
                        && let Ok(ground) = self.ground(config, image, barred).await
                    {
                        let (store, new) = (
                            Arc::clone(&self.pull.store),
                            origin_of(image, origin.layer, ground),
                        );
                        let set = move || {
                            if let Some(ready) = store.ready() {
                                ready.set_origin(&diff_id, new);
                            }
                        };
                        let _ = tokio::task::spawn_blocking(set).await;
                        stays = true;
                        break;
                    }
                }
            }
            if !stays && file.goes != Some(Cause::Withdrawn) {
                tracing::warn!(layer.diff_id = %diff_id, upstream.registry = %origin.registry, upstream.repository = %origin.repository, "a ready layer may not be offered any more, and is withdrawn once no snapshot refers to it");
            }
            ready.withdraw(&diff_id, !stays);
        }
    }
}
