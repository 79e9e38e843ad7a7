//! Media types of manifests.

/// What larder asks upstreams for, always and for everyone (promise P3): a client's own `Accept` must not decide what
/// the next client gets. Schema 1 comes last: it is passed through for the registries that have nothing else.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.oci.artifact.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.2, */*;q=0.1";

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Bytes of the largest manifest that is kept and served (the distribution-spec asks for at least 4 MiB).
pub const MAX_MANIFEST: u64 = 4 << 20;

/// Docker's schema 1 is signed inline: its bytes do not hash to its digest, so it is passed on and never kept.
pub fn is_schema1(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
}
