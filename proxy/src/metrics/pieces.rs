//! Blobs that a client reads piece by piece: how many bytes of an answer the client used.
//!
//! containerd's parallel fetch asks for each piece with an open-ended range, reads the piece, and closes. The bytes
//! that were in flight by then end in buffers. If they counted, more bytes would be counted than the blob has.

use std::{
    collections::BTreeSet,
    ops::Bound,
    time::{Duration, Instant},
};

use larder_shared::Digest;
use lru::LruCache;

/// The most blobs that are tracked.
const BLOBS: usize = 64;

/// The most offsets that are remembered for one blob. The lowest are dropped first.
const STARTS: usize = 1024;

/// After a pause of this length, a new offset belongs to another pull.
const APART: Duration = Duration::from_mins(10);

/// The offsets at which open-ended ranges began recently, by blob.
#[derive(Debug)]
pub struct Pieces(LruCache<Digest, (Instant, BTreeSet<u64>)>);

impl Default for Pieces {
    fn default() -> Self {
        let blobs = std::num::NonZero::new(BLOBS).expect("more than none");
        Self(LruCache::new(blobs))
    }
}

impl Pieces {
    /// A client asks for everything from `start` on.
    pub fn begin(&mut self, digest: &Digest, start: u64, now: Instant) {
        let (last, starts) = self.0.get_or_insert_mut(*digest, || (now, BTreeSet::new()));
        if now.saturating_duration_since(*last) > APART {
            starts.clear();
        }
        *last = now;
        starts.insert(start);
        if starts.len() > STARTS {
            starts.pop_first();
        }
    }

    /// The bytes that a client used of an answer that began at `start` and brought `sent` bytes. They end where the
    /// next piece begins. If no piece has begun after this one, they are as many as the two pieces before it had, if
    /// these are alike. `None` if the client read no piece: it gave up early, or wanted the whole rest.
    ///
    /// `whole` says that the client got everything up to the end of the blob, as happens near the end. Then only
    /// neighbouring pieces of the same length prove that the client wanted no more than its piece.
    pub fn used(&mut self, digest: &Digest, start: u64, sent: u64, whole: bool) -> Option<u64> {
        let (_, starts) = self.0.get(digest)?;
        let mut after = starts
            .range((Bound::Excluded(start), Bound::Unbounded))
            .copied();
        let mut before = starts.range(..start).rev().copied();
        let (next, later) = (after.next(), after.next());
        let (one, two) = (before.next(), before.next());
        let alike =
            |a: Option<u64>, b: u64, c: Option<u64>| a.zip(c).is_some_and(|(a, c)| b - a == c - b);
        let piece = match next {
            Some(next)
                if !whole || alike(one, start, Some(next)) || alike(Some(start), next, later) =>
            {
                next - start
            }
            None if !whole && alike(two, one?, Some(start)) => start - one?,
            _ => return None,
        };
        (piece <= sent).then_some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_used_of_what_it_was_sent() {
        for (starts, start, sent, used) in [
            (&[0, 10, 20][..], 0, 15, Some(10)),
            (&[0, 10, 20], 10, 10, Some(10)),
            // The last piece that has begun has the length of the others.
            (&[0, 10, 20], 20, 15, Some(10)),
            (&[0, 10, 20, 35], 35, 99, None),
            // The client left before its piece was whole.
            (&[0, 10, 20], 0, 9, None),
            (&[0, 10, 20], 20, 9, None),
            // No later range begins within the bytes that were sent.
            (&[0], 0, 15, None),
            (&[5], 5, 15, None),
            (&[0, 10], 10, 15, None),
            (&[0, 100], 0, 15, None),
            (&[u64::MAX], u64::MAX, 15, None),
        ] {
            let mut pieces = Pieces::default();
            let digest = Digest::sha256(b"x");
            for start in starts {
                pieces.begin(&digest, *start, Instant::now());
            }
            assert_eq!(
                pieces.used(&digest, start, sent, false),
                used,
                "{starts:?} {start} {sent}"
            );
            assert_eq!(pieces.used(&Digest::sha256(b"y"), start, sent, false), None);
        }
    }

    #[test]
    fn what_was_sent_to_its_end_is_a_piece_only_among_others() {
        for (starts, start, used) in [
            (&[0, 10, 20][..], 0, Some(10)),
            (&[0, 10, 20], 10, Some(10)),
            (&[0, 10, 20], 20, None),
            // One client read everything, and another began at some offset.
            (&[0, 7], 0, None),
            (&[0, 7, 20], 0, None),
            (&[0, 7, 20], 7, None),
        ] {
            let mut pieces = Pieces::default();
            let digest = Digest::sha256(b"x");
            for start in starts {
                pieces.begin(&digest, *start, Instant::now());
            }
            let piece = pieces.used(&digest, start, 30, true);
            assert_eq!(piece, used, "{starts:?} {start}");
        }
    }

    #[test]
    fn what_clients_choose_is_remembered_within_bounds() {
        let mut pieces = Pieces::default();
        let (digest, now) = (Digest::sha256(b"x"), Instant::now());
        for start in 0..10 * STARTS as u64 {
            pieces.begin(&digest, start, now);
        }
        assert_eq!(
            pieces.0.get(&digest).map(|(_, starts)| starts.len()),
            Some(STARTS)
        );
        for blob in 0..10 * BLOBS {
            pieces.begin(&Digest::sha256(&blob.to_be_bytes()), 0, now);
        }
        assert_eq!(pieces.0.len(), BLOBS);
        // A later pull of the same blob does not continue the first one.
        pieces.begin(&digest, 0, now);
        pieces.begin(&digest, 20, now + 2 * APART);
        assert_eq!(pieces.used(&digest, 0, 99, false), Some(20));
        assert_eq!(
            pieces.0.get(&digest).map(|(_, starts)| starts.len()),
            Some(1)
        );
    }
}
