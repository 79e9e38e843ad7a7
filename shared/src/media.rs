//! Media types of manifests.

/// The `Accept` header of every request to an upstream, for all clients (promise P3): one client's own `Accept` must
/// not decide what the next client gets.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.oci.artifact.manifest.v1+json, */*;q=0.1";

/// An OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Docker's manifest list: its index.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Bytes of the largest manifest that is kept; the distribution-spec asks for at least 4 MiB. A larger one is passed
/// on.
pub const MAX_MANIFEST: u64 = 4 << 20;

/// The fields by which a manifest tells its type.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marks {
    /// A number in any notation: registries do not check how it is written.
    schema_version: Option<f64>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

/// The media type of a manifest, judged by its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// This type, by the manifest's own field or by its shape.
    Is(String),
    /// Docker's schema 1. It is signed inline, so its bytes do not hash to its digest, and cannot be verified.
    Schema1,
    /// The bytes do not tell the type.
    Unknown,
}

/// The media type of a manifest, by its bytes. `told` is the origin's `Content-Type`, and only decides between types of
/// the same shape. The header of a mirror or a member does not count.
pub fn kind(bytes: &[u8], told: Option<&str>) -> Kind {
    let Ok(marks) = serde_json::from_slice::<Marks>(bytes) else {
        return Kind::Unknown;
    };
    let own = marks.media_type.filter(|own| is_media_type(own));
    if marks.schema_version == Some(1.0) || own.as_deref().is_some_and(is_schema1) {
        return Kind::Schema1;
    }
    if let Some(own) = own {
        return Kind::Is(own);
    }
    let shaped = match (&marks.manifests, &marks.layers, &marks.config) {
        (Some(_), None, None) => [OCI_INDEX, DOCKER_LIST],
        (None, Some(_), _) | (None, _, Some(_)) => [OCI_MANIFEST, DOCKER_MANIFEST],
        _ => return Kind::Unknown,
    };
    let told = told.and_then(|told| told.split(';').next()).map(str::trim);
    let of_shape = shaped.into_iter().find(|shape| told == Some(*shape));
    Kind::Is(of_shape.unwrap_or(shaped[0]).to_owned())
}

/// Whether a media type is Docker's schema 1.
pub fn is_schema1(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
}

/// Whether the text is a `type/subtype` that a header may contain.
fn is_media_type(text: &str) -> bool {
    let token = |part: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b);
        !part.is_empty() && part.bytes().all(plain)
    };
    let parts = text.split_once('/');
    text.len() <= 255 && parts.is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

/// Whether these bytes are a manifest of any kind: a JSON object with a schema version or a media type. The
/// `Content-Type` does not count, since plain file servers send any type for a manifest.
pub fn is_manifest(bytes: &[u8]) -> bool {
    serde_json::from_slice(bytes)
        .is_ok_and(|marks: Marks| marks.schema_version.is_some() || marks.media_type.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_tell_the_type() {
        let is = |media_type: &str| Kind::Is(media_type.to_owned());
        let custom = "application/vnd.example+json";
        for (text, told, kind_is) in [
            (
                r#"{"schemaVersion":2,"mediaType":"application/vnd.example+json","layers":[]}"#,
                Some(OCI_INDEX),
                is(custom),
            ),
            (r#"{"schemaVersion":2,"manifests":[]}"#, None, is(OCI_INDEX)),
            (
                r#"{"schemaVersion":2,"manifests":[]}"#,
                Some(DOCKER_LIST),
                is(DOCKER_LIST),
            ),
            (
                r#"{"schemaVersion":2,"manifests":[]}"#,
                Some(OCI_MANIFEST),
                is(OCI_INDEX),
            ),
            (
                r#"{"schemaVersion":2,"manifests":[]}"#,
                Some("text/html"),
                is(OCI_INDEX),
            ),
            (
                r#"{"schemaVersion":2,"config":{},"layers":[]}"#,
                None,
                is(OCI_MANIFEST),
            ),
            (
                r#"{"schemaVersion":2,"config":{},"layers":[]}"#,
                Some(DOCKER_MANIFEST),
                is(DOCKER_MANIFEST),
            ),
            (
                r#"{"schemaVersion":2,"config":{}}"#,
                Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
                is(DOCKER_MANIFEST),
            ),
            (
                r#"{"schemaVersion":2,"layers":[]}"#,
                Some(OCI_INDEX),
                is(OCI_MANIFEST),
            ),
            (
                r#"{"schemaVersion":2.0,"layers":[]}"#,
                None,
                is(OCI_MANIFEST),
            ),
            // Both shapes at once, or none: each client reads it differently.
            (
                r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#,
                Some(OCI_INDEX),
                Kind::Unknown,
            ),
            (r#"{"schemaVersion":2}"#, Some(OCI_INDEX), Kind::Unknown),
            ("{}", Some(OCI_INDEX), Kind::Unknown),
            ("<html>", Some(OCI_INDEX), Kind::Unknown),
            // Media types that no header can contain.
            (
                r#"{"mediaType":"a/b\r\nX: y","layers":[]}"#,
                None,
                is(OCI_MANIFEST),
            ),
            (
                r#"{"mediaType":"text","layers":[]}"#,
                None,
                is(OCI_MANIFEST),
            ),
            (r#"{"mediaType":"","layers":[]}"#, None, is(OCI_MANIFEST)),
            (
                r#"{"schemaVersion":1,"signatures":[]}"#,
                Some(OCI_MANIFEST),
                Kind::Schema1,
            ),
            (
                r#"{"schemaVersion":1,"mediaType":"application/vnd.oci.image.index.v1+json"}"#,
                None,
                Kind::Schema1,
            ),
            (
                r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v1+prettyjws"}"#,
                None,
                Kind::Schema1,
            ),
        ] {
            assert_eq!(kind(text.as_bytes(), told), kind_is, "{text} {told:?}");
        }
    }

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
