//! The labels: closed sets of words. The logs use the same words.
//!
//! Only the words of `upstream` are not listed here: they are the registries that the operator has configured. Every
//! other registry is `other`, so no client can make the set grow.

use std::sync::Arc;

use larder_shared::Role;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

use crate::{config::Config, credentials::Fault};

/// A closed set of words: the enum, its words, and all of it.
macro_rules! words {
    ($($(#[$set:meta])* $name:ident { $($(#[$word:meta])* $variant:ident => $text:literal,)+ })+) => {$(
        $(#[$set])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name {
            $($(#[$word])* $variant,)+
        }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                EncodeLabelValue::encode(&self.as_str(), encoder)
            }
        }
    )+};
}

mod layers;

pub use self::layers::{
    IndexMade, IndexWork, LazyOffer, LazyRead, ReadyCause, ReadyMade, ReadyState,
};

words! {
    /// Where the bytes of an answer came from.
    Tier {
        /// This node's memory or disk.
        Node => "node",
        /// Other members; the bytes were fetched while they were served.
        Cluster => "cluster",
        /// A registry; the bytes were fetched while they were served.
        Upstream => "upstream",
        /// No tier: an error, a ping, headers only.
        None => "none",
    }

    /// How a request ended.
    Outcome {
        /// All bytes came from the node tier.
        Hit => "hit",
        /// Some bytes were fetched.
        Miss => "miss",
        /// A stale answer, because the registry could not be asked.
        Stale => "stale",
        /// The client's mistake, or a name that does not exist.
        Refused => "refused",
        /// larder or its sources could not answer.
        Failed => "failed",
        /// The client left before the end.
        Abandoned => "abandoned",
        /// larder had to end the body before its end.
        Short => "short",
    }

    /// How a question to an endpoint ended.
    Asked {
        Answered => "answered",
        NotFound => "not_found",
        Refused => "refused",
        /// 429, or 503 with `Retry-After`.
        Limited => "limited",
        Unreachable => "unreachable",
        /// larder may not connect there.
        Forbidden => "forbidden",
        Invalid => "invalid",
    }

    /// How an endpoint is treated.
    EndpointState {
        Ok => "ok",
        /// The breaker is open after repeated failures.
        Avoided => "avoided",
        /// The registry asked for silence.
        Silent => "silent",
    }

    /// How fetching a token from a registry's token server ended.
    TokenOutcome {
        Fetched => "fetched",
        Refused => "refused",
        Unreachable => "unreachable",
        Invalid => "invalid",
        Forbidden => "forbidden",
    }

    /// The outcome of a tag's revalidation.
    Revalidated {
        /// Fresh: no registry was asked.
        Fresh => "fresh",
        Unchanged => "unchanged",
        /// The tag points to another digest, or was not known.
        Changed => "changed",
        NotFound => "not_found",
        Refused => "refused",
        Limited => "limited",
        Unreachable => "unreachable",
        /// Any other failure.
        Invalid => "invalid",
    }

    /// How much larder knows of the container runtime. The words are those of [`crate::runtime::State`], which this
    /// module may not import.
    RuntimeState {
        Off => "off",
        Fresh => "fresh",
        Old => "old",
        Unreadable => "unreadable",
        Newer => "newer",
    }

    /// The cached verdict on a caller, before larder asks the origin.
    KnownVerdict {
        Allowed => "allowed",
        Ask => "ask",
        Refused => "refused",
    }

    /// How asking the origin for a proof of access ended.
    ProofOutcome {
        Accepted => "accepted",
        Refused => "refused",
        /// The origin did not answer, and the client was allowed within the grace period.
        Bridged => "bridged",
        Unanswered => "unanswered",
    }

    /// How a question to an origin ended: does the repository hold this content of the container runtime?
    Adopted {
        Proven => "proven",
        /// The tag points to something else.
        Elsewhere => "elsewhere",
        Refused => "refused",
        Missing => "missing",
        /// The origin returned other bytes.
        Differs => "differs",
        Later => "later",
    }

    /// The state of a guess that follows from the container runtime's names and labels.
    AdoptedState {
        Nominated => "nominated",
        Hashed => "hashed",
        Proven => "proven",
        Later => "later",
        Refused => "refused",
    }

    /// The state of a blob that the container runtime lists in its content store.
    RuntimeContent {
        /// Hashed, and served.
        Adopted => "adopted",
        /// Not hashed yet.
        Waiting => "waiting",
        /// The file has gone since the runtime listed it.
        Gone => "gone",
        /// The bytes do not match the digest.
        Wrong => "wrong",
        Unreadable => "unreadable",
    }

    /// Where bytes came from.
    Source {
        /// A partial download that was on disk.
        Node => "node",
        Member => "member",
        ObjectStore => "object_store",
        Upstream => "upstream",
    }

    /// Why a blob was evicted.
    Reason {
        /// Not used for longer than the `ttl`.
        Expired => "expired",
        /// Evicted to keep within `max_size` and `min_free`.
        Room => "room",
        /// Evicted by `larder evict`.
        Asked => "asked",
    }

    /// The state of a member, as this node sees it.
    MemberState {
        /// This node.
        Own => "own",
        Ok => "ok",
        Avoided => "avoided",
        Distrusted => "distrusted",
    }

    /// How a question to a member ended.
    PeerAskedOutcome {
        Answered => "answered",
        Miss => "miss",
        Refused => "refused",
        Unable => "unable",
        Gone => "gone",
    }

    /// Why a digest for which this node decides lacks copies.
    LackingWhy {
        /// A member has been asked to fetch it.
        Coming => "coming",
        /// Every member that could hold it declined, for lack of room or because copies are off there.
        Declined => "declined",
        /// There is no other member.
        Members => "members",
        /// Its holders vanished a moment ago, or more than a third of the members is missing.
        Missing => "missing",
        /// It is not known to be public.
        Private => "private",
    }

    /// How the fetch of a copy by this node ended.
    CopyOutcome {
        Copied => "copied",
        /// A client pulled the blob first, so it is here already.
        Here => "here",
        Full => "full",
        /// No holder sent it.
        Failed => "failed",
        Disk => "disk",
    }

    /// A certificate of the peer port.
    Certificate {
        Ca => "ca",
        Member => "member",
    }

    /// A request to the object store.
    ObjectOperation {
        Get => "get",
        Head => "head",
        WriteBlob => "write_blob",
        ReadRecord => "read_record",
        WriteRecord => "write_record",
    }

    /// How a refresh of a repository's list of tags ended.
    ListOutcome {
        /// The registry sent a new list.
        Listed => "listed",
        /// The registry sent the same list as before.
        Unchanged => "unchanged",
        /// Another member sent the list that it has.
        Taken => "taken",
        /// The registry lists no tags any more. larder does not believe that at once.
        Empty => "empty",
        NotFound => "not_found",
        Refused => "refused",
        Limited => "limited",
        Unreachable => "unreachable",
        Invalid => "invalid",
        /// This node has no credentials with which the registry gives lists.
        Credentials => "credentials",
    }

    /// How a request to the object store ended.
    ObjectOutcome {
        Done => "done",
        NotFound => "not_found",
        /// Another node has written the object already.
        AlreadyThere => "already_there",
        /// No request was sent, since requests failed repeatedly.
        Skipped => "skipped",
        Denied => "denied",
        TimedOut => "timed_out",
        Unreachable => "unreachable",
        Failed => "failed",
        /// Not written: the queue was full, or every attempt failed.
        Dropped => "dropped",
    }
}

/// A registry as a label.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum UpstreamLabel {
    /// The request names no registry: a ping, a token, an invalid path.
    None,
    /// A registry that the configuration does not name.
    Other,
    /// A registry that the configuration names.
    Named(Arc<str>),
}

impl UpstreamLabel {
    /// A registry's name if the configuration has it, also as the default upstream; else [`UpstreamLabel::Other`].
    pub fn of(config: &Config, registry: &str) -> Self {
        if config.upstreams.contains_key(registry) || config.registry.default_upstream == registry {
            Self::Named(registry.into())
        } else {
            Self::Other
        }
    }
}

impl EncodeLabelValue for UpstreamLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let text = match self {
            Self::None => "none",
            Self::Other => "other",
            Self::Named(name) => name,
        };
        EncodeLabelValue::encode(&text, encoder)
    }
}

/// A role as a label.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RoleLabel(pub Role);

impl EncodeLabelValue for RoleLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.0.as_str(), encoder)
    }
}

impl EncodeLabelValue for Fault {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}

/// Declares sets of labels.
macro_rules! sets {
    ($($(#[$doc:meta])* $name:ident { $($label:ident: $kind:ty,)* })+) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
        pub struct $name {
            $(pub $label: $kind,)*
        }
    )+};
}

sets! {
    /// How a client's request was served.
    Served { tier: Tier, upstream: UpstreamLabel, outcome: Outcome, }
    /// How a client was answered.
    Answered { tier: Tier, outcome: Outcome, }
    UpstreamAsked { upstream: UpstreamLabel, outcome: Asked, }
    Endpoints { upstream: UpstreamLabel, state: EndpointState, }
    OfUpstream { upstream: UpstreamLabel, }
    Tokens { outcome: TokenOutcome, }
    Revalidations { outcome: Revalidated, }
    Verdicts { verdict: KnownVerdict, }
    Proofs { outcome: ProofOutcome, }
    Adoptions { outcome: Adopted, }
    Guesses { state: AdoptedState, }
    RuntimeContents { state: RuntimeContent, }
    ReadyFiles { state: ReadyState, }
    ReadyWork { outcome: ReadyMade, }
    LazyImages { outcome: LazyOffer, }
    LazyReads { outcome: LazyRead, }
    ReadyRemovals { reason: ReadyCause, }
    IndexesWorked { outcome: IndexWork, }
    IndexesHeld { made: IndexMade, }
    Received { source: Source, upstream: UpstreamLabel, }
    Evictions { reason: Reason, }
    /// Why a look-up of the node's own credentials failed.
    CredentialsFailed { fault: Fault, }
    InState { state: MemberState, }
    /// The state of the watcher's file.
    InRuntimeState { state: RuntimeState, }
    PeerAsked { role: RoleLabel, outcome: PeerAskedOutcome, }
    /// How a member's request was served.
    PeerServed { role: RoleLabel, outcome: Outcome, }
    Lacking { why: LackingWhy, }
    CopyTaken { outcome: CopyOutcome, }
    /// A warm set. The operator chooses its name.
    OfSet { set: String, }
    WarmImages { set: String, state: &'static str, }
    ListsAsked { outcome: ListOutcome, }
    Certificates { certificate: Certificate, }
    ObjectAsked { operation: ObjectOperation, outcome: ObjectOutcome, }
    Build { version: &'static str, }
}
