//! The content of image manifests, and the entries of an index that are for this node. Pure.

use larder_shared::digest::Digest;
use serde::Deserialize;

/// An index or a manifest, reduced to the fields that matter here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Known {
    /// A manifest: its config and layers.
    Manifest {
        config: Option<Digest>,
        layers: Vec<Digest>,
    },
    /// An index: its manifests for this node's platform, in the index's order.
    Index(Vec<Digest>),
    /// Neither, or larger than any manifest of an image.
    Opaque,
}

/// The platform that an image is built for, in the words of the OCI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Platform {
    pub os: &'static str,
    pub architecture: &'static str,
}

impl Platform {
    /// This node's. Variants of one architecture (`v7`, `v8`) are not distinguished: the runtime has the one that it
    /// chose.
    pub fn own() -> Self {
        Self {
            os: std::env::consts::OS,
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "x86" => "386",
                "aarch64" => "arm64",
                "powerpc64" => "ppc64le",
                "loongarch64" => "loong64",
                other => other,
            },
        }
    }
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Vec<Entry>,
    config: Option<Entry>,
    #[serde(default)]
    layers: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: Option<String>,
    platform: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

impl Entry {
    fn digest(&self) -> Option<Digest> {
        self.digest.as_ref()?.parse().ok()
    }
}

/// Reads the bytes of an index or a manifest.
pub fn read(bytes: &[u8], own: Platform) -> Known {
    let Ok(document) = serde_json::from_slice::<Document>(bytes) else {
        return Known::Opaque;
    };
    if !document.manifests.is_empty() {
        let is_own = |entry: &&Entry| {
            let named = entry.platform.as_ref();
            named.is_some_and(|named| named.os == own.os && named.architecture == own.architecture)
        };
        let of_platform = document.manifests.iter().filter(is_own);
        return Known::Index(of_platform.filter_map(Entry::digest).collect());
    }
    if document.config.is_none() && document.layers.is_empty() {
        return Known::Opaque;
    }
    Known::Manifest {
        config: document.config.as_ref().and_then(Entry::digest),
        layers: document.layers.iter().filter_map(Entry::digest).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMD64: Platform = Platform {
        os: "linux",
        architecture: "amd64",
    };

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    #[test]
    fn the_manifests_of_this_nodes_platform_are_taken_in_their_order() {
        let entry = |name: &str, os: &str, architecture: &str| serde_json::json!({"digest": digest(name), "platform": {"os": os, "architecture": architecture}});
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [
            entry("arm", "linux", "arm64"),
            entry("one", "linux", "amd64"),
            {"digest": digest("plain")},
            entry("attestation", "unknown", "unknown"),
            entry("windows", "windows", "amd64"),
            entry("two", "linux", "amd64"),
        ]});
        assert_eq!(
            read(index.to_string().as_bytes(), AMD64),
            Known::Index(vec![digest("one"), digest("two")])
        );
        let arm = Platform {
            architecture: "riscv64",
            ..AMD64
        };
        assert_eq!(
            read(index.to_string().as_bytes(), arm),
            Known::Index(Vec::new())
        );
    }

    #[test]
    fn a_manifest_names_its_config_and_its_layers_in_order() {
        let manifest = serde_json::json!({"config": {"digest": digest("c")},
            "layers": [{"digest": digest("b")}, {"digest": digest("a")}, {"digest": "md5:0"}]});
        assert_eq!(
            read(manifest.to_string().as_bytes(), AMD64),
            Known::Manifest {
                config: Some(digest("c")),
                layers: vec![digest("b"), digest("a")],
            }
        );
        for other in [
            "",
            "[]",
            "{}",
            "\u{0}",
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
        ] {
            assert_eq!(read(other.as_bytes(), AMD64), Known::Opaque, "{other}");
        }
    }
}
