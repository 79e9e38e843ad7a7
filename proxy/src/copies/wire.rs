//! The messages between members about copies: JSON in the body of a POST, many digests in one request.
//!
//! Times travel as ages in seconds, because nodes' clocks may differ.

use std::net::SocketAddr;

use larder_shared::{Digest, RegistryName, Repository, Tag, TagRecord};
use serde::{Deserialize, Serialize};

/// A holder tells a keeper here what it holds. An empty list asks for a sign of life.
pub const HOLDINGS: &str = "/larder/v1/holdings";

/// A member asks a keeper here for the holders of many digests.
pub const HOLDERS_OF: &str = "/larder/v1/holdings/of";

/// A member is offered copies here.
pub const COPIES: &str = "/larder/v1/copies";

/// A holder is asked here for the links of blobs that are to be copied.
pub const LINKS: &str = "/larder/v1/copies/links";

/// The most digests in a request, and in a request whose answer has links.
pub const BATCH: usize = 2000;
pub const LINKED_BATCH: usize = 64;

/// The most repositories that travel with a copy, and the most tags of each.
pub const LINKED: usize = 8;

/// The most bytes of a request.
pub const LARGEST: u64 = 1 << 20;

/// What a member holds.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Announcement {
    pub holder: Option<SocketAddr>,
    /// Differs after each start of the holder.
    pub boot: u64,
    /// Whether these blobs have just come.
    #[serde(default)]
    pub fresh: bool,
    #[serde(default)]
    pub held: Vec<Held>,
    /// Blobs that it no longer holds.
    #[serde(default)]
    pub gone: Vec<Digest>,
    /// Blobs that it let go because nothing used them within the ttl.
    #[serde(default)]
    pub expired: Vec<Digest>,
}

/// One blob of the holder.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Held {
    #[serde(rename = "d")]
    pub digest: Digest,
    #[serde(rename = "s")]
    pub size: u64,
    /// Seconds since its last use there, or anywhere that the holder knows of. 0 while it is in use.
    #[serde(rename = "a")]
    pub age: u64,
}

/// A keeper's answer.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Heard {
    /// Differs after each start of the keeper.
    pub boot: u64,
    /// Digests with a later use elsewhere: the index in `held`, and how many seconds ago.
    #[serde(default)]
    pub younger: Vec<(usize, u64)>,
}

/// A question about many digests.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Which {
    pub digests: Vec<Digest>,
}

/// A holder as a keeper knows it: the member, seconds since its announcement, seconds since the digest was used there.
pub type HolderOf = (SocketAddr, u64, u64);

/// A repository that holds a digest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Linked {
    pub registry: RegistryName,
    pub repository: Repository,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// When its registry last served it to an anonymous client, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<(Tag, TagRecord)>,
}

/// How a member holds a digest.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Links {
    pub here: bool,
    /// The links that may be copied. Empty if the blob is private here.
    #[serde(default)]
    pub links: Vec<Linked>,
}

/// One copy that a member should fetch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Item {
    pub digest: Digest,
    pub size: u64,
    pub age: u64,
    pub from: Vec<SocketAddr>,
    pub links: Vec<Linked>,
    /// Whether the holder is about to stop.
    #[serde(default)]
    pub hurry: bool,
}

/// A member's answer to an offer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It will fetch the blob.
    Taken,
    /// It has the blob.
    Held,
    /// It has no room without evicting something.
    Full,
    /// Enough copies wait already.
    Busy,
    /// It makes no copies, or none of such content, or keeps nothing now.
    Off,
    /// Nothing has used the blob within the ttl.
    Old,
}
