//! Replaces links by whole files, whatever became of their image's rights. The file offers nothing that the link did
//! not, and a container that has it mounted no longer needs larder.

use std::{sync::Arc, time::Instant};

use larder_shared::Digest;

use super::{LATER, Layers, work::NO_ROOM};
use crate::{
    metrics::ReadyMade,
    store::{Origin, Ready},
};

impl Layers {
    /// Looks for links whose layer is whole here. Making their images ready comes first.
    pub(super) fn look_for_links(&self, ready: &Ready) {
        let store = &self.pull.store;
        let mut known = self.lock();
        let now = Instant::now();
        let waits = |layer: &Digest| {
            let later = known.later.get(layer).is_some_and(|at| *at > now);
            later || known.refused.contains_key(layer)
        };
        let links = ready.streaming().into_iter().filter_map(|(diff_id, file)| {
            let origin = file.origin?;
            let here = store.has(&origin.layer) || store.adopts(&origin.layer);
            (here && !waits(&origin.layer)).then_some((diff_id, origin))
        });
        let links: Vec<_> = links.collect();
        let some = !links.is_empty();
        known.links = links;
        drop(known);
        if some {
            self.work.notify_one();
        }
    }

    /// Puts the whole file in the place of a link.
    pub(super) async fn complete_link(&self, diff_id: Digest, origin: Origin) {
        let Some(ready) = self.ready() else { return };
        // The image may have been made ready meanwhile.
        if !ready.streaming().iter().any(|(link, _)| *link == diff_id) {
            return;
        }
        self.fills_first().await;
        let layer = origin.layer;
        if let Err(error) = self.try_complete(ready, diff_id, origin).await {
            self.pull.metrics.layers.made(ReadyMade::Failed);
            tracing::warn!(blob.digest = %layer, layer.diff_id = %diff_id, error, again_s = LATER.as_secs(), "a layer that is mounted did not become whole, and is read through larder");
            self.not_before(layer, LATER);
        }
    }

    async fn try_complete(
        &self,
        ready: &Ready,
        diff_id: Digest,
        origin: Origin,
    ) -> Result<(), String> {
        let index = self.index(ready, &origin.layer).await?;
        let index = index.ok_or("its layer cannot have an index")?;
        if index.diff_id != diff_id {
            return Err("its layer has another diffID".to_owned());
        }
        if !self.has_room(index.bytes).await {
            return Err(NO_ROOM.to_owned());
        }
        let (to, _making) = self.write(ready, index).await?;
        self.publish(Arc::new(to), diff_id, origin).await?;
        tracing::info!(layer.diff_id = %diff_id, "a layer that was mounted before it was here is ready");
        Ok(())
    }
}
