//! The schema of `[upstreams."NAME"]`.

use serde_json::{Value, json};

use super::{REGISTRY, TIME, absolute, choice, flag, path, some_texts, table, text};

const TAG_PATTERN: &str = r"^[A-Za-z0-9*._-]+$";
const URL: &str = r"^https?://[^@?#/]+[^@?#]*$";
const ALIAS: &str = r"^[a-z0-9]+([._-][a-z0-9]+)*$";
const HELPER: &str = r"^[A-Za-z0-9._-]+$";
const WORD: &str = r"^[!-~]+$";

/// The sections of registries, by name.
pub(super) fn upstreams() -> Value {
    json!({
        "description": "how larder reaches registries, by their names in image references",
        "type": "object",
        "propertyNames": { "pattern": REGISTRY },
        "additionalProperties": upstream(),
    })
}

fn upstream() -> Value {
    let mut rule = table(
        "freshness of the tags that match; the first match counts",
        &[
            ("match", text("a pattern for the tag", TAG_PATTERN)),
            (
                "fresh_for",
                text("takes precedence over [tags] fresh_for", TIME),
            ),
        ],
    );
    rule["required"] = json!(["match", "fresh_for"]);
    table(
        "one registry",
        &[
            (
                "endpoints",
                some_texts("URLs, asked in this order; the last one is the origin", URL),
            ),
            (
                "ca",
                path("a bundle of certificate authorities to trust, PEM"),
            ),
            (
                "insecure_skip_verify",
                flag("accept any certificate of the server"),
            ),
            (
                "client_cert",
                path("the client certificate that larder shows, PEM; with client_key"),
            ),
            ("client_key", path("the key of client_cert, PEM")),
            (
                "proves_access",
                flag("an answer of any endpoint proves access, not only the origin's"),
            ),
            (
                "alias",
                text("the part of a path that stands for this registry", ALIAS),
            ),
            ("ttl", text("takes precedence over [store] ttl", TIME)),
            (
                "tags",
                json!({ "description": "freshness by tag", "type": "array", "items": rule }),
            ),
            (
                "access",
                choice(
                    "which clients get the content that the node's own credentials open",
                    &["per-credential", "shared"],
                ),
            ),
            ("credentials", credentials()),
        ],
    )
}

fn credentials() -> Value {
    let mut credentials = table(
        "where the node's own credentials come from",
        &[
            (
                "docker_config",
                absolute("a Docker config.json, or its directory"),
            ),
            (
                "username_file",
                absolute("a file with the user's name; with password_file"),
            ),
            (
                "password_file",
                absolute("a file with the password; with username_file"),
            ),
            (
                "helper",
                text(
                    "a credential helper: NAME of the program docker-credential-NAME",
                    HELPER,
                ),
            ),
            (
                "kubelet_config",
                absolute("the kubelet's CredentialProviderConfig; with bin_dir"),
            ),
            (
                "bin_dir",
                absolute("the directory of the kubelet's plugins; with kubelet_config"),
            ),
            (
                "identity",
                choice(
                    "the cloud whose identity this is",
                    &["google", "aws", "azure"],
                ),
            ),
            ("key_file", absolute("keys that the cloud has made")),
            ("token_file", absolute("a projected token")),
            ("audience", text("for whom the token is", WORD)),
            ("role", text("the role that is taken on", WORD)),
            ("client_id", text("the application or identity", WORD)),
            ("tenant_id", text("its directory", WORD)),
            (
                "metadata_endpoint",
                text("the metadata server", r"^http://"),
            ),
            ("token_endpoint", text("the token server", URL)),
            (
                "api_endpoint",
                text("the API of ECR or of Artifact Registry", URL),
            ),
        ],
    );
    credentials["minProperties"] = json!(1);
    credentials["dependencies"] = json!({
        "username_file": ["password_file"],
        "password_file": ["username_file"],
        "kubelet_config": ["bin_dir"],
        "bin_dir": ["kubelet_config"],
        "key_file": ["identity"],
        "token_file": ["identity"],
        "audience": ["identity"],
        "role": ["identity"],
        "client_id": ["identity"],
        "tenant_id": ["identity"],
        "api_endpoint": ["identity"],
        "metadata_endpoint": ["identity"],
        "token_endpoint": ["identity"],
    });
    credentials
}
