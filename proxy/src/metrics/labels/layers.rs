//! The words of layers: ready ones, those that stream, and their indexes.

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

words! {
    /// How work on a ready layer ended.
    ReadyMade {
        Offered => "offered",
        /// It has no index, or may not be offered.
        Refused => "refused",
        Failed => "failed",
    }

    /// What became of work on an index of a layer.
    IndexWork {
        /// Made here, from the whole layer.
        Built => "built",
        /// The layer cannot have one.
        Refused => "refused",
        Failed => "failed",
        /// It came from another member, or from the object store.
        Fetched => "fetched",
        /// It came from there and no member of the cluster has signed it, or it does not hold.
        Unbelieved => "unbelieved",
        /// It came from there, and the whole layer says the same.
        Proven => "proven",
        /// It came from there, and the whole layer says something else.
        Disproved => "disproved",
    }

    /// Where an index was made.
    IndexMade {
        Here => "here",
        Elsewhere => "elsewhere",
    }

    /// What became of an image that was about to start.
    LazyOffer {
        /// Its layers are mounted before they are here.
        Offered => "offered",
        /// All of its layers were ready.
        Ready => "ready",
        /// A layer has no index that this node could have.
        NoIndex => "no-index",
        /// It may not be offered, or is too small.
        Refused => "refused",
        /// It took so long that the runtime began to pull.
        Late => "late",
        Failed => "failed",
    }

    /// How a read of a layer was answered that is not whole here.
    LazyRead {
        /// With what had come before.
        Here => "here",
        /// With what came for it.
        Waited => "waited",
        Failed => "failed",
    }

    /// Where a ready file stands.
    ReadyState {
        /// No snapshot refers to it.
        Offered => "offered",
        InUse => "in-use",
        /// On its way out.
        Aside => "aside",
    }

    /// Why a ready file was removed.
    ReadyCause {
        Room => "room",
        Expired => "expired",
        Withdrawn => "withdrawn",
    }
}
