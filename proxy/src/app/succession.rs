//! The succession of two larders at one store: the later one works as a plain proxy until the store is free.

use std::{sync::Arc, time::Duration};

use crate::{clock::unix_now, drain::Watch, pull::Pull, store::Tenure};

/// How often the later larder tries to take over the store.
const TAKE_OVER_EVERY: Duration = Duration::from_millis(200);

/// Takes over the store as soon as the predecessor has released it. Then does what only the store's owner may do.
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
