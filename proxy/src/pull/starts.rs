//! Images that are about to start: a runtime that asks for an image's configuration asks for its layers next, unless it finds
//! them.
//!
//! The answer with the configuration waits a moment, in which the layers may be offered before they are here. Owns that moment.
//! Which layers are offered is [`crate::layers`]' choice.

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

/// An image starts without its layers if they can be offered within this time; else it is pulled as ever.
pub const BUDGET: Duration = Duration::from_millis(500);

/// Images that wait at once; more are pulled as ever.
const MOST: usize = 16;

/// What a manifest that was just served says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Served {
    pub manifest: Digest,
    /// Digest and length.
    pub config: (Digest, u64),
    /// The same of each layer, the lowest first.
    pub layers: Vec<(Digest, u64)>,
}

/// An image whose configuration is being answered.
#[derive(Debug)]
pub struct Start {
    /// Where, and on whose behalf: a caller that may read the configuration.
    pub place: Place,
    pub image: Arc<Served>,
    /// The answer goes out when this is dropped.
    waits: oneshot::Sender<()>,
}

impl Start {
    /// The caller, as it asks for more of the image.
    pub fn caller(&self) -> Caller {
        let identity = self.place.identity.clone();
        Caller {
            registry: Some(self.place.registry.clone()),
            presented: !identity.is_anonymous(),
            identity,
            trace: Trace::none(),
        }
    }

    /// The image's own name.
    pub fn name(&self) -> ImageName {
        Pull::image_of(
            &self.place.registry,
            &self.place.repository,
            self.image.manifest,
        )
    }

    /// Whether the answer still waits. If not, the runtime has begun to pull.
    pub fn is_waited_for(&self) -> bool {
        !self.waits.is_closed()
    }
}

/// The list of them.
#[derive(Default, Debug)]
pub struct Starts {
    waiting: Mutex<VecDeque<Start>>,
    new: Notify,
    heard: AtomicBool,
}

impl Starts {
    /// From now on a task takes them.
    pub fn hear(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// The next one, when there is one.
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
    /// Waits until the layers of an image are offered whose configuration is about to be answered, or a moment.
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
