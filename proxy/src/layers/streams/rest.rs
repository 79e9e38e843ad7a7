//! Brings the rest of an image that started before it was here: fetches whole layers into the node tier, after
//! containers' reads. Ready files are then made of it as of any other image.

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

/// The rest is fetched once no read has waited for [`QUIET`], and after [`AT_LAST`] in any case.
const QUIET: Duration = Duration::from_secs(2);
const AT_LAST: Duration = Duration::from_secs(30);
const GLANCE: Duration = Duration::from_millis(200);

/// Pause before a failed fetch is tried again.
const AGAIN: Duration = Duration::from_secs(30);

impl Streams {
    /// Brings the rest of an image in the background, if a layer of it streams: one task, for the latest caller.
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

    /// Brings the whole image, until it is here or no longer streams.
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
                    // The next look finds the layers whole and has their ready files made.
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
