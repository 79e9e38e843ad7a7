//! Images that are about to start. A runtime that asks for an image's configuration asks for its layers next, unless it
//! finds them mounted.
//!
//! The answer with the configuration is delayed a moment, in which the layers may be offered before they are here. This
//! module owns that delay. [`crate::layers`] decides which layers are offered.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use larder_shared::{Digest, name::ImageName};
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};

use super::{Caller, Pull};
use crate::{access::Place, trace::Trace};

/// An image starts without pulling its layers if they can be offered within this time. Otherwise it is pulled as usual.
pub const BUDGET: Duration = Duration::from_millis(500);

/// Images whose answers may be delayed at the same time. Further images are pulled as usual.
const MOST: usize = 16;

/// The content of a manifest that was just served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Served {
    pub manifest: Digest,
    /// Digest and length.
    pub config: (Digest, u64),
    /// Digest and length of each layer, the lowest first.
    pub layers: Vec<(Digest, u64)>,
}

/// An image whose configuration is being answered.
#[derive(Debug)]
pub struct Start {
    /// The repository, and a caller that may read the configuration.
    pub place: Place,
    pub image: Arc<Served>,
    /// Dropping this releases the answer.
    waits: oneshot::Sender<()>,
}

impl Start {
    /// The caller, for further requests about the image.
    pub fn caller(&self) -> Caller {
        let identity = self.place.identity.clone();
        Caller {
            registry: Some(self.place.registry.clone()),
            presented: !identity.is_anonymous(),
            identity,
            trace: Trace::none(),
        }
    }

    /// The image's name, with its digest.
    pub fn name(&self) -> ImageName {
        Pull::image_of(
            &self.place.registry,
            &self.place.repository,
            self.image.manifest,
        )
    }

    /// Whether the answer is still delayed. If not, the runtime has begun to pull.
    pub fn is_waited_for(&self) -> bool {
        !self.waits.is_closed()
    }
}

/// The queue of images that are about to start.
#[derive(Default, Debug)]
pub struct Starts {
    waiting: Mutex<VecDeque<Start>>,
    new: Notify,
    heard: AtomicBool,
}

impl Starts {
    /// Announces that a task takes images from the queue. Before that, no answer is delayed.
    pub fn hear(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Takes the next image, waiting for it if necessary.
    pub async fn next(&self) -> Start {
        loop {
            let next = {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.pop_front()
            };
            if let Some(next) = next {
                return next;
            }
            self.new.notified().await;
        }
    }

    fn add(&self, start: Start) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(Start::is_waited_for);
        if waiting.len() < MOST {
            waiting.push_back(start);
            drop(waiting);
            self.new.notify_one();
        }
    }
}

impl Pull {
    /// Delays the answer with a configuration until the layers of its image are offered, but at most [`BUDGET`].
    pub(super) async fn about_to_start(&self, place: &Place, digest: &Digest) {
        if !self.starts.heard.load(Ordering::Relaxed) {
            return;
        }
        let Some(image) = self.served.image_of(digest) else {
            return;
        };
        let (waits, until) = oneshot::channel();
        self.starts.add(Start {
            place: place.clone(),
            image,
            waits,
        });
        let _ = timeout(BUDGET, until).await;
    }
}
