//! Fetches indexes from elsewhere: which members are asked, how much may be received, and which index is trusted.

use std::{
    fmt::Display,
    fs::{self, File},
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http_body_util::BodyDataStream;
use larder_layer::Envelope;
use larder_shared::Digest;

use super::{KIND, Source};
use crate::{
    access::Place,
    cluster::{INDEXES, peers::PeerFailure, placement},
    metrics::IndexWork,
    pull::Pull,
    store::{Indexes, NotKept, OpenIndex},
    telemetry,
};

/// Besides the members that are said to hold the layer, this many of the first in rank are asked.
const RANKED: usize = 2;

/// How many members are asked at most, one after the other.
const ASKED: usize = 4;

/// Keepers say within this time which members hold a layer.
const HOLDERS: Duration = Duration::from_millis(200);

/// How long a member is not asked again: if it had no index, if it did not answer, and if its index was not trusted.
const NONE: Duration = Duration::from_secs(30);
const SILENT: Duration = Duration::from_secs(10);
const UNBELIEVED: Duration = Duration::from_mins(10);

/// The largest index of a layer: a fiftieth of the layer, but at least `SMALL` and at most `LARGEST`.
const PART: u64 = 50;
const SMALL: u64 = 8 << 20;
const LARGEST: u64 = 256 << 20;

/// Bytes that are collected before a write.
const GATHERED: usize = 1 << 20;

/// The most bytes that an index of this layer may have.
fn most(layer_length: u64) -> u64 {
    (layer_length / PART).clamp(SMALL, LARGEST)
}

/// A temporary file that is removed when dropped, unless it was renamed.
struct Coming(PathBuf);

impl Drop for Coming {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        let remove = move || drop(fs::remove_file(path));
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Why an index did not come.
#[derive(Debug, thiserror::Error)]
enum NotBrought {
    #[error("{0}")]
    Member(#[from] PeerFailure),
    #[error("it broke off, or is too long: {0}")]
    Broken(String),
    #[error("{0}")]
    NotKept(#[from] NotKept),
}

impl NotBrought {
    /// How long its source is not asked again.
    fn pause(&self) -> Duration {
        match self {
            Self::Member(PeerFailure::Miss(_) | PeerFailure::Refused(_)) => NONE,
            Self::Member(_) | Self::Broken(_) | Self::NotKept(NotKept::Disk(_)) => SILENT,
            Self::NotKept(NotKept::Unbelieved(_) | NotKept::Disproved(_)) => UNBELIEVED,
        }
    }

    fn is_lie(&self) -> bool {
        matches!(
            self,
            Self::NotKept(NotKept::Unbelieved(_) | NotKept::Disproved(_))
        )
    }
}

impl Pull {
    /// The index of a layer from other members or from the object store. `holds`: the repository is known to hold the
    /// layer; otherwise the source has to vouch for that.
    pub(super) async fn index_from_elsewhere(
        &self,
        place: &Place,
        layer: &Digest,
        layer_length: u64,
        holds: bool,
        within: Duration,
    ) -> Option<OpenIndex> {
        let mut asked = 0;
        for member in self.index_members(layer).await {
            if asked == ASKED {
                break;
            }
            let source = Source::member(member, place);
            if !self.index_hints.may_ask(&source, layer) || !self.cluster.admits(member) {
                continue;
            }
            asked += 1;
            let brought = self.index_from_member(place, layer, layer_length, member, within / 2);
            match brought.await {
                Ok(open) => return Some(self.vouched(place, layer, open)),
                Err(why) => self.not_brought(source, layer, &why),
            }
        }
        if self.cluster.store.is_none() || !self.index_hints.may_ask(&Source::ObjectStore, layer) {
            return None;
        }
        if !holds {
            let (registry, repository) = (&place.registry, &place.repository);
            self.cluster
                .durable_link(registry, repository, layer)
                .await?;
        }
        let Some(object) = self.cluster.durable_index(layer).await else {
            self.index_hints.has_none(Source::ObjectStore, layer, NONE);
            return None;
        };
        match self.keep_coming(layer, layer_length, object.body).await {
            Ok(open) => Some(self.vouched(place, layer, open)),
            Err(why) => {
                self.not_brought(Source::ObjectStore, layer, &why);
                if let (true, Some(store)) = (why.is_lie(), &self.cluster.store) {
                    store.distrust_index(*layer);
                }
                None
            }
        }
    }

    fn vouched(&self, place: &Place, layer: &Digest, open: OpenIndex) -> OpenIndex {
        self.metrics.layers.indexed(IndexWork::Fetched);
        self.index_hints.vouch(place, layer);
        open
    }

    /// The members that may have an index, best first. Among the holders of a layer, the first in rank makes its index.
    async fn index_members(&self, layer: &Digest) -> Vec<SocketAddr> {
        let view = self.cluster.members.view();
        if !view.has_others() {
            return Vec::new();
        }
        let holders = self.cluster.holders(layer, HOLDERS).await;
        let all = placement::rank(&view.keys, layer, 0, view.keys.len());
        let ranked: Vec<SocketAddr> = all
            .into_iter()
            .filter(|index| Some(*index) != view.own)
            .map(|index| view.addresses[index])
            .collect();
        let holding = ranked.iter().filter(|member| holders.contains(member));
        let first = ranked.iter().take(RANKED);
        let rest = first.filter(|member| !holders.contains(member));
        holding.chain(rest).copied().collect()
    }

    async fn index_from_member(
        &self,
        place: &Place,
        layer: &Digest,
        layer_length: u64,
        member: SocketAddr,
        within: Duration,
    ) -> Result<OpenIndex, NotBrought> {
        // None of these names has a character with a meaning in a query.
        let (registry, repository) = (&place.registry, &place.repository);
        let path = format!("{INDEXES}?registry={registry}&repository={repository}&layer={layer}");
        let body = self.cluster.peers.open(member, &path, within).await?;
        self.keep_coming(layer, layer_length, BodyDataStream::new(body))
            .await
    }

    /// Writes a received index to a file, and keeps the file if all checks succeed.
    async fn keep_coming<E: Display>(
        &self,
        layer: &Digest,
        layer_length: u64,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<OpenIndex, NotBrought> {
        let coming = Coming(self.store.indexes().new_tmp());
        let path = coming.0.clone();
        let file = blocking(move || Indexes::create_tmp(&path)).await;
        let file = file.map_err(NotKept::Disk)?;
        write_all(body, file, most(layer_length))
            .await
            .map_err(NotBrought::Broken)?;
        let (store, key, layer) = (Arc::clone(&self.store), Arc::clone(&self.key), *layer);
        let keep = move || {
            let is_signed = |envelope: &Envelope| {
                let proof = envelope.proof.as_ref();
                proof.is_some_and(|proof| key.is_proof(KIND, &envelope.signed(), proof))
            };
            let length = Some(layer_length);
            let kept = store.indexes().keep(&coming.0, &layer, length, &is_signed);
            drop(coming);
            Ok(kept)
        };
        let kept = blocking(keep).await.map_err(NotKept::Disk)?;
        Ok(kept?)
    }

    fn not_brought(&self, source: Source, layer: &Digest, why: &NotBrought) {
        let from = source.to_string();
        self.index_hints.has_none(source, layer, why.pause());
        if !why.is_lie() {
            tracing::debug!(source = from, %why, blob.digest = %layer, "an index of a layer did not come");
            return;
        }
        self.metrics.layers.indexed(IndexWork::Unbelieved);
        if let Some(due) = telemetry::due("index of a layer", &from) {
            tracing::error!(source = from, %why, blob.digest = %layer, unsaid = due.unsaid, "an index of a layer is not believed, and nothing is read by it; look at that node's disk, and whether all members have the same [cluster] key");
        }
    }
}

/// Runs work that waits for the disk on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

/// Writes a body of at most `most` bytes.
async fn write_all<E: Display>(
    mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    file: File,
    most: u64,
) -> Result<(), String> {
    let (mut gathered, mut length, file) = (Vec::new(), 0, Arc::new(file));
    loop {
        let piece = body.next().await.transpose();
        let piece = piece.map_err(|error| error.to_string())?;
        let over = piece.is_none();
        let piece = piece.unwrap_or_default();
        length += piece.len() as u64;
        if length > most {
            return Err(format!("more than {most} bytes"));
        }
        gathered.extend_from_slice(&piece);
        if gathered.len() >= GATHERED || over && !gathered.is_empty() {
            let (bytes, to) = (std::mem::take(&mut gathered), Arc::clone(&file));
            let write = move || (&*to).write_all(&bytes);
            blocking(write).await.map_err(|error| error.to_string())?;
        }
        if over {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[test]
    fn an_index_has_a_fiftieth_of_its_layer_or_a_few_mebibytes() {
        for (layer, expected) in [
            (0, 8 << 20),
            (100 << 20, 8 << 20),
            (1000 << 20, 20 << 20),
            (u64::MAX, 256 << 20),
        ] {
            assert_eq!(most(layer), expected);
        }
    }

    #[tokio::test]
    async fn what_is_longer_or_breaks_off_is_not_written_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let pieces = |sizes: &[usize]| {
            let pieces = sizes
                .iter()
                .map(|size| Ok::<_, String>(vec![7; *size].into()));
            stream::iter(pieces.collect::<Vec<_>>())
        };
        let write = async |sizes: &[usize], most| {
            let file = File::create(&path).unwrap();
            write_all(pieces(sizes), file, most).await
        };
        write(&[5, 0, 2 << 20, 3], 3 << 20).await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), vec![7; (2 << 20) + 8]);
        write(&[5, 5], 9).await.unwrap_err();
        let broken = stream::iter([Ok(Bytes::from_static(b"a")), Err("broken")]);
        let file = File::create(&path).unwrap();
        assert_eq!(write_all(broken, file, 9).await, Err("broken".to_owned()));
    }

    #[test]
    fn coming_files_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "x").unwrap();
        drop(Coming(path.clone()));
        assert!(!path.exists());
    }
}
