//! Learns the order of an image's first reads, and fetches spans in a learnt order.

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
use crate::access::Place;

/// Spans that are fetched at the same time in a learnt order.
const STREAMS: usize = 8;

impl Streams {
    /// Fetches the spans that earlier starts of an image read, and learns which ones this start reads. `layers` are all
    /// layers of the image.
    pub(super) async fn start(
        self: Arc<Self>,
        place: Place,
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
        let known = self.known_order(&place, manifest, &layers).await;
        if let Some(known) = &known {
            let until = tokio::time::Instant::now() + PATIENCE;
            let wanted = known.places().filter_map(|place| {
                let layer = streaming.get(usize::from(place.layer))?.clone()?;
                ((place.span as usize) < layer.spans()).then_some((layer, place.span as usize))
            });
            let bring = |(layer, span): (Arc<Layer>, usize)| async move {
                // If a span does not come, its reader asks for it again.
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

    /// The order that this node has learnt, or else another member's.
    async fn known_order(
        &self,
        place: &Place,
        manifest: Digest,
        layers: &[Digest],
    ) -> Option<Order> {
        let pull = &self.means.pull;
        let fits = |bytes: &[u8]| Order::read(bytes, layers);
        let own = pull.store.survey(move |store| store.order(&manifest)).await;
        if let Some(own) = own.flatten().and_then(|bytes| fits(&bytes)) {
            return Some(own);
        }
        pull.order_from_members(place, &manifest, fits).await
    }
}
