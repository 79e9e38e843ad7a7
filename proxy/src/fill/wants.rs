//! What a reader wants of a blob, and how urgently it needs bytes that come.

use larder_shared::Range;

/// A reader that is this near to the bytes that come follows their stream.
const FOLLOWED: u64 = 1 << 20;

/// What a reader wants next.
#[derive(Clone, Debug)]
pub(super) enum Wants {
    /// The size is not known yet. The reader wants bytes from `start` on, if the request says that much.
    Opening {
        start: Option<u64>,
        end: Option<u64>,
        whole: bool,
    },
    /// Everything from here to the end, to be right as a whole.
    Whole { at: u64 },
    /// From here to the end, but perhaps the reader leaves early.
    Open { from: u64, at: u64 },
    /// These parts and nothing else.
    Parts(Vec<Range>),
}

/// How urgently readers need bytes that have just come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Interest {
    /// No reader has come so far.
    Ahead,
    /// A reader takes them in order, as it took those before.
    Followed,
    /// Among them is the first byte that a reader waits for, or the last.
    Awaited,
}

impl Wants {
    /// How urgently this reader needs bytes that have just come.
    pub(super) fn interest(&self, came: Range) -> Interest {
        let has = |at: u64| came.start <= at && at < came.end;
        // A reader that has caught up stands where a piece begins. A reader in the middle of a piece has just joined.
        let joins = |at: u64| at > came.start && has(at);
        let is_near = |at: u64| at.abs_diff(came.start) < FOLLOWED;
        let of = |awaited, followed| match (awaited, followed) {
            (true, _) => Interest::Awaited,
            (false, true) => Interest::Followed,
            (false, false) => Interest::Ahead,
        };
        match self {
            Self::Opening { start, .. } => of(start.is_none_or(has), false),
            Self::Whole { at } | Self::Open { at, .. } => of(joins(*at), is_near(*at)),
            Self::Parts(parts) => of(
                parts
                    .iter()
                    .any(|part| joins(part.start) || has(part.end.saturating_sub(1))),
                parts.iter().any(|part| {
                    is_near(part.start) && part.start < came.end && came.start < part.end
                }),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Interest::*, *};

    const MB: u64 = 1 << 20;

    #[test]
    fn first_and_last_bytes_are_awaited_and_the_rest_is_followed() {
        let came = Range::new(10 * MB, 10 * MB + 1000);
        let opening = |start| Wants::Opening {
            start,
            end: None,
            whole: false,
        };
        let part = |start, end| Wants::Parts(vec![Range::new(0, 10), Range::new(start, end)]);
        let open = |at| Wants::Open { from: 0, at };
        for (wants, interest) in [
            // Any answer will do for the headers.
            (opening(None), Awaited),
            (opening(Some(10 * MB)), Awaited),
            (opening(Some(10 * MB + 1000)), Ahead),
            // It has caught up, or nearly.
            (Wants::Whole { at: 10 * MB }, Followed),
            (open(10 * MB - 1000), Followed),
            (Wants::Whole { at: 0 }, Ahead),
            (open(12 * MB), Ahead),
            // It has just come, and its first byte is among these.
            (open(10 * MB + 1), Awaited),
            (open(10 * MB + 999), Awaited),
            // It takes the part in order.
            (part(10 * MB, 14 * MB), Followed),
            (part(10 * MB + 500, 14 * MB), Awaited),
            (part(8 * MB, 10 * MB + 1), Awaited),
            (part(10 * MB - 1000, 14 * MB), Followed),
            // It takes the bytes before these first.
            (part(8 * MB, 14 * MB), Ahead),
            (part(8 * MB, 10 * MB), Ahead),
            (part(10 * MB + 1000, 14 * MB), Ahead),
        ] {
            assert_eq!(wants.interest(came), interest, "{wants:?}");
        }
    }
}
