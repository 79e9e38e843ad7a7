//! The runtimes' messages, with the fields that the watcher reads.
//!
//! The field numbers are those of containerd's `api/services/*/v1/*.proto` and of Kubernetes' `runtime/v1/api.proto`.
//! protobuf skips fields that a message here does not have, so a container's long specification is never kept. Writing
//! the messages by hand spares the build a protobuf compiler.

pub mod containerd;
pub mod cri;

/// A question or an answer without fields.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Empty {}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Timestamp {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
}
