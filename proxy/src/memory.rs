//! Gives memory that a burst of work has needed back to the kernel.
//!
//! The C library keeps freed memory for the next burst, so a node that pulled once would hold it until a restart. The
//! kernel keeps every page of the program mapped that has ever run, and counts it as the process's memory. This module
//! decides when both are given back. [`crate::sys`] sets how the heap behaves in between.

use std::time::Duration;

use crate::{drain::Watch, sys};

/// How often it gives memory back. That costs some milliseconds, and memory that is needed again has to be mapped again,
/// so it is rare. It does not depend on growth: memory becomes free when work ends, and nothing grows then.
const EVERY: Duration = Duration::from_secs(15);

/// Gives memory back at intervals, until the drain.
pub async fn run(mut watch: Watch) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = watch.stopped() => return,
        }
        let given = tokio::task::spawn_blocking(|| {
            sys::give_freed_memory_back();
            sys::let_go_of_program();
        });
        if let Err(panic) = given.await {
            tracing::error!(%panic, "giving memory back panicked; please report this");
        }
    }
}
