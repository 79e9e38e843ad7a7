//! One larder after another at the same store: the later one waits, as a plain proxy, until the store is free.

use std::{sync::Arc, time::Duration};

use crate::{clock::unix_now, drain::Watch, pull::Pull, store::Tenure};

/// A store that another larder has is asked for this often.
const TAKE_OVER_EVERY: Duration = Duration::from_millis(200);

/// Sees to it that the store becomes this larder's, as soon as its predecessor has let go of it, and then does what only
/// its owner may.
pub(super) async fn take_over(pull: Arc<Pull>, mut watch: Watch) {
    let mut complained = false;
    let mut waited = false;
    loop {
        let taken = Arc::clone(&pull);
        let taking = move || match taken.store.take_over() {
            Ok(Tenure::Held) => {
                taken.access.take_over();
                taken.cluster.records().take_over(unix_now());
                Ok(Tenure::Held)
            }
            other => other,
        };
        let store = pull.store.root().display();
        match tokio::task::spawn_blocking(taking).await {
            Ok(Ok(Tenure::Held)) if waited => {
                tracing::info!(%store, "the store is this larder's now");
                break;
            }
            Ok(Ok(Tenure::Held)) => break,
            Ok(Ok(Tenure::Waiting)) if !waited => {
                tracing::warn!(%store, "another larder has the store; until it lets go this one is a plain proxy");
                waited = true;
            }
            Ok(Err(error)) if !complained => {
                tracing::error!(%error, "the store cannot be taken over; larder stays a plain proxy until it can");
                complained = true;
            }
            Ok(_) => {}
            Err(panic) => tracing::error!(%panic, "the store cannot be taken over"),
        }
        tokio::select! {
            () = tokio::time::sleep(TAKE_OVER_EVERY) => {}
            () = watch.stopped() => return,
        }
    }
    let _ = tokio::task::spawn_blocking(move || {
        pull.store.scan();
    })
    .await;
}
