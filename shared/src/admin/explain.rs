//! What a pull would do, and why.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// `GET /explain?ref=IMAGE`: what a pull would do, step by step, without transferring the image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Explanation {
    pub image: String,
    pub steps: Vec<Step>,
    /// What comes of it.
    pub pull: Expected,
}

/// One step of a pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Step {
    /// The word of a [`StepName`].
    pub step: String,
    /// The word of a [`StepOutcome`].
    pub outcome: String,
    /// Why, for a person. Never holds a secret.
    pub detail: String,
}

impl Step {
    pub fn new(step: StepName, outcome: StepOutcome, detail: impl Into<String>) -> Self {
        Self {
            step: step.as_str().to_owned(),
            outcome: outcome.as_str().to_owned(),
            detail: detail.into(),
        }
    }
}

/// What the client of a pull that begins now gets, and where from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Expected {
    /// The word of a [`PullOutcome`].
    pub outcome: String,
    /// What the image is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Whether its manifest, and that of the platform, are on this node.
    pub manifest_here: bool,
    /// The blobs of the platform. None are known before the manifest is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blobs: Option<Vec<ExpectedBlob>>,
}

impl Expected {
    /// Bytes of blobs that come from there, as far as they are known.
    pub fn bytes_from(&self, source: BlobSource) -> u64 {
        let blobs = self.blobs.iter().flatten();
        let from = blobs.filter(|blob| blob.from == source.as_str());
        from.map(|blob| blob.bytes).sum()
    }
}

/// One blob of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ExpectedBlob {
    pub digest: Digest,
    pub bytes: u64,
    /// The word of a [`BlobSource`].
    pub from: String,
    /// How much of it is on this node, partial blobs included.
    pub present_bytes: u64,
    /// It came by way of another repository: the registry is asked for one byte of it first, as a proof.
    #[serde(default)]
    pub claimed: bool,
    /// It lies in the container runtime's content store alone, and is served from there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_runtime: bool,
    /// The members that hold it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
}

macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($(#[$each:meta])* $name:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[$each])* $name),*
        }

        impl $type {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word),*
                }
            }
        }
    };
}

words! {
    /// The steps, in the order in which they are shown.
    StepName {
        /// The registry, repository and reference that are meant, and how they are asked for.
        Name = "name",
        /// What containerd on this node does with the name.
        Runtime = "runtime",
        /// The credentials that are used, and what they open.
        Access = "access",
        /// The target of the tag, and how fresh that is.
        Tag = "tag",
        /// Whether the manifest is on this node.
        Manifest = "manifest",
        /// Which blobs are on this node.
        Blobs = "blobs",
        /// Which layers the runtime mounts instead of pulling them.
        Layers = "layers",
        /// Whether a container of this node uses the image.
        Use = "use",
        /// Which members hold the missing blobs, and which member fetches them.
        Cluster = "cluster",
        /// The endpoints: which one answered, and how the others fare.
        Upstream = "upstream",
    }
}

words! {
    /// How a step ends.
    StepOutcome {
        // name, runtime
        Ok = "ok",
        /// The operator does not allow this registry.
        Denied = "denied",
        /// containerd asks the registry without asking larder.
        Bypassed = "bypassed",
        /// This cannot be seen from here.
        Unseen = "unseen",
        // access
        /// Open to everybody.
        Public = "public",
        /// The node's own credentials open it, and the operator shares their content.
        NodeCredentials = "node-credentials",
        /// The caller's own credential opens it.
        OwnCredentials = "own-credentials",
        /// The registry asks for a credential, and the caller sent none.
        Challenged = "challenged",
        /// The caller's credential does not open it.
        Refused = "refused",
        /// It was open, or was opened, a short time ago, and the registry cannot be asked now.
        Bridged = "bridged",
        /// No registry or member could be asked, and nothing is known.
        Unknown = "unknown",
        // tag
        /// Known, and young enough that no question is needed.
        Fresh = "fresh",
        /// Asked just now: the target is the known one.
        Unchanged = "unchanged",
        /// Asked just now: the target has changed.
        Changed = "changed",
        /// Asked just now, for the first time.
        New = "new",
        /// The registry does not tell the digest: the manifest is fetched.
        Untold = "untold",
        /// The registry cannot be asked: the last known target is served.
        Stale = "stale",
        /// There is no such tag or manifest.
        Missing = "missing",
        /// The registry cannot be asked, and there is no other source.
        Failed = "failed",
        // manifest, blobs, layers, cluster
        /// All of it is present.
        Hit = "hit",
        /// Some of it is present.
        Partial = "partial",
        /// None of it is present.
        Miss = "miss",
        // use
        /// A container of this node uses it.
        InUse = "in-use",
        /// A container used it when that was last known.
        LastInUse = "last-in-use",
        /// No container uses it.
        Unused = "unused",
        // upstream
        /// It answered just now.
        Answered = "answered",
        /// It was not asked.
        Unasked = "unasked",
        /// It is asked last, after failures.
        Avoided = "avoided",
        /// It has asked for no requests for a while.
        Silent = "silent",
        /// It did not answer just now.
        Unanswered = "unanswered",
    }
}

words! {
    /// What the client of a pull gets.
    PullOutcome {
        /// The image, as it is now.
        Served = "served",
        /// The image as it was, with a warning.
        Stale = "stale",
        /// 401: the runtime shows the pod's secret, if there is one.
        Challenged = "challenged",
        /// 401 or 403, with any credential.
        Refused = "refused",
        /// 404
        Missing = "missing",
        /// 503: the runtime goes on to the registry itself.
        Failed = "failed",
    }
}

words! {
    /// Where a blob comes from.
    BlobSource {
        /// This node's disk.
        Node = "node",
        /// Another member, that holds it.
        Cluster = "cluster",
        /// The object store.
        ObjectStore = "object-store",
        /// The registry, possibly by way of the member that fetches it for all.
        Upstream = "upstream",
    }
}
