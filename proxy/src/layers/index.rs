//! Indexes of layers: which of them this node builds from whole layers, and whether other members' indexes are right.
//!
//! One member builds the index of a layer: the first in the layer's rank among its holders. The others fetch the index
//! from that member ([`crate::pull`]). A node that makes a ready file always builds the index itself, because no layer
//! is offered whole on another member's word.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use larder_layer::{Error, Index, Refused, Summary};
use larder_shared::Digest;

use super::{
    LATER, Layers, REMEMBERED,
    images::{Barred, Image},
    make::{self, Temporary, idle},
};
use crate::{
    cluster::placement::{self, Key},
    config::{Config, Mode},
    metrics::IndexWork,
    store::{Made, Other, may_have_index},
};

/// How long the keepers of a layer may take to say which members hold it.
const HOLDERS: Duration = Duration::from_millis(500);

/// Pause before another look at a layer whose index another member is to build.
const NOT_OURS: Duration = Duration::from_mins(2);

/// The result of building an index.
pub(super) enum Built {
    Index(Box<Summary>),
    Refused(Refused),
}

/// The index of a layer for which a ready file is made.
pub(super) struct Indexed {
    pub(super) layer: Digest,
    pub(super) diff_id: Digest,
    pub(super) implied: u64,
    /// Size of tree and tar together.
    pub(super) bytes: u64,
    /// The index in a file of its own. `None` if the store keeps the index.
    pub(super) at: Option<Temporary>,
}

impl Indexed {
    fn of(index: &Index) -> Self {
        Self {
            layer: index.layer(),
            diff_id: index.diff_id(),
            implied: index.implied(),
            bytes: index.tree().len() as u64 + index.tar_length(),
            at: None,
        }
    }
}

impl Layers {
    /// Whether indexes are kept.
    pub(super) fn keeps_indexes(&self) -> bool {
        self.pull.config.load().streaming.mode == Mode::Lazy
    }

    /// Lists the layers that lack an index, and those that are whole here but have another member's index.
    pub(super) fn look_for_indexes(
        &self,
        config: &Config,
        images: &[Image],
        barred: Option<&Barred>,
    ) {
        let (store, indexes) = (&self.pull.store, self.pull.store.indexes());
        let here = |layer: &Digest| store.has(layer) || store.adopts(layer);
        let mut todo: Vec<Digest> = indexes.unproven();
        todo.retain(here);
        let mut worth: Vec<&Image> = images.iter().filter(|image| image.held).collect();
        worth.retain(|image| {
            let mut sizes = image.content.layers.iter().map(|(_, size)| *size);
            sizes.any(|size| size >= config.streaming.min_layer)
        });
        worth.sort_by_key(|image| std::cmp::Reverse((image.used, image.manifest)));
        let layers = worth.iter().flat_map(|image| &image.content.layers);
        todo.extend(layers.map(|(layer, _)| *layer).filter(|layer| {
            here(layer)
                && may_have_index(layer)
                && indexes.has(layer).is_none()
                && !barred.is_some_and(|barred| barred.has(layer))
        }));
        let (mut seen, now) = (HashSet::new(), Instant::now());
        let mut known = self.lock();
        // Indexes are read again after a start, so that a damaged one is not given to other members.
        known.unread.get_or_insert_with(|| indexes.made_here());
        let later = |layer: &Digest| known.later.get(layer).is_some_and(|at| *at > now);
        todo.retain(|layer| {
            seen.insert(*layer) && !later(layer) && indexes.refused(layer).is_none()
        });
        known.unindexed = todo;
        if !known.unindexed.is_empty() || known.unread.as_ref().is_some_and(|all| !all.is_empty()) {
            self.work.notify_one();
        }
    }

    /// Builds the index of one layer, if this node is to build it.
    pub(super) async fn make_index(&self, layer: Digest) {
        let work = &self.pull.metrics.layers;
        if self.pull.store.indexes().has(&layer).is_none() && !self.is_first_of(&layer).await {
            return self.not_before(layer, NOT_OURS);
        }
        self.fills_first().await;
        match self.kept_index(&layer).await {
            Ok(_) => {}
            Err(error) => {
                work.indexed(IndexWork::Failed);
                tracing::warn!(blob.digest = %layer, error, again_s = LATER.as_secs(), "the index of a layer was not made");
                self.not_before(layer, LATER);
            }
        }
    }

    /// Whether this node is the first in rank among the living members that are known to hold a layer.
    async fn is_first_of(&self, layer: &Digest) -> bool {
        let cluster = &self.pull.cluster;
        let view = cluster.members.view();
        let (Some(own), true) = (view.own_address(), view.has_others()) else {
            return true;
        };
        let mut holders = cluster.holders(layer, HOLDERS).await;
        holders.retain(|holder| cluster.admits(*holder));
        holders.push(own);
        first_of(&holders, layer) == Some(own)
    }

    /// The index of a layer that is whole here. Builds and keeps one if there is none. `None` if it can have none.
    pub(super) async fn kept_index(&self, layer: &Digest) -> Result<Option<Indexed>, String> {
        let indexes = self.pull.store.indexes();
        if indexes.refused(layer).is_some() && indexes.has(layer).is_none() {
            return Ok(None);
        }
        let (store, wanted) = (Arc::clone(&self.pull.store), *layer);
        let open = move || store.indexes().open_made(&wanted, Made::Here);
        if let Some(open) = idle(open).await.flatten() {
            return Ok(Some(Indexed::of(&open.index)));
        }
        let to = Temporary(self.pull.store.indexes().new_tmp());
        let built = self.build_index(layer, &to).await?;
        let (pull, summary, layer) = (Arc::clone(&self.pull), built, *layer);
        // The comparison with another member's index may run when the node is idle, too.
        let keep = move || -> io::Result<(Option<Indexed>, Other)> {
            let indexes = pull.store.indexes();
            match summary {
                Built::Index(summary) => {
                    let sign = |envelope: &_| pull.sign_index(envelope);
                    let other = indexes.keep_own(&to.0, &layer, &pull.index_maker(), &sign)?;
                    Ok((Some(Indexed::from(&*summary)), other))
                }
                Built::Refused(refused) => {
                    indexes.refuse(layer, refused.to_string());
                    Ok((None, indexes.judge_refused(&layer, &refused)?))
                }
            }
        };
        let kept = idle(keep).await;
        let (indexed, other) = kept
            .ok_or("a thread could not be had, or panicked")?
            .map_err(|error| error.to_string())?;
        let work = &self.pull.metrics.layers;
        match indexed {
            Some(_) => {
                work.indexed(IndexWork::Built);
                tracing::info!(blob.digest = %layer, "the index of a layer is made");
            }
            None => work.indexed(IndexWork::Refused),
        }
        if matches!(other, Other::Wrong(_))
            && let Some(store) = &self.pull.cluster.store
        {
            // The wrong index may have come from the object store.
            store.distrust_index(layer);
        }
        if indexed.is_some() {
            self.pull.write_index_behind(layer).await;
        }
        match other {
            Other::None => {}
            Other::Right { maker } => {
                work.indexed(IndexWork::Proven);
                tracing::debug!(blob.digest = %layer, maker, "another member's index is what the layer says");
            }
            Other::Wrong(wrong) => {
                work.indexed(IndexWork::Disproved);
                tracing::error!(blob.digest = %layer, maker = wrong.maker, why = wrong.why, "another member made a wrong index of a layer: it is set aside, and nothing that this member makes is believed for a day; containers that read the layer by it may have read wrong bytes: look at that node, and start them anew");
            }
        }
        Ok(indexed)
    }

    /// Builds the index of one layer at `to`.
    pub(super) async fn build_index(
        &self,
        layer: &Digest,
        to: &Temporary,
    ) -> Result<Built, String> {
        let blob = self
            .blob(layer)
            .await
            .ok_or("a layer is not here any more")?;
        let (file, path) = (blob.handle(), to.0.clone());
        let built = idle(move || make::index(file, &path)).await;
        match built.ok_or("a thread could not be had, or panicked")? {
            Ok(summary) if summary.layer == *layer => Ok(Built::Index(Box::new(summary))),
            Ok(summary) => {
                let store = Arc::clone(&self.pull.store);
                let judge = move || store.judge(&blob, &Ok(summary.layer));
                let _ = tokio::task::spawn_blocking(judge).await;
                Err("a layer is damaged on disk".to_owned())
            }
            Err(Error::Refused(refused)) => Ok(Built::Refused(refused)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Puts off work on a layer or an image for `pause`.
    pub(super) fn not_before(&self, digest: Digest, pause: Duration) {
        let mut known = self.lock();
        let now = Instant::now();
        known.later.retain(|_, at| *at > now);
        if known.later.len() < REMEMBERED {
            known.later.insert(digest, now + pause);
        }
    }
}

impl From<&Summary> for Indexed {
    fn from(summary: &Summary) -> Self {
        Self {
            layer: summary.layer,
            diff_id: summary.diff_id,
            implied: summary.implied,
            bytes: summary.tree_length + summary.tar_length,
            at: None,
        }
    }
}

/// The first in rank of these members for a layer.
fn first_of(members: &[SocketAddr], layer: &Digest) -> Option<SocketAddr> {
    let keys: Vec<Key> = members.iter().map(|a| Key::of(&a.to_string())).collect();
    let first = placement::rank(&keys, layer, 0, 1);
    first.first().map(|index| members[*index])
}
