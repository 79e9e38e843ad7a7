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

/// Whether these bytes are a manifest of any kind: a JSON object that tells its schema or its own type. Its `Content-Type`
/// does not decide, since plain file servers call a manifest what they like.
pub fn is_manifest(bytes: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marks {
        schema_version: Option<u64>,
        media_type: Option<String>,
    }
    serde_json::from_slice(bytes)
        .is_ok_and(|marks: Marks| marks.schema_version.is_some() || marks.media_type.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_manifest() {
        for (text, is) in [
            (r#"{"schemaVersion":2}"#, true),
            (r#" {"layers":[],"schemaVersion":2,"mediaType":"x"} "#, true),
            (
                r#"{"mediaType":"application/vnd.oci.artifact.manifest.v1+json"}"#,
                true,
            ),
            (r#"{"errors":[]}"#, false),
            ("[2]", false),
            (r#"{"schemaVersion":2"#, false),
            ("<!doctype html>", false),
            ("", false),
        ] {
            assert_eq!(is_manifest(text.as_bytes()), is, "{text}");
        }
    }
}
