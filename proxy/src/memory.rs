//! Gives memory that a burst of work has needed back to the kernel.
//!
//! The C library keeps freed memory for the next burst, so a node that pulled once would hold it until a restart. The
//! kernel keeps every page of the program mapped that has ever run, and counts it as the process's memory. This module
//! decides when both are given back. [`crate::sys`] sets how the heap behaves in between.

use std::time::Duration;

use crate::{drain::Watch, sys};

/// The pause between two looks. Memory that is needed again has to be mapped again, so looks are rare.
const EVERY: Duration = Duration::from_secs(15);

/// Less growth than this is not worth a walk through the heap.
const WORTH: u64 = 2 << 20;

/// Gives memory back at intervals, until the drain.
pub async fn run(mut watch: Watch) {
    let mut last = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = watch.stopped() => return,
        }
        let look = tokio::task::spawn_blocking(move || look(last));
        last = look.await.unwrap_or(last);
    }
}

/// Gives memory back if the process has grown since the `last` look (blocking). Returns the resident bytes after it.
fn look(last: u64) -> u64 {
    let resident = || sys::usage().map_or(0, |usage| usage.resident_bytes);
    let now = resident();
    if now < last + WORTH {
        return now.min(last);
    }
    sys::give_freed_memory_back();
    sys::let_go_of_program();
    resident()
}
