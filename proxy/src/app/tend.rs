//! Renews tokens of cloud identities before they expire, even on a node that pulls nothing meanwhile.

use std::{sync::Arc, time::Duration};

use crate::pull::Pull;

/// The interval of the checks, and also the first pause after a failed exchange.
const EVERY: Duration = Duration::from_secs(1);

pub(super) async fn identities(pull: Arc<Pull>) {
    loop {
        pull.credentials.tend(&pull.config.load_full());
        tokio::time::sleep(EVERY).await;
    }
}
