//! Brings the rest of an image that started before it was here: the whole layers, into the node tier, after containers' reads.
//! From there on it is an image like others, of which ready files are made.

use std::{
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use larder_shared::name::ImageName;
use tokio::time::sleep;

use super::{Streams, layer::Layer};
use crate::{
    pull::{Caller, Pace, Platforms},
    store::Counts,
};

/// The rest begins to come when no read has waited for this long, or after so long in any case.
const QUIET: Duration = Duration::from_secs(2);
const AT_LAST: Duration = Duration::from_secs(30);
const GLANCE: Duration = Duration::from_millis(200);

/// What failed is tried again.
const AGAIN: Duration = Duration::from_secs(30);

impl Streams {
    /// Brings the rest of an image in the background, if any of it streams. One task does, on behalf of the latest caller.
    pub(super) fn bring_for(self: &Arc<Self>, image: ImageName, caller: Caller) {
        if !self.streams(&image) {
            return;
        }
        let mut coming = self.coming();
        if let Some((_, latest)) = coming.iter_mut().find(|(one, _)| *one == image) {
            *latest = caller;
            return;
        }
        coming.push((image.clone(), caller));
        drop(coming);
        let streams = Arc::clone(self);
        tokio::spawn(async move {
            streams.bring(&image).await;
            streams.coming().retain(|(one, _)| *one != image);
        });
    }

    fn coming(&self) -> MutexGuard<'_, Vec<(ImageName, Caller)>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn caller_of(&self, image: &ImageName) -> Option<Caller> {
        let coming = self.coming();
        let found = coming.iter().find(|(one, _)| one == image);
        found.map(|(_, caller)| caller.clone())
    }

    /// Brings all of an image, until it is here or streams no more.
    async fn bring(self: &Arc<Self>, image: &ImageName) {
        self.quiet().await;
        while self.streams(image)
            && let Some(caller) = self.caller_of(image)
        {
            let busy = Arc::clone(self);
            let pace = Pace::new(None, move || busy.means.waiting.load(Ordering::Relaxed) > 0);
            let pull = &self.means.pull;
            let (wanted, counts) = (Platforms::All, Counts::default());
            let brought = pull.bring_for(image, &wanted, caller, &counts, &pace);
            match brought.await {
                Ok(()) => {
                    // Its ready files are made after a look.
                    pull.served.new.notify_one();
                    return;
                }
                Err(error) => {
                    tracing::warn!(%image, error, again_s = AGAIN.as_secs(), "the rest of an image that runs already did not come, and is fetched when it is read");
                }
            }
            sleep(AGAIN).await;
        }
    }

    /// Whether a layer of the image streams.
    fn streams(&self, image: &ImageName) -> bool {
        let of = |layer: &Arc<Layer>| layer.image == *image && !layer.has_become_whole();
        self.all().iter().any(of)
    }

    async fn quiet(&self) {
        let begun = Instant::now();
        while begun.elapsed() < AT_LAST {
            let since = self.means.quiet_since().map(|since| since.max(begun));
            if since.is_some_and(|since| since.elapsed() >= QUIET) {
                return;
            }
            sleep(GLANCE).await;
        }
    }
}
