//! A blob that comes from another member, outside of any fill. It goes to a file of its own, is hashed on its way, and
//! is put in place once it has its digest.
//!
//! Receiving a blob does not count as a use, and no reader follows the file. An unfinished file is removed when
//! [`Incoming`] is dropped, or at the next start.

use std::{
    fs::{self, File, FileTimes, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use larder_shared::{Digest, Hasher};

use super::{Store, lock, sums::Sums};

/// A blob on its way.
#[derive(Debug)]
pub struct Incoming {
    digest: Digest,
    size: u64,
    at: u64,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    sums: Sums,
}

impl Store {
    /// Begins to take a blob of `size` bytes (blocking).
    pub fn receive(&self, digest: Digest, size: u64) -> io::Result<Incoming> {
        self.owned()?;
        let path = self.layout.new_tmp();
        let file = self.noting(File::create_new(&path))?;
        Ok(Incoming {
            digest,
            size,
            at: 0,
            path,
            file,
            hasher: Hasher::new(digest.algorithm()),
            sums: Sums::default(),
        })
    }

    /// Puts a blob in place that is whole and has its digest, and sets its last use to `ago` before now (blocking:
    /// waits for the disk). `false` if it is not whole, or has another digest.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "what is taken in, or is not, is over"
    )]
    pub fn take_in(&self, incoming: Incoming, ago: Duration) -> io::Result<bool> {
        self.owned()?;
        let Incoming { digest, size, .. } = incoming;
        if incoming.at != size || incoming.hasher.clone().finish() != digest {
            return Ok(false);
        }
        let used = self.clock().now().saturating_sub(ago.as_secs());
        // The runtime has it: two copies on one disk are no better than one.
        if self.adopts(&digest) {
            self.adopted.note_used(&digest, used);
            return Ok(true);
        }
        let path = self.layout.blob(&digest);
        let taken = (|| {
            let times =
                FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH + Duration::from_secs(used));
            incoming.file.set_times(times)?;
            incoming.file.sync_all()?;
            incoming
                .file
                .set_permissions(Permissions::from_mode(0o444))?;
            self.keep_sums(&digest, size, &incoming.sums);
            // A blob that is in place is not replaced: a reader may have it open, and its file must keep a name.
            if !path.exists() {
                self.layout.put_in_place(&incoming.path, &path, true)?;
            }
            Ok(())
        })();
        self.noting(taken)?;
        self.works();
        let _stays = self.places.take(&digest);
        if path.exists() {
            lock(&self.index).found(digest, size, used);
        }
        Ok(true)
    }
}

impl Incoming {
    /// Bytes received so far.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The next bytes (blocking).
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.at + bytes.len() as u64 > self.size {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "more than the blob has",
            ));
        }
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.sums.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Once the blob is in place, the file has another name.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_right_is_put_in_place_and_nothing_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let bytes = vec![7; 200_000];
        let digest = Digest::sha256(&bytes);
        let ago = Duration::from_secs(1000);
        let take = |pieces: &[&[u8]]| {
            let mut incoming = store.receive(digest, bytes.len() as u64).unwrap();
            for piece in pieces {
                if incoming.write(piece).is_err() {
                    return false;
                }
            }
            store.take_in(incoming, ago).unwrap()
        };
        let wrong = vec![8; bytes.len()];
        assert!(!take(&[&bytes[..100_000]]), "half");
        assert!(!take(&[&wrong]), "wrong");
        assert!(!take(&[&bytes, &[1]]), "too long");
        assert!(!store.has(&digest));
        assert!(take(&[&bytes[..70_000], &bytes[70_000..]]));
        let entry = store.holding(&digest).expect("an entry");
        let age = store.clock().age(entry.used).as_secs();
        assert!((1000..1010).contains(&age), "its use is not now: {age}");
        assert_eq!(store.read(&digest, 1 << 20).unwrap(), bytes);
        // A second copy changes nothing.
        assert!(take(&[&bytes]));
        let left = fs::read_dir(store.layout.tmp()).unwrap().count();
        assert_eq!(left, 0);
    }
}
