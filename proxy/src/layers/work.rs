//! The work: indexes one image's layers after another's, compares them with its configuration, writes and offers them.

use std::{
    collections::HashSet,
    fs::File,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use larder_layer::Index;
use larder_shared::Digest;
use tokio::time::sleep;

use super::{
    LATER, Layers, REMEMBERED,
    images::Image,
    index::{Built, Indexed},
    make::{self, NotMade, Temporary, idle},
    origin_of,
    rights::{self, Refusal},
};
use crate::{
    metrics::ReadyMade,
    store::{Blob, Looked, Made, Making, Origin, Ready},
};

/// How long this work waits for clients' downloads at the most.
const FILLS_FIRST: Duration = Duration::from_secs(30);
const GLANCE: Duration = Duration::from_millis(100);

pub(super) const NO_ROOM: &str = "there is no room without evicting something for it";

/// How making the files of one image ended.
enum Ended {
    Done,
    Refused(Refusal),
    /// The image is tried again later.
    Failed(String),
    /// The image is tried again once there is room for this many bytes.
    NoRoom(u64),
}

impl Layers {
    /// Makes images' layers ready, one image after the other.
    pub(super) async fn make(&self) {
        loop {
            let (index, next) = {
                let mut known = self.lock();
                let index = (!known.unindexed.is_empty()).then(|| known.unindexed.remove(0));
                let index = index.or_else(|| known.unread.as_mut()?.pop());
                let image = index.is_none() && !known.todo.is_empty();
                (index, image.then(|| known.todo.remove(0)))
            };
            if let Some(layer) = index {
                self.make_index(layer).await;
                self.show();
                continue;
            }
            let Some(image) = next else {
                let link = self.lock().links.pop();
                if let Some((diff_id, origin)) = link {
                    self.complete_link(diff_id, origin).await;
                    self.show();
                    self.changed.notify_one();
                } else {
                    self.work.notified().await;
                }
                continue;
            };
            self.fills_first().await;
            let ended = self.make_image(&image).await;
            let made = &self.pull.metrics.layers;
            match ended {
                Ended::Done => {}
                Ended::Refused(refusal) => {
                    made.made(ReadyMade::Refused);
                    let why = refusal.as_str();
                    tracing::warn!(
                        image = image.name(),
                        why,
                        "the layers of an image are not offered"
                    );
                }
                Ended::Failed(error) => {
                    made.made(ReadyMade::Failed);
                    tracing::warn!(
                        image = image.name(),
                        error,
                        again_s = LATER.as_secs(),
                        "the layers of an image were not made ready"
                    );
                    self.not_before(image.manifest, LATER);
                    self.remember(&image, error);
                }
                Ended::NoRoom(bytes) => {
                    made.made(ReadyMade::Failed);
                    tracing::warn!(
                        image = image.name(),
                        error = NO_ROOM,
                        size_bytes = bytes,
                        "the layers of an image were not made ready; they are once there is room"
                    );
                    self.wait_for_room(&image, bytes);
                }
            }
            self.show();
            self.changed.notify_one();
        }
    }

    fn remember(&self, image: &Image, why: String) {
        let mut guard = self.lock();
        let known = &mut *guard;
        known
            .failed
            .retain(|image, _| known.later.contains_key(image));
        if known.failed.len() < REMEMBERED {
            known.failed.insert(image.manifest, why);
        }
    }

    fn wait_for_room(&self, image: &Image, bytes: u64) {
        let mut known = self.lock();
        if known.no_room.len() < REMEMBERED {
            known.no_room.insert(image.manifest, bytes);
        }
    }

    fn refuse(&self, layer: Digest, why: String) {
        self.pull.metrics.layers.made(ReadyMade::Refused);
        let mut known = self.lock();
        if known.refused.len() < REMEMBERED {
            known.refused.insert(layer, why);
        }
    }

    /// Indexes every layer and compares it with the configuration before any file is written. So an image whose
    /// configuration lies about one layer offers none.
    async fn make_image(&self, image: &Image) -> Ended {
        let (Some(ready), Some(diff_ids)) = (self.ready(), &image.content.diff_ids) else {
            return Ended::Done;
        };
        let foreign = || {
            let mut known = self.lock();
            if known.foreign.len() < REMEMBERED {
                known.foreign.insert(image.manifest);
            }
            Ended::Refused(Refusal::Foreign)
        };
        if diff_ids.len() != image.content.layers.len() {
            return foreign();
        }
        // A layer that was not read yet needs at least its compressed size. Without room for that nothing is decoded.
        let lacking = image.content.layers.iter();
        let lacking = lacking.filter(|(layer, _)| ready.of_layer(layer).is_none());
        let least = lacking.map(|(_, size)| *size).sum();
        if !self.has_room(least).await {
            return Ended::NoRoom(least);
        }
        let mut indexed = Vec::new();
        for ((layer, _), named) in image.content.layers.iter().zip(diff_ids) {
            let (refused, barred) = {
                let known = self.lock();
                (known.refused.contains_key(layer), known.barred.has(layer))
            };
            if refused || barred {
                continue;
            }
            if let Some(made) = ready.of_layer(layer) {
                if made != *named {
                    return foreign();
                }
                continue;
            }
            let index = match self.index(ready, layer).await {
                Ok(Some(index)) => index,
                Ok(None) => continue,
                Err(error) => return Ended::Failed(error),
            };
            match rights::layer(Some(named), &index.diff_id, index.implied) {
                Ok(()) => indexed.push(index),
                Err(Refusal::Foreign) => return foreign(),
                Err(refusal) => self.refuse(*layer, refusal.as_str().to_owned()),
            }
        }
        // Reading layers is expensive: an image is read again only when there is room for all that it lacks.
        let mut seen = HashSet::new();
        let is_made = |index: &Indexed| ready.has_or_had(&index.diff_id, image.used);
        let lacks = indexed
            .iter()
            .filter(|one| !is_made(one) && seen.insert(one.diff_id));
        let mut lacking: u64 = lacks.map(|index| index.bytes).sum();
        for index in indexed {
            // The same tar may occur in another compression, or twice in one image.
            if is_made(&index) {
                continue;
            }
            let bytes = index.bytes;
            if !self.has_room(bytes).await {
                self.not_before(image.manifest, LATER);
                return Ended::NoRoom(lacking);
            }
            lacking = lacking.saturating_sub(bytes);
            if let Err(ended) = self.offer(ready, image, index).await {
                return ended;
            }
        }
        Ended::Done
    }

    /// Whether this many more bytes fit without an eviction.
    pub(super) async fn has_room(&self, bytes: u64) -> bool {
        let (store, limits) = (Arc::clone(&self.pull.store), self.pull.limits());
        let room = move || store.room_for_ready(&limits);
        let room = tokio::task::spawn_blocking(room).await;
        room.is_ok_and(|room| room.is_some_and(|room| bytes <= room))
    }

    /// Indexes one layer. `None` if it cannot have an index.
    pub(super) async fn index(
        &self,
        ready: &Ready,
        layer: &Digest,
    ) -> Result<Option<Indexed>, String> {
        if self.keeps_indexes() {
            let kept = self.kept_index(layer).await?;
            if kept.is_none() {
                let why = self.pull.store.indexes().refused(layer);
                self.refuse(*layer, why.unwrap_or_default());
            }
            return Ok(kept);
        }
        let at = Temporary(ready.new_tmp());
        match self.build_index(layer, &at).await? {
            Built::Index(summary) => Ok(Some(Indexed {
                at: Some(at),
                ..Indexed::from(&*summary)
            })),
            Built::Refused(refused) => {
                self.refuse(*layer, refused.to_string());
                Ok(None)
            }
        }
    }

    /// A layer's blob. The look does not count as a use.
    pub(super) async fn blob(&self, layer: &Digest) -> Option<Arc<Blob>> {
        let (store, layer) = (&self.pull.store, *layer);
        if let Some(Some(blob)) = store.survey(move |store| store.peek(&layer)).await {
            return Some(blob);
        }
        match store.look_at_adopted(layer, u64::MAX).await {
            Looked::Sound(blob) | Looked::Young(blob) => Some(blob),
            _ => None,
        }
    }

    /// Writes the ready file of one layer, and offers it if it may still be offered.
    async fn offer(&self, ready: &Ready, image: &Image, index: Indexed) -> Result<(), Ended> {
        let (layer, diff_id, bytes) = (index.layer, index.diff_id, index.bytes);
        let (to, making) = self.write(ready, index).await.map_err(Ended::Failed)?;
        // Rights may have changed meanwhile.
        let (config, barred) = (
            self.pull.config.load_full(),
            Arc::clone(&self.lock().barred),
        );
        if barred.has(&layer) {
            return Ok(());
        }
        let ground = self.ground(&config, image, &barred).await;
        let origin = origin_of(image, layer, ground.map_err(Ended::Refused)?);
        let published = self.publish(Arc::new(to), diff_id, origin).await;
        published.map_err(Ended::Failed)?;
        drop(making);
        self.pull.metrics.layers.made(ReadyMade::Offered);
        tracing::info!(image = image.name(), blob.digest = %layer, layer.diff_id = %diff_id, size_bytes = bytes, "a layer is ready");
        Ok(())
    }

    /// Writes tree and tar of a layer. Their room is reserved until the returned `Making` is dropped.
    pub(super) async fn write<'a>(
        &self,
        ready: &'a Ready,
        index: Indexed,
    ) -> Result<(Temporary, Making<'a>), String> {
        let layer = index.layer;
        let blob = self.blob(&layer).await;
        let blob = blob.ok_or("a layer is not here any more")?;
        let making = ready.making(index.bytes);
        let to = Temporary(ready.new_tmp());
        let (path, file, store) = (to.0.clone(), blob.handle(), Arc::clone(&self.pull.store));
        let write = move || -> Result<(), NotMade> {
            if let Some(at) = &index.at {
                let windows = File::open(&at.0)?;
                let index = Index::open(&mut &windows)?;
                return make::write(&index, &windows, &file, &path);
            }
            let kept = store.indexes().open_made(&layer, Made::Here);
            let kept = kept.ok_or_else(|| io::Error::other("its index is not here any more"))?;
            make::write(&kept.index, &kept.file, &file, &path)
        };
        let written = idle(write).await;
        written
            .unwrap_or_else(|| Err(NotMade::Disk(io::Error::other("a thread panicked"))))
            .map_err(|error| error.to_string())?;
        Ok((to, making))
    }

    /// Renames a written file to the name under which the runtime looks for it.
    pub(super) async fn publish(
        &self,
        to: Arc<Temporary>,
        diff_id: Digest,
        origin: Origin,
    ) -> Result<(), String> {
        let (store, streams) = (Arc::clone(&self.pull.store), Arc::clone(&self.streams));
        let offer = move || match store.ready() {
            Some(ready) => {
                let file = File::open(&to.0)?;
                ready.offer(&to.0, &diff_id, origin)?;
                // A container that has the layer mounted reads the new file, too.
                streams.become_whole(&diff_id, file)
            }
            None => Ok(()),
        };
        tokio::task::spawn_blocking(offer)
            .await
            .unwrap_or_else(|panic| Err(io::Error::other(panic)))
            .map_err(|error| error.to_string())
    }

    /// Waits while clients download, for at most [`FILLS_FIRST`].
    pub(super) async fn fills_first(&self) {
        let begun = Instant::now();
        while begun.elapsed() < FILLS_FIRST && self.pull.fills.are_under_way() {
            sleep(GLANCE).await;
        }
    }
}
