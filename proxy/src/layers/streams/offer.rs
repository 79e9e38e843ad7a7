//! Offers the layers of an image before its configuration is answered: all layers that are not ready, or none.

use std::{fs::File, io, sync::Arc, time::Instant};

use futures_util::{StreamExt as _, future, stream};
use larder_shared::{Digest, Range, name::ImageName};

use super::{
    Known, Streams,
    layer::{Layer, Parts},
    name_of, node_of,
};
use crate::{
    layers::{
        Layers,
        images::{self, Content, Image, by_name},
        look::idle,
        origin_of,
        rights::{self, Refusal},
    },
    metrics::LazyOffer,
    pull::{BUDGET, Caller, ServedImage, SpanFrom, Start},
    store::{Ground, Made, OpenIndex, Origin, Ready, Tree},
};

/// Images that are offered at the same time.
const AT_ONCE: usize = 4;

/// The longest configuration that is read, in bytes.
const CONFIG: u64 = 4 << 20;

/// Why the layers of an image are not offered before they are here.
#[derive(Debug, thiserror::Error)]
enum NotOffered {
    #[error("all of its layers are ready, or stream already")]
    Ready,
    #[error("it is too small")]
    Small,
    #[error("{}", .0.as_str())]
    Refused(Refusal),
    #[error("there is no index of layer {0}")]
    NoIndex(Digest),
    #[error("its configuration could not be had")]
    NoConfig,
    #[error("nothing can be mounted: the holder is not there")]
    NoHolder,
    #[error("{0}")]
    Idle(String),
    #[error("a layer of it is on its way out of the directory")]
    Leaves,
    #[error("there is no room without evicting something for it")]
    NoRoom,
    #[error("it took too long")]
    Late,
    #[error("the directory could not be written: {0}")]
    Disk(#[from] io::Error),
}

/// What is to be offered of an image.
struct Offer {
    image: Image,
    ground: Ground,
    caller: Caller,
    /// Layers that are not ready, and their indexes.
    layers: Vec<OpenIndex>,
}

impl Layers {
    /// Offers the layers of each image that is about to start.
    pub(in crate::layers) async fn offer_starting(&self) {
        let (starts, streams) = (&self.pull.starts, &self.streams);
        starts.hear();
        let next = stream::unfold((), |()| async { Some((starts.next().await, ())) });
        next.for_each_concurrent(AT_ONCE, |start| async move {
            let offered = self.offer_start(streams, &start).await;
            let outcome = match &offered {
                Ok(_) => LazyOffer::Offered,
                Err(NotOffered::Ready) => LazyOffer::Ready,
                Err(
                    NotOffered::Small | NotOffered::Refused(_) | NotOffered::NoRoom | NotOffered::Leaves | NotOffered::Idle(_),
                ) => LazyOffer::Refused,
                Err(NotOffered::NoIndex(_)) => LazyOffer::NoIndex,
                Err(NotOffered::NoConfig | NotOffered::NoHolder | NotOffered::Disk(_)) => LazyOffer::Failed,
                Err(NotOffered::Late) => LazyOffer::Late,
            };
            self.pull.metrics.layers.lazily(outcome);
            let place = &start.place;
            let (registry, repository) = (&place.registry, &place.repository);
            match offered {
                Err(NotOffered::Ready) => {}
                Ok(layers) => {
                    tracing::info!(upstream.registry = %registry, upstream.repository = %repository, manifest = %start.image.manifest, layers, "an image starts before it is here");
                }
                Err(why @ (NotOffered::NoHolder | NotOffered::Disk(_))) => {
                    tracing::warn!(upstream.registry = %registry, upstream.repository = %repository, %why, "an image is pulled as ever");
                }
                Err(why) => {
                    tracing::info!(upstream.registry = %registry, upstream.repository = %repository, %why, "an image is pulled as ever");
                }
            }
            // The rest of a streaming image is brought even if this start offered nothing.
            streams.bring_for(start.name(), start.caller());
        })
        .await;
    }

    /// Offers the layers of an image, and returns how many.
    async fn offer_start(
        &self,
        streams: &Arc<Streams>,
        start: &Start,
    ) -> Result<usize, NotOffered> {
        let offer = self.what_to_offer(streams, start).await?;
        let (manifest, content) = (offer.image.manifest, Arc::clone(&offer.image.content));
        if !start.is_waited_for() {
            return Err(NotOffered::Late);
        }
        let target = streams
            .mounted
            .borrow()
            .clone()
            .ok_or(NotOffered::NoHolder)?;
        let (count, takes, name) = (offer.layers.len(), Arc::clone(streams), start.name());
        let publish = move || -> Result<usize, NotOffered> {
            let streams = takes;
            let ready = streams.ready().ok_or(NotOffered::NoHolder)?;
            for index in offer.layers {
                let layer = streams.take_in(ready, index, name.clone(), offer.caller.clone())?;
                let origin = Origin {
                    mounted: Some(layer.mounted.clone()),
                    ..origin_of(&offer.image, layer.digest, offer.ground)
                };
                let target = target.join(name_of(&layer.diff_id));
                let size = (layer.here(), layer.length());
                ready.stream(&target, &layer.diff_id, origin, size)?;
            }
            Ok(count)
        };
        let published = tokio::task::spawn_blocking(publish).await;
        let count = published.unwrap_or_else(|panic| Err(io::Error::other(panic).into()))?;
        let diff_ids = content.diff_ids.iter().flatten();
        let streaming = diff_ids.map(|diff_id| streams.of(diff_id)).collect();
        let layers = content.layers.iter().map(|(layer, _)| *layer).collect();
        let place = start.place.clone();
        tokio::spawn(Arc::clone(streams).start(place, manifest, layers, streaming));
        Ok(count)
    }

    async fn what_to_offer(&self, streams: &Streams, start: &Start) -> Result<Offer, NotOffered> {
        let (config, ready) = (self.pull.config.load_full(), self.ready());
        let ready = ready.ok_or(NotOffered::NoHolder)?;
        let place = &start.place;
        if let Some(refusal) = by_name(&config.streaming, &place.registry, &place.repository) {
            return Err(NotOffered::Refused(refusal));
        }
        // Without a report, larder knows neither which links are still used nor which images are never offered.
        let runtime = self.pull.runtime.known();
        let report = runtime.report().map(AsRef::as_ref);
        if let Some(why) = idle(report, &runtime.state) {
            return Err(NotOffered::Idle(why));
        }
        let largest = start.image.layers.iter().map(|(_, size)| *size).max();
        if largest.unwrap_or(0) < config.streaming.min_layer {
            return Err(NotOffered::Small);
        }
        let caller = start.caller();
        let image = self.image_of(start, &caller).await?;
        let barred = Arc::clone(&self.lock().barred);
        let ground = self.ground(&config, &image, &barred).await;
        let ground = ground.map_err(NotOffered::Refused)?;
        let content = Arc::clone(&image.content);
        let diff_ids = content.diff_ids.as_deref().unwrap_or_default();
        ready.is_looked_for(diff_ids);
        // Layers that stream already may be fetched for this caller, too.
        for layer in diff_ids.iter().filter_map(|diff_id| streams.of(diff_id)) {
            if (&layer.image.registry, &layer.image.repository)
                == (&place.registry, &place.repository)
            {
                layer.fetch_for(caller.clone());
            }
        }
        // A link that nothing serves counts as missing.
        let lacks = |diff_id: &Digest| {
            let link = ready
                .file(diff_id)
                .is_none_or(|file| file.streams.is_some());
            !ready.offers(diff_id) || (link && !streams.serves(diff_id))
        };
        let lacking = content.layers.iter().zip(diff_ids);
        let lacking: Vec<_> = lacking.filter(|(_, diff_id)| lacks(diff_id)).collect();
        if lacking.is_empty() {
            return Err(NotOffered::Ready);
        }
        if streams.mounted.borrow().is_none() {
            return Err(NotOffered::NoHolder);
        }
        // The runtime does not find a layer that was set aside, nor the layers above it in the image.
        let leaves = |diff_id: &Digest| !ready.offers(diff_id) && ready.file(diff_id).is_some();
        if lacking.iter().any(|(_, diff_id)| leaves(diff_id)) {
            return Err(NotOffered::Leaves);
        }
        let found = lacking.iter().map(|((layer, length), diff_id)| async {
            if barred.has(layer) {
                return Err(NotOffered::Refused(Refusal::Never));
            }
            let index = self.pull.index(&start.place, layer, *length, BUDGET);
            let index = index.await.ok_or(NotOffered::NoIndex(*layer))?;
            // A layer is offered under the diffID that was computed from it, never on a configuration's word alone.
            let fits = rights::layer(Some(diff_id), &index.index.diff_id(), index.index.implied());
            fits.map_err(NotOffered::Refused)?;
            Ok(index)
        });
        let layers = future::try_join_all(found).await?;
        // The layer becomes a whole file later, so it is offered only if there is room for that file.
        let bytes = layers
            .iter()
            .map(|index: &OpenIndex| index.index.tree().len() as u64 + index.index.tar_length());
        if !self.has_room(bytes.sum()).await {
            return Err(NotOffered::NoRoom);
        }
        Ok(Offer {
            image,
            ground,
            caller,
            layers,
        })
    }

    /// The image, with the diffIDs that its configuration names.
    async fn image_of(&self, start: &Start, caller: &Caller) -> Result<Image, NotOffered> {
        let ServedImage {
            manifest,
            config: (config, length),
            layers,
        } = &*start.image;
        if *length == 0 || *length > CONFIG {
            return Err(NotOffered::NoConfig);
        }
        let place = &start.place;
        let (name, range) = (start.name(), Range::new(0, *length));
        let asked = self.pull.span(
            &name,
            config,
            range,
            SpanFrom::Anywhere,
            std::slice::from_ref(caller),
        );
        let bytes = asked.await.map_err(|_| NotOffered::NoConfig)?;
        if Digest::of(config.algorithm(), &bytes) != *config {
            return Err(NotOffered::NoConfig);
        }
        let diff_ids = images::diff_ids(&bytes).ok_or(NotOffered::NoConfig)?;
        if diff_ids.len() != layers.len() {
            return Err(NotOffered::Refused(Refusal::Foreign));
        }
        Ok(Image {
            registry: place.registry.clone(),
            repository: place.repository.clone(),
            manifest: *manifest,
            content: Arc::new(Content {
                config: *config,
                layers: layers.clone(),
                diff_ids: Some(diff_ids),
            }),
            used: 0,
            held: true,
            whole: false,
        })
    }
}

impl Streams {
    /// Adds a layer, which can be read from now on (blocking).
    pub(super) fn take_in(
        &self,
        ready: &Ready,
        index: OpenIndex,
        image: ImageName,
        caller: Caller,
    ) -> io::Result<Arc<Layer>> {
        let digest = index.index.layer();
        let diff_id = index.index.diff_id();
        let node = node_of(&diff_id);
        if let Some(layer) = self.of(&diff_id) {
            return Ok(layer);
        }
        if self.lock().contains_key(&node) && !self.serves(&diff_id) {
            return Err(io::Error::other("another layer has the same number"));
        }
        // A container that has the layer mounted reads at the offsets of the tree that it mounted.
        let before = ready.file(&diff_id).and_then(|file| file.origin?.mounted);
        if before.is_some_and(|before| before != Tree::of(index.index.tree())) {
            return Err(io::Error::other(
                "it is mounted by another index, which was wrong",
            ));
        }
        let parts = Parts {
            image,
            caller,
            maker: index.maker,
            foreign: index.made == Made::Elsewhere,
            windows: index.file,
            files: (nameless(ready)?, nameless(ready)?),
        };
        let layer = Arc::new(Layer::new(index.index, parts, Arc::clone(&self.means))?);
        let needed = self.means.pull.store.indexes().need(digest);
        let known = Known::Streams(Arc::clone(&layer), Instant::now(), needed);
        self.lock().entry(node).or_insert(known);
        Ok(layer)
    }
}

/// An unlinked file, which ends with this process.
fn nameless(ready: &Ready) -> io::Result<File> {
    let path = ready.new_tmp();
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
