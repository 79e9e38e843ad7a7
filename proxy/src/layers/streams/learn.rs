//! Learns the order of an image's first reads, and fetches by it.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use larder_shared::Digest;
use tokio::time::sleep;

use super::{
    Streams,
    layer::{Layer, PATIENCE},
    learning::Learning,
    order::Order,
};

/// Spans that are fetched at the same time by a learnt order.
const STREAMS: usize = 8;

impl Streams {
    /// Fetches what earlier starts of an image read, and learns what this one reads. `layers` are all of the image's.
    pub(super) async fn start(
        self: Arc<Self>,
        manifest: Digest,
        layers: Vec<Digest>,
        streaming: Vec<Option<Arc<Layer>>>,
    ) {
        let learning = Learning::new();
        for (place, layer) in streaming.iter().enumerate() {
            if let (Some(layer), Ok(place)) = (layer, u16::try_from(place)) {
                layer.learn(place, Arc::clone(&learning));
            }
        }
        let known = self.known_order(manifest, &layers).await;
        if let Some(known) = &known {
            let until = tokio::time::Instant::now() + PATIENCE;
            let wanted = known.places().filter_map(|place| {
                let layer = streaming.get(usize::from(place.layer))?.clone()?;
                ((place.span as usize) < layer.spans()).then_some((layer, place.span as usize))
            });
            let bring = |(layer, span): (Arc<Layer>, usize)| async move {
                // A span that does not come is asked for again by its reader.
                let _ = layer.bring_ahead(span, until).await;
            };
            let fetching = stream::iter(wanted).for_each_concurrent(STREAMS, bring);
            fetching.await;
        }
        sleep(learning.left()).await;
        let start = learning.read();
        if start.is_empty() {
            return;
        }
        let learnt = Order::after(known.as_ref(), layers, &start);
        let store = Arc::clone(&self.means.pull.store);
        let keep = move || store.keep_order(&manifest, &learnt.bytes());
        let kept = tokio::task::spawn_blocking(keep).await;
        if let Ok(Err(error)) = kept {
            tracing::debug!(%error, %manifest, "what an image's start reads was not written down");
        }
    }

    async fn known_order(&self, manifest: Digest, layers: &[Digest]) -> Option<Order> {
        let store = Arc::clone(&self.means.pull.store);
        let read = tokio::task::spawn_blocking(move || store.order(&manifest)).await;
        Order::read(&read.ok()??, layers)
    }
}
