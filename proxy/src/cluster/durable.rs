//! What larder writes to the object store and reads from it: blobs, and small records that say which repositories hold
//! them.
//!
//! A blob in the object store gives no caller a right. Beside it lies a record for each repository that holds it,
//! written by a node that had the blob from there. Without the record, the blob is not used for that repository
//! (promise P16). Verdicts on credentials are not written there.
//!
//! ```text
//! records/<registry>/<repository>/_link-sha256-<hex>    the repository holds the digest
//! records/<registry>/<repository>/_tag-<tag>            what the tag pointed to, and when
//! records/<registry>/<repository>/_public               when it was last found public
//! records/<registry>/<repository>/_refused              when it was last found not to be
//! ```
//!
//! A node does not overwrite a record that is later than its own. Public and refused have a name each, so that two
//! nodes that write at once cannot undo a refusal.

use std::{fs::File, sync::Arc, time::Duration};

use bytes::Bytes;
use larder_shared::{Digest, Link, Range, RegistryName, Repository, Tag};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Cluster, object_store::Object, placement, records::PeerRecord};
use crate::clock::unix_now;

/// Each keeper of a digest gives the keeper before it so much time to write the blob. Other members give more.
const PRECEDENCE: Duration = Duration::from_secs(2);

/// The text of a [`Link`]'s record. The digest is in the record's path alone.
#[derive(Serialize, Deserialize)]
struct LinkText {
    size: u64,
    /// Of a manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
}

fn link_text(link: &Link) -> Bytes {
    json(&LinkText {
        size: link.size,
        media_type: link.media_type.clone(),
    })
}

fn link_path(registry: &RegistryName, repository: &Repository, digest: &Digest) -> String {
    let algorithm = digest.algorithm().as_str();
    format!("{registry}/{repository}/_link-{algorithm}-{}", digest.hex())
}

fn tag_path(registry: &RegistryName, repository: &Repository, tag: &Tag) -> String {
    format!("{registry}/{repository}/_tag-{tag}")
}

fn public_path(registry: &RegistryName, repository: &Repository) -> String {
    format!("{registry}/{repository}/_public")
}

fn refused_path(registry: &RegistryName, repository: &Repository) -> String {
    format!("{registry}/{repository}/_refused")
}

impl Cluster {
    /// Has a verified blob written behind, with the record that `repository` holds it. `file` is the blob's.
    pub fn write_behind(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        link: &Link,
        file: Arc<File>,
    ) {
        if let Some(store) = &self.store {
            let digest = link.digest;
            store.write_blob(digest, file, link.size, self.precedence(&digest));
            let path = link_path(registry, repository, &digest);
            store.write_record(&path, link_text(link), None);
        }
    }

    /// Has the records of a tag and of rights to read written behind, without credentials.
    pub fn write_records(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        verdict: &PeerRecord,
        tag: Option<(&Tag, &PeerRecord)>,
    ) {
        let Some(store) = &self.store else {
            return;
        };
        let write = |path: String, kept: &PeerRecord| {
            store.write_record(&path, json(kept), Some(is_as_late));
        };
        if verdict.public.is_some() {
            let public = PeerRecord {
                public: verdict.public,
                ..PeerRecord::default()
            };
            write(public_path(registry, repository), &public);
        }
        if verdict.refused.is_some() {
            let refused = PeerRecord {
                refused: verdict.refused,
                ..PeerRecord::default()
            };
            write(refused_path(registry, repository), &refused);
        }
        if let Some((tag, kept)) = tag {
            write(tag_path(registry, repository, tag), kept);
        }
    }

    /// What the object store knows of rights to read a repository.
    pub async fn durable_verdict(
        &self,
        registry: &RegistryName,
        repository: &Repository,
    ) -> PeerRecord {
        let (public, refused) = (
            public_path(registry, repository),
            refused_path(registry, repository),
        );
        let (public, refused) = futures_util::join!(
            self.read::<PeerRecord>(&public),
            self.read::<PeerRecord>(&refused)
        );
        PeerRecord {
            public: public.and_then(|kept| kept.public),
            refused: refused.and_then(|kept| kept.refused),
            ..PeerRecord::default()
        }
    }

    /// What the object store knows of a tag.
    pub async fn durable_tag(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        tag: &Tag,
    ) -> PeerRecord {
        let kept = self.read(&tag_path(registry, repository, tag)).await;
        kept.unwrap_or_default()
    }

    /// A repository's link to a digest, if the object store has its record.
    pub async fn durable_link(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        digest: &Digest,
    ) -> Option<Link> {
        let path = link_path(registry, repository, digest);
        let LinkText { size, media_type } = self.read(&path).await?;
        Some(Link {
            digest: *digest,
            size,
            media_type,
        })
    }

    /// Bytes of a blob from the object store, unverified. Its failures are misses.
    pub async fn durable_blob(&self, digest: &Digest, range: Range) -> Option<Object> {
        let found = self.store.as_ref()?.get(digest, range).await;
        found
            .inspect_err(|failure| tracing::debug!(%failure, blob.digest = %digest, "the object store does not give a blob"))
            .ok()?
    }

    /// The index of a layer from the object store, unverified. Its failures are misses.
    pub async fn durable_index(&self, layer: &Digest) -> Option<Object> {
        let found = self.store.as_ref()?.get_index(layer).await;
        found
            .inspect_err(|failure| tracing::debug!(%failure, blob.digest = %layer, "the object store does not give an index"))
            .ok()?
    }

    /// How long this node waits before it writes a blob that others may hold as well.
    fn precedence(&self, digest: &Digest) -> Duration {
        let view = self.members.view();
        if !view.has_others() {
            return Duration::ZERO;
        }
        let ranked = placement::rank(&view.keys, digest, 0, super::KEEPERS);
        let standing = view
            .own
            .and_then(|own| ranked.iter().position(|index| *index == own));
        match standing {
            Some(standing) => PRECEDENCE * standing as u32,
            None => PRECEDENCE.mul_f64(super::KEEPERS as f64 * (1.0 + fastrand::f64())),
        }
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        let text = self.store.as_ref()?.read_record(path).await.ok()??;
        serde_json::from_slice(&text).ok()
    }
}

/// Whether the record there is no earlier than ours.
fn is_as_late(there: &[u8], ours: &[u8]) -> bool {
    let latest = |text| {
        let kept: PeerRecord = serde_json::from_slice(text).ok()?;
        // A record from the future counts as no record.
        kept.sane(unix_now()).latest()
    };
    latest(there).is_some_and(|there| Some(there) >= latest(ours))
}

/// Writing these types to memory cannot fail.
fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_of_a_link_says_all_but_its_digest() {
        let blob = Link {
            digest: Digest::sha256(b"abc"),
            size: 3,
            media_type: None,
        };
        assert_eq!(link_text(&blob), r#"{"size":3}"#);
        let manifest = Link {
            media_type: Some("m".to_owned()),
            ..blob
        };
        let text = link_text(&manifest);
        assert_eq!(text, r#"{"size":3,"media_type":"m"}"#);
        let read: LinkText = serde_json::from_slice(&text).unwrap();
        assert_eq!((read.size, read.media_type), (3, manifest.media_type));
    }
}
