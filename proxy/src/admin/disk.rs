//! What the store's file system reports, with a time limit.
//!
//! Status and metrics are needed most when a disk hangs, so they leave the disk out after two seconds. A thread
//! that waits for the disk cannot be cancelled, so there is never a second one.

use std::{sync::Arc, time::Duration};

use tokio::sync::Mutex;

use super::Admin;
use crate::sys::disk::Space;

/// Shorter than the time-outs of Prometheus and of the command line.
const WITHIN: Duration = Duration::from_secs(2);

/// The result of a look at the disk.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) partial_bytes: u64,
    pub(super) space: Option<Space>,
}

impl Admin {
    /// `None` if the disk does not answer in time.
    pub(super) async fn disk(&self) -> Option<Disk> {
        let store = Arc::clone(&self.pull.store);
        let look = move || Disk {
            partial_bytes: store.partial_bytes(),
            space: store.space().ok(),
        };
        self.disk.within(WITHIN, look).await
    }
}

/// Allows one look at a time.
#[derive(Clone, Default, Debug)]
pub(super) struct Looks(Arc<Mutex<()>>);

impl Looks {
    /// Looks on a blocking thread. `time` bounds the wait for a look that is under way and for this one together.
    async fn within<T: Send + 'static>(
        &self,
        time: Duration,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let looking = async {
            let alone = Arc::clone(&self.0).lock_owned().await;
            let looked = tokio::task::spawn_blocking(move || {
                let _alone = alone;
                look()
            });
            looked.await.ok()
        };
        tokio::time::timeout(time, looking).await.ok()?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    };

    use super::*;

    #[tokio::test]
    async fn a_disk_that_hangs_is_waited_for_by_one_thread_and_for_a_while() {
        let looks = Looks::default();
        let begun = Arc::new(AtomicU32::new(0));
        let (release, hangs) = mpsc::channel::<()>();
        let look = {
            let begun = Arc::clone(&begun);
            move || {
                begun.fetch_add(1, Ordering::Relaxed);
                hangs.recv().ok()
            }
        };
        let moment = Duration::from_millis(20);
        assert_eq!(looks.within(moment, look).await, None);
        let again = Arc::clone(&begun);
        let look = move || again.fetch_add(1, Ordering::Relaxed);
        assert_eq!(looks.within(moment, look.clone()).await, None);
        assert_eq!(begun.load(Ordering::Relaxed), 1, "no second thread");
        release.send(()).unwrap();
        assert_eq!(looks.within(Duration::from_secs(20), look).await, Some(1));
    }
}
