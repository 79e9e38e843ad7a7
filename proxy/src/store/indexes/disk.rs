//! Reading, writing and comparing the files of indexes. All of it waits for the disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
};

use larder_layer::{
    Difference, Envelope, Index, Refused, Unbelieved, difference, envelope, envelope::Proof,
};
use larder_shared::{Algorithm, Digest};

use super::{Indexes, IsSigned, Lies, Made, NotKept, OpenIndex, Other, WrongIndex, wrong};
use crate::store::lock;

/// The suffix of the file of another member's index.
pub(in crate::store) const FOREIGN: &str = "foreign";

impl Indexes {
    /// Lists what is on disk (blocking). Files are not read: a damaged one is found when it is opened.
    pub(in crate::store) fn scan(&self) {
        let since = self.layout.clock().now();
        let listed = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
        for entry in listed(&self.layout.indexes(Algorithm::Sha256))
            .flat_map(|shard| fs::read_dir(shard.path()).into_iter().flatten().flatten())
        {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let (hex, made) = match name.split_once('.') {
                None => (name, Made::Here),
                Some((hex, FOREIGN)) => (hex, Made::Elsewhere),
                Some(_) => continue,
            };
            let digest = Digest::from_hex(Algorithm::Sha256, hex);
            if let (Ok(layer), Ok(metadata)) = (digest, entry.metadata()) {
                let bytes = metadata.len();
                let mut state = lock(&self.state);
                match made {
                    Made::Here => state.own.insert(layer, Lies { bytes, since }),
                    Made::Elsewhere => state.foreign.insert(layer, Lies { bytes, since }),
                };
            }
        }
        lock(&self.state).wrong = wrong::read(&self.layout.wrong_indexes());
    }

    /// The index of a layer: this node's own, or else another member's (blocking: reads and checks all of it). A
    /// damaged file is removed.
    pub fn open(&self, layer: &Digest) -> Option<OpenIndex> {
        [Made::Here, Made::Elsewhere]
            .into_iter()
            .find_map(|made| self.open_made(layer, made))
    }

    /// As [`Self::open`], for the one index that was made `made`.
    pub fn open_made(&self, layer: &Digest, made: Made) -> Option<OpenIndex> {
        let file = self.file(layer, made)?;
        // Its proof was checked before it was kept, and no other program writes here.
        match envelope::open(&mut &file, layer, None, |_| true) {
            Ok((index, envelope)) => Some(OpenIndex {
                index,
                file: Arc::new(file),
                made,
                maker: envelope.maker(),
            }),
            Err(Unbelieved::Read(error)) => {
                tracing::debug!(%error, layer = %layer, "an index cannot be read");
                None
            }
            Err(why) => {
                tracing::warn!(%why, blob.digest = %layer, "the index of a layer is damaged on disk, and is removed; if there are more, look at the disk");
                self.remove(layer, made);
                None
            }
        }
    }

    fn file(&self, layer: &Digest, made: Made) -> Option<File> {
        let known = {
            let state = lock(&self.state);
            match made {
                Made::Here => state.own.contains_key(layer),
                Made::Elsewhere => state.foreign.contains_key(layer),
            }
        };
        if !known {
            return None;
        }
        match File::open(self.path(layer, made)) {
            Ok(file) => Some(file),
            Err(error) => {
                if error.kind() == io::ErrorKind::NotFound {
                    self.note(*layer, made, None);
                }
                None
            }
        }
    }

    /// An index that was made here, for another member, with its envelope (blocking: reads the envelope alone). The
    /// receiver checks all of it.
    pub fn give(&self, layer: &Digest) -> Option<(File, Envelope)> {
        let file = self.file(layer, Made::Here)?;
        let envelope = envelope::envelope(&mut &file).ok()?;
        (envelope.layer[..] == *layer.as_bytes()).then_some((file, envelope))
    }

    /// Keeps the index at `built`, which this node has made of the whole layer, and compares another member's with it
    /// (blocking). `sign` makes the proof, if there is a key.
    pub fn keep_own(
        &self,
        built: &Path,
        layer: &Digest,
        maker: &str,
        sign: &dyn Fn(&Envelope) -> Option<Proof>,
    ) -> io::Result<Other> {
        let file = OpenOptions::new().read(true).append(true).open(built)?;
        let index = Index::open(&mut &file).map_err(io::Error::other)?;
        if index.layer() != *layer {
            return Err(io::Error::other("the index is of another layer"));
        }
        let mut envelope = Envelope::of(&mut &file, layer, maker)?;
        envelope.proof = sign(&envelope);
        (&file).write_all(&envelope.bytes())?;
        file.sync_all()?;
        // This comes before the own index is in place: if it is interrupted, a wrong index must not be believed again.
        let other = self.judge(layer, Ok(&index))?;
        self.put(built, layer, Made::Here, file.metadata()?.len())?;
        Ok(other)
    }

    /// Disproves another member's index of a layer that is whole here and that has no index (blocking).
    pub fn judge_refused(&self, layer: &Digest, refused: &Refused) -> io::Result<Other> {
        self.judge(layer, Err(refused))
    }

    fn judge(&self, layer: &Digest, built: Result<&Index, &Refused>) -> io::Result<Other> {
        let Some(theirs) = self.open_made(layer, Made::Elsewhere) else {
            return Ok(Other::None);
        };
        let Some(difference) = difference(&theirs.index, built) else {
            self.remove(layer, Made::Elsewhere);
            return Ok(Other::Right {
                maker: theirs.maker,
            });
        };
        let wrong = self.disprove(layer, &theirs, difference)?;
        Ok(Other::Wrong(wrong))
    }

    /// Sets another member's index aside, and remembers that it is wrong.
    fn disprove(
        &self,
        layer: &Digest,
        theirs: &OpenIndex,
        difference: Difference,
    ) -> io::Result<WrongIndex> {
        let wrong = WrongIndex::new(layer, theirs, difference);
        let text = {
            let mut state = lock(&self.state);
            wrong::add(&mut state.wrong, wrong.clone());
            wrong::lines(&state.wrong)
        };
        let written = self
            .layout
            .write_atomic(&self.layout.wrong_indexes(), &text, true);
        let aside = self
            .layout
            .quarantine()
            .join(format!("index-{}", layer.hex()));
        let from = self.path(layer, Made::Elsewhere);
        // From here on no caller opens it.
        self.note(*layer, Made::Elsewhere, None);
        self.disproved.notify_waiters();
        let moved = self.layout.put_in_place(&from, &aside, true);
        let moved = moved.or_else(|_| fs::remove_file(&from));
        // The quarantine keeps it for a day from now.
        let touched = File::open(&aside).and_then(|file| {
            let stamp = self.layout.clock().stamp();
            file.set_modified(stamp)
        });
        drop(touched);
        written.and(moved)?;
        Ok(wrong)
    }

    /// Keeps an index that came from elsewhere, if all of it holds (blocking). The file at `came` has the index with
    /// its envelope. The index is not parsed before `is_signed` says that its proof is right.
    pub fn keep(
        &self,
        came: &Path,
        layer: &Digest,
        layer_length: Option<u64>,
        is_signed: IsSigned<'_>,
    ) -> Result<OpenIndex, NotKept> {
        let file = File::open(came)?;
        let (index, envelope) = envelope::open(&mut &file, layer, layer_length, is_signed)?;
        if self.is_wrong(&envelope) {
            return Err(NotKept::Disproved(envelope.maker()));
        }
        // An index that was made here is better than another member's.
        if self.has(layer) == Some(Made::Here) {
            fs::remove_file(came)?;
        } else {
            file.sync_all()?;
            self.put(came, layer, Made::Elsewhere, file.metadata()?.len())?;
        }
        Ok(OpenIndex {
            index,
            file: Arc::new(file),
            made: Made::Elsewhere,
            maker: envelope.maker(),
        })
    }

    fn put(&self, from: &Path, layer: &Digest, made: Made, bytes: u64) -> io::Result<()> {
        self.layout
            .put_in_place(from, &self.path(layer, made), true)?;
        self.note(*layer, made, Some(bytes));
        Ok(())
    }

    /// Removes an index (blocking).
    pub fn remove(&self, layer: &Digest, made: Made) {
        self.note(*layer, made, None);
        let _ = fs::remove_file(self.path(layer, made));
    }

    /// Creates a temporary file for an index (blocking).
    pub fn create_tmp(path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        // For the owner alone: layers may be private.
        options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
    }
}
