//! Which member is a corrupt source, when the bytes of several made a wrong blob.
//!
//! The digest says that something is wrong, not what. So the wrong file is kept until the right one is here. Then the
//! ranges that differ name the member that brought them from its own disk. A member that only passed bytes on is not
//! named. Meanwhile no suspect is asked for this digest, and no member is asked to fetch it from another one, which may
//! be a suspect.

use std::{
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use larder_shared::{Digest, Range};
use lru::LruCache;

use crate::store::Blob;

/// Wrong files kept at once. They have no name on disk any more, and their room becomes free when they are dropped.
const KEPT: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// How long a wrong file is kept: perhaps no reader wants the digest again, and the file's room is needed.
pub const KEPT_FOR: Duration = Duration::from_mins(10);

/// Bytes compared at a time.
const PIECE: u64 = 1 << 20;

/// What a member brought of a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    pub range: Range,
    pub member: SocketAddr,
    /// It passed on another source's bytes as they came.
    pub passed_on: bool,
}

#[derive(Debug)]
struct Suspect {
    wrong: Arc<Blob>,
    shares: Vec<Share>,
    /// The members that brought something of this wrong file, or of one before it.
    touched: Vec<SocketAddr>,
    since: Instant,
}

/// All wrong files that are kept.
#[derive(Debug)]
pub struct Suspects(Mutex<LruCache<Digest, Suspect>>);

impl Default for Suspects {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(KEPT)))
    }
}

impl Suspects {
    /// Keeps a wrong file and the members that brought it. They may not be known if an earlier fill brought a part of
    /// it (`resumed`).
    pub fn keep(&self, wrong: Arc<Blob>, shares: Vec<Share>, resumed: bool) {
        if shares.is_empty() && !resumed {
            return;
        }
        let mut suspects = self.lock();
        let before = suspects.pop(wrong.digest());
        let mut touched = before.map(|before| before.touched).unwrap_or_default();
        touched.extend(shares.iter().map(|share| share.member));
        touched.sort_unstable();
        touched.dedup();
        let suspect = Suspect {
            since: Instant::now(),
            shares,
            touched,
            wrong,
        };
        suspects.put(*suspect.wrong.digest(), suspect);
    }

    /// Whether wrong bytes of `digest` came a short time ago.
    pub fn doubts(&self, digest: &Digest) -> bool {
        self.lock().contains(digest)
    }

    /// Lets go of the files that were kept for longer (blocking: their room becomes free).
    pub fn let_go(&self, kept_for: Duration) {
        let mut gone = Vec::new();
        let mut suspects = self.lock();
        let is_old = |suspect: &Suspect| suspect.since.elapsed() >= kept_for;
        while suspects
            .peek_lru()
            .is_some_and(|(_, suspect)| is_old(suspect))
        {
            gone.extend(suspects.pop_lru());
        }
        drop(suspects);
        drop(gone);
    }

    /// The members that may be corrupt sources of `digest`.
    pub fn of(&self, digest: &Digest) -> Vec<SocketAddr> {
        let suspects = self.lock();
        let suspect = suspects.peek(digest);
        suspect
            .map(|suspect| suspect.touched.clone())
            .unwrap_or_default()
    }

    /// Compares with the right blob (blocking), and names the members that brought what differs, once each.
    pub fn name(&self, right: &Blob) -> io::Result<Vec<SocketAddr>> {
        let Some(suspect) = self.lock().pop(right.digest()) else {
            return Ok(Vec::new());
        };
        let mut corrupt = Vec::new();
        for share in suspect.shares.iter().filter(|share| !share.passed_on) {
            if !corrupt.contains(&share.member) && differs(&suspect.wrong, right, share.range)? {
                corrupt.push(share.member);
            }
        }
        Ok(corrupt)
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Digest, Suspect>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn differs(wrong: &Blob, right: &Blob, range: Range) -> io::Result<bool> {
    // A member that said another length is corrupt.
    if wrong.size() != right.size() {
        return Ok(true);
    }
    let mut at = range.start;
    while at < range.end {
        let piece = Range::new(at, range.end.min(at + PIECE));
        if wrong.read(piece)? != right.read(piece)? {
            return Ok(true);
        }
        at = piece.end;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn share(passed_on: bool) -> Share {
        Share {
            range: Range::new(0, 5),
            member: "127.0.0.1:1".parse().unwrap(),
            passed_on,
        }
    }

    #[test]
    fn a_member_that_passed_wrong_bytes_on_is_not_asked_and_not_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (registry, digest) = ("a.io".parse().unwrap(), Digest::sha256(b"right"));
        for (passed_on, named) in [(false, 1), (true, 0)] {
            let wrong = store.begin(digest, 5, &registry).unwrap();
            wrong.write(0, &["wrong".into()]).unwrap();
            let suspects = Suspects::default();
            suspects.keep(Arc::clone(wrong.blob()), vec![share(passed_on)], false);
            assert_eq!(suspects.of(&digest).len(), 1);
            let right = store.begin(digest, 5, &registry).unwrap();
            right.write(0, &["right".into()]).unwrap();
            let corrupt = suspects.name(right.blob()).unwrap();
            assert_eq!(corrupt.len(), named, "{passed_on}");
        }
    }

    #[test]
    fn wrong_files_are_let_go_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = Digest::sha256(b"right");
        let partial = store.begin(digest, 5, &"a.io".parse().unwrap()).unwrap();
        let wrong = partial.blob();
        let owners = Arc::strong_count(wrong);
        let suspects = Suspects::default();
        let share = share(false);
        suspects.keep(Arc::clone(wrong), vec![share], false);
        suspects.let_go(KEPT_FOR);
        assert_eq!(suspects.of(&digest).len(), 1);
        assert_eq!(Arc::strong_count(wrong), owners + 1);
        suspects.let_go(Duration::ZERO);
        assert_eq!(suspects.of(&digest), []);
        assert_eq!(Arc::strong_count(wrong), owners, "its room is taken");
    }
}
