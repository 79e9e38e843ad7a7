//! What members say to each other about copies: JSON in the body of a POST, many digests in one request.
//!
//! Moments travel as ages, in seconds: no two nodes' clocks need to agree.

use std::net::SocketAddr;

use larder_shared::{Digest, RegistryName, Repository, Tag, TagRecord};
use serde::{Deserialize, Serialize};

/// Where a holder tells a keeper what it holds, and asks for a sign of life with an empty list.
pub const HOLDINGS: &str = "/larder/v1/holdings";

/// Where a member asks a keeper for the holders of many digests.
pub const HOLDERS_OF: &str = "/larder/v1/holdings/of";

/// Where a member is offered copies to fetch.
pub const COPIES: &str = "/larder/v1/copies";

/// Where a holder is asked how its repositories hold what is to be copied.
pub const LINKS: &str = "/larder/v1/copies/links";

/// Digests in one request, and in one that is answered with links.
pub const BATCH: usize = 2000;
pub const LINKED_BATCH: usize = 64;

/// Repositories, and tags of each, that travel with a copy.
pub const LINKED: usize = 8;

/// Bytes of a request at the most.
pub const LARGEST: u64 = 1 << 20;

/// What a member holds.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Announcement {
    pub holder: Option<SocketAddr>,
    /// Another one after each start.
    pub boot: u64,
    /// It has just come.
    #[serde(default)]
    pub fresh: bool,
    #[serde(default)]
    pub held: Vec<Held>,
    /// What it holds no longer.
    #[serde(default)]
    pub gone: Vec<Digest>,
    /// What it let go because nothing used it for its time.
    #[serde(default)]
    pub expired: Vec<Digest>,
}

/// One digest of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Held {
    #[serde(rename = "d")]
    pub digest: Digest,
    #[serde(rename = "s")]
    pub size: u64,
    /// Seconds since its last use there, or anywhere as far as the holder knows. 0 while it is in use.
    #[serde(rename = "a")]
    pub age: u64,
}

/// A keeper's answer.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Heard {
    /// The keeper's own.
    pub boot: u64,
    /// Which of the digests were used elsewhere since, and how many seconds ago.
    #[serde(default)]
    pub younger: Vec<(usize, u64)>,
}

/// A question of many digests.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Which {
    pub digests: Vec<Digest>,
}

/// A holder as a keeper knows it: which member, seconds since it said so, seconds since the digest was used there.
pub type HolderOf = (SocketAddr, u64, u64);

/// A repository that holds a digest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Linked {
    pub registry: RegistryName,
    pub repository: Repository,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// When its registry last served it to an anonymous client, Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<(Tag, TagRecord)>,
}

/// How a member holds a digest.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Links {
    pub here: bool,
    /// Those that may be copied. None for what is here and private.
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
    /// The holder is about to stop.
    #[serde(default)]
    pub hurry: bool,
}

/// What a member says to an offer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It will fetch it.
    Taken,
    /// It has it.
    Held,
    /// It has no room without evicting something.
    Full,
    /// Enough waits already.
    Busy,
    /// It makes no copies, not of such content, or keeps nothing now.
    Off,
    /// Nothing has used it for its time.
    Old,
}
