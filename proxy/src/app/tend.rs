//! Tokens of cloud identities are renewed before they end, also on a node that pulls nothing meanwhile.

use std::{sync::Arc, time::Duration};

use crate::pull::Pull;

/// The first pause after a failed exchange is as long.
const EVERY: Duration = Duration::from_secs(1);

pub(super) async fn identities(pull: Arc<Pull>) {
    loop {
        pull.credentials.tend(&pull.config.load_full());
        tokio::time::sleep(EVERY).await;
    }
}
