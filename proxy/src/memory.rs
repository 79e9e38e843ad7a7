//! Gives memory back to the kernel that a burst of work has needed.
//!
//! The C library keeps freed memory for the next burst, and a node that pulled once would hold it until its next restart.
//! The kernel keeps every page of the program mapped that ever ran, such as those of a start, and counts them as the process's.
//! This module decides when both are given back. How the heap behaves in between is [`crate::sys`]'s setting.

use std::time::Duration;

use crate::{drain::Watch, sys};

/// Between two looks. Memory that is given back while it is needed costs its pages once more, so they are not frequent.
const EVERY: Duration = Duration::from_secs(15);

/// Less than this is not worth a look through the heap.
const WORTH: u64 = 2 << 20;

/// Looks after the memory until the drain.
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

/// Gives memory back if there is more than `last` time (blocking). Returns what the process has then.
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
