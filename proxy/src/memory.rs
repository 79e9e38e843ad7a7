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

/// After the process has grown, so many looks give memory back: the work ends, and connections that it used are closed
/// half a minute later. No growth tells that.
const LOOKS: u8 = 4;

/// What is known from the last look.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Resident bytes after it.
    resident: u64,
    /// How many more looks give memory back without growth.
    more: u8,
}

impl Seen {
    /// A look that finds so many bytes resident: whether it gives memory back, and how many looks do after it.
    fn next(self, resident: u64) -> (bool, u8) {
        if resident >= self.resident + WORTH {
            (true, LOOKS - 1)
        } else {
            (self.more > 0, self.more.saturating_sub(1))
        }
    }
}

/// Gives memory back at intervals, until the drain.
pub async fn run(mut watch: Watch) {
    let mut last = Seen::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = watch.stopped() => return,
        }
        let look = tokio::task::spawn_blocking(move || look(last));
        last = look.await.unwrap_or(last);
    }
}

/// Gives memory back if the process has grown since the `last` look, or has grown a short time ago (blocking).
fn look(last: Seen) -> Seen {
    let resident = || sys::usage().map_or(0, |usage| usage.resident_bytes);
    let now = resident();
    let (gives, more) = last.next(now);
    if gives {
        sys::give_freed_memory_back();
        sys::let_go_of_program();
    }
    Seen {
        resident: if gives {
            resident()
        } else {
            now.min(last.resident)
        },
        more,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_after_growth_and_for_a_while_after_that() {
        let mut seen = Seen {
            resident: 10 * WORTH,
            more: 0,
        };
        assert_eq!(seen.next(11 * WORTH - 1), (false, 0));
        // The work needs all of it at the first looks, and some of it until the last.
        for (more, resident) in [(3, 30), (2, 30), (1, 20), (0, 10)] {
            assert_eq!(seen.next(resident * WORTH), (true, more));
            seen = Seen {
                resident: resident * WORTH,
                more,
            };
        }
        assert_eq!(seen.next(10 * WORTH), (false, 0));
        // It grows again meanwhile.
        seen.more = 1;
        assert_eq!(seen.next(11 * WORTH), (true, 3));
    }
}
