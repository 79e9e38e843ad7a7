//! The words of layers: ready layers, layers that stream, and their indexes.

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

words! {
    /// How work on a ready layer ended.
    ReadyMade {
        Offered => "offered",
        /// The layer has no index, or may not be offered.
        Refused => "refused",
        Failed => "failed",
    }

    /// How work on an index of a layer ended.
    IndexWork {
        /// Made here, from the whole layer.
        Built => "built",
        /// No index of the layer can be made.
        Refused => "refused",
        Failed => "failed",
        /// The index came from another member or from the object store.
        Fetched => "fetched",
        /// A fetched index was dropped: no member of the cluster has signed it, or it is not consistent.
        Unbelieved => "unbelieved",
        /// A fetched index agrees with the whole layer.
        Proven => "proven",
        /// A fetched index disagrees with the whole layer.
        Disproved => "disproved",
    }

    /// Where an index was made.
    IndexMade {
        Here => "here",
        Elsewhere => "elsewhere",
    }

    /// How an offer of an image that was about to start ended.
    LazyOffer {
        /// The layers are mounted before they are whole on this node.
        Offered => "offered",
        /// All of its layers were ready.
        Ready => "ready",
        /// A layer has no index that this node could get.
        NoIndex => "no-index",
        /// The image may not be offered, or is too small.
        Refused => "refused",
        /// The offer took too long, and the runtime began to pull.
        Late => "late",
        Failed => "failed",
    }

    /// How a read of a layer that is not whole on this node was answered.
    LazyRead {
        /// With bytes that were here already.
        Here => "here",
        /// With bytes that were fetched for the read.
        Waited => "waited",
        Failed => "failed",
    }

    /// The state of a ready file.
    ReadyState {
        /// No snapshot refers to it.
        Offered => "offered",
        InUse => "in-use",
        /// Set aside, to be removed.
        Aside => "aside",
    }

    /// Why a ready file was removed.
    ReadyCause {
        Room => "room",
        Expired => "expired",
        Withdrawn => "withdrawn",
    }
}
