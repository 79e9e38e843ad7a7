//! Calls to the disk that readers wait for.

use std::{pin::pin, time::Duration};

use tokio::time::timeout;

use super::{Fill, FillError, Fills, Phase};
use crate::store::{HANGS, Store};

/// Has the disk do something that readers wait for. If the call takes longer than `within`, readers go on without the
/// disk, as after any of its errors, or end short where the bytes are wrong. The fill stays on the list until the call
/// returns: another fill would meet the same file.
pub(super) async fn ask_disk<T: Send + 'static>(
    fills: &Fills,
    fill: &Fill,
    what: &str,
    within: Duration,
    call: impl FnOnce(&Store) -> T + Send + 'static,
) -> Result<T, FillError> {
    let what = format!("{what} {}", fill.digest);
    let mut asked = pin!(fills.store.ask_to_the_end(&what, within.max(HANGS), call));
    if let Ok(done) = timeout(within, &mut asked).await {
        return done.map_err(|panic| FillError::Disk(panic.to_string()));
    }
    let late = FillError::Disk(format!("{what} does not come"));
    fill.set_phase(Phase::Failed(late.clone()));
    let _ = asked.await;
    Err(late)
}
