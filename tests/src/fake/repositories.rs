//! The fake's content, and its answers without faults.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde_json::{Value, json};

use super::content::{Algorithm, Content};
use super::reply::Reply;
use super::request::{Kind, Request};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[derive(Debug, Default)]
struct Repository {
    blobs: HashMap<String, Content>,
    /// By digest; in the order of digests, so that listings are stable.
    manifests: BTreeMap<String, Manifest>,
    tags: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Manifest {
    media_type: String,
    bytes: Bytes,
}

/// All repositories by name.
#[derive(Debug, Default)]
pub(super) struct Repositories(HashMap<String, Repository>);

impl Repositories {
    fn at(&mut self, name: &str) -> &mut Repository {
        self.0.entry(name.to_owned()).or_default()
    }

    pub(super) fn put_blob(&mut self, name: &str, digest: &str, content: Content) {
        self.at(name).blobs.insert(digest.to_owned(), content);
    }

    pub(super) fn put_manifest(
        &mut self,
        name: &str,
        algorithm: Algorithm,
        media_type: &str,
        bytes: Bytes,
    ) -> String {
        let digest = Content::bytes(bytes.clone()).digest(algorithm);
        let media_type = media_type.to_owned();
        let manifest = Manifest { media_type, bytes };
        self.at(name).manifests.insert(digest.clone(), manifest);
        digest
    }

    pub(super) fn tag(&mut self, name: &str, tag: &str, digest: &str) {
        let repository = self.at(name);
        repository.tags.insert(tag.to_owned(), digest.to_owned());
    }

    pub(super) fn delete_tag(&mut self, name: &str, tag: &str) {
        self.at(name).tags.remove(tag);
    }

    /// Deletes the tags that point to it, too.
    pub(super) fn delete_manifest(&mut self, name: &str, digest: &str) {
        let repository = self.at(name);
        repository.manifests.remove(digest);
        repository.tags.retain(|_, target| target != digest);
    }

    pub(super) fn delete_blob(&mut self, name: &str, digest: &str) {
        self.at(name).blobs.remove(digest);
    }

    /// Answers a GET or HEAD of content; access has been checked.
    pub(super) fn answer(&self, request: &Request) -> Reply {
        let Some(repository) = self.0.get(&request.repository) else {
            return Reply::error(404, "NAME_UNKNOWN", "repository not known");
        };
        let reference = request.reference.as_str();
        match request.kind {
            Kind::Manifest => repository.manifest(reference),
            Kind::Blob | Kind::Cdn => repository.blob(request),
            Kind::Tags => repository.tags(request),
            Kind::Referrers if !is_digest(reference) => bad_digest(),
            Kind::Referrers => repository.referrers(request),
            Kind::Ping | Kind::Token | Kind::Other => {
                Reply::error(404, "NOT_FOUND", "no such page")
            }
        }
    }
}

impl Repository {
    fn manifest(&self, reference: &str) -> Reply {
        let digest = self.tags.get(reference).map_or(reference, String::as_str);
        match self.manifests.get(digest) {
            Some(manifest) => Reply::ok(&manifest.media_type, manifest.bytes.clone())
                .with("Docker-Content-Digest", digest),
            None if reference.contains(':') && !is_digest(reference) => bad_digest(),
            None => Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        }
    }

    fn blob(&self, request: &Request) -> Reply {
        let digest = request.reference.as_str();
        let Some(content) = self.blobs.get(digest) else {
            return if is_digest(digest) {
                Reply::error(404, "BLOB_UNKNOWN", "blob unknown")
            } else {
                bad_digest()
            };
        };
        let reply = Reply::new(200, content.clone())
            .with("Content-Type", "application/octet-stream")
            .with("Accept-Ranges", "bytes")
            .with("ETag", &format!("\"{digest}\""));
        // An object store knows nothing of digests.
        let reply = if request.kind == Kind::Blob {
            reply.with("Docker-Content-Digest", digest)
        } else {
            reply
        };
        reply.ranged(request.header("range"))
    }

    fn tags(&self, request: &Request) -> Reply {
        let name = &request.repository;
        let last = request.parameters("last").pop().unwrap_or_default();
        let limit = request.parameters("n").pop();
        let limit = limit.and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
        let mut after = self.tags.keys().filter(|tag| **tag > last);
        let tags: Vec<_> = after.by_ref().take(limit).collect();
        let body = json!({"name": name, "tags": tags}).to_string();
        let reply = Reply::ok("application/json", body);
        match (tags.last(), after.next()) {
            (Some(last), Some(_)) => {
                let link = format!("</v2/{name}/tags/list?n={limit}&last={last}>; rel=\"next\"");
                reply.with("Link", &link)
            }
            _ => reply,
        }
    }

    fn referrers(&self, request: &Request) -> Reply {
        let filter = request.parameters("artifactType").pop();
        let mut manifests = Vec::new();
        for (digest, manifest) in &self.manifests {
            let Ok(json) = serde_json::from_slice::<Value>(&manifest.bytes) else {
                continue;
            };
            if json["subject"]["digest"] != request.reference.as_str() {
                continue;
            }
            let artifact_type = match &json["artifactType"] {
                Value::Null => json["config"]["mediaType"].clone(),
                named => named.clone(),
            };
            if filter.as_ref().is_some_and(|only| artifact_type != **only) {
                continue;
            }
            let mut descriptor = json!({
                "mediaType": manifest.media_type,
                "digest": digest,
                "size": manifest.bytes.len(),
                "artifactType": artifact_type,
            });
            if json["annotations"].is_object() {
                descriptor["annotations"] = json["annotations"].clone();
            }
            manifests.push(descriptor);
        }
        let body = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let reply = Reply::ok(INDEX, body.to_string());
        match filter {
            Some(_) => reply.with("OCI-Filters-Applied", "artifactType"),
            None => reply,
        }
    }
}

fn is_digest(reference: &str) -> bool {
    let hex = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
    match reference.split_once(':') {
        Some(("sha256", digits)) => hex(digits, 64),
        Some(("sha512", digits)) => hex(digits, 128),
        _ => false,
    }
}

fn bad_digest() -> Reply {
    Reply::error(400, "DIGEST_INVALID", "not a digest")
}
