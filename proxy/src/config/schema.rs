//! A JSON schema of the file, for editors and for programs that make the file from another format.
//!
//! The reader in `meaning` decides what is valid, and the schema restates it. A test compares the keys of each section
//! with those that the reader asks for. The schema leaves out rules that join several keys. Where the reader is lenient
//! (`ttl = 0`, spaces around a size), the schema asks for the usual form.

mod upstreams;
mod warm;

use serde_json::{Map, Value, json};

use super::Config;

const TIME: &str = r"^(0+|[0-9]+(d|h|m|s|ms)([0-9]+(h|m|s|ms))*)$";
const SIZE: &str = r"^(0+|[0-9]+(\.[0-9]+)? ?([kKMGTPE]i?)?B|[0-9]+(\.[0-9]+)? ?[kKMGTPE]i?|([0-9]|[1-9][0-9]|100)%)$";
const BYTES: &str = r"^(0+|[0-9]+(\.[0-9]+)? ?([kKMGTPE]i?)?B|[0-9]+(\.[0-9]+)? ?[kKMGTPE]i?)$";
const RATE: &str = r"^[0-9]+(\.[0-9]+)? ?([kKMGTPE]i?)?B$";
const ADDRESS: &str = r"^([0-9]+\.[0-9]+\.[0-9]+\.[0-9]+|\[[0-9A-Fa-f:.]+\]):[0-9]+$";
const ADDRESS_OR_OFF: &str = r"^(off|([0-9]+\.[0-9]+\.[0-9]+\.[0-9]+|\[[0-9A-Fa-f:.]+\]):[0-9]+)$";
const REGISTRY: &str = r"^[A-Za-z0-9._:\[\]-]+$";
const REGISTRY_PATTERN: &str = r"^[A-Za-z0-9*._:\[\]-]+$";
const REPOSITORIES: &str = r"^(namespace:[a-z0-9-]+|[A-Za-z0-9*._:\[\]-]+/[A-Za-z0-9*._:/\[\]-]+)$";
const HOST: &str = r"^[A-Za-z0-9._:\[\]-]+$";
const SOURCE: &str = r"^(node|[0-9A-Fa-f.:]+(/[0-9]+)?)$";
const ABSOLUTE: &str = r"^/";
const ABSOLUTE_OR_OFF: &str = r"^(off$|/)";

impl Config {
    /// The JSON schema (draft 7, which Helm and editors read) of the configuration file.
    pub fn schema() -> Value {
        let mut schema = table(
            "larder's configuration",
            &[
                ("registry", registry()),
                ("store", store()),
                ("runtime", runtime()),
                ("streaming", streaming()),
                ("tags", tags()),
                ("access", access()),
                ("upstreams", upstreams::upstreams()),
                ("cluster", cluster()),
                ("warm", warm::warm()),
                ("telemetry", telemetry()),
                ("admin", admin()),
            ],
        );
        schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
        schema
    }
}

/// A table with these keys and no others.
fn table(description: &str, keys: &[(&str, Value)]) -> Value {
    let keys: Map<String, Value> = keys
        .iter()
        .map(|(key, schema)| ((*key).to_owned(), schema.clone()))
        .collect();
    json!({
        "description": description,
        "type": "object",
        "additionalProperties": false,
        "properties": keys,
    })
}

fn text(description: &str, pattern: &str) -> Value {
    json!({ "description": description, "type": "string", "pattern": pattern })
}

fn texts(description: &str, pattern: &str) -> Value {
    json!({
        "description": description,
        "type": "array",
        "items": { "type": "string", "pattern": pattern },
    })
}

fn some_texts(description: &str, pattern: &str) -> Value {
    let mut list = texts(description, pattern);
    list["minItems"] = json!(1);
    list
}

fn path(description: &str) -> Value {
    text(description, r"^[^~]")
}

fn absolute(description: &str) -> Value {
    text(description, ABSOLUTE)
}

fn flag(description: &str) -> Value {
    json!({ "description": description, "type": "boolean" })
}

fn choice(description: &str, words: &[&str]) -> Value {
    json!({ "description": description, "enum": words })
}

fn registry() -> Value {
    table(
        "the port that the container runtime pulls from",
        &[
            (
                "listen",
                text(
                    "the address that the container runtime connects to",
                    ADDRESS,
                ),
            ),
            (
                "default_upstream",
                text("the registry for requests that name none", REGISTRY),
            ),
            (
                "allow",
                texts("registries that clients may pull from", REGISTRY_PATTERN),
            ),
            (
                "deny",
                texts(
                    "registries that clients may not pull from",
                    REGISTRY_PATTERN,
                ),
            ),
            (
                "allow_from",
                some_texts(
                    "addresses that may connect: node, addresses, networks",
                    SOURCE,
                ),
            ),
            (
                "allow_hosts",
                texts(
                    "names that clients may use for this node in Host, besides its own",
                    HOST,
                ),
            ),
        ],
    )
}

fn store() -> Value {
    table(
        "the node tier on disk",
        &[
            ("path", path("the directory of the node tier")),
            (
                "max_size",
                text("the most that the node tier may hold", SIZE),
            ),
            (
                "min_free",
                text("the space that must stay free on the file system", SIZE),
            ),
            (
                "ttl",
                text(
                    "how long a blob stays after its last use; 0: until space is needed",
                    TIME,
                ),
            ),
            (
                "complete_after",
                text(
                    "larder completes a blob once it has this much of it by ranges; 0: never",
                    SIZE,
                ),
            ),
        ],
    )
}

fn runtime() -> Value {
    table(
        "what this node's container runtime holds and uses",
        &[
            ("file", text("the watcher's file, or off", ABSOLUTE_OR_OFF)),
            (
                "content",
                text("containerd's content store, or off", ABSOLUTE_OR_OFF),
            ),
        ],
    )
}

fn streaming() -> Value {
    table(
        "layers that the container runtime mounts instead of unpacking them",
        &[
            (
                "mode",
                choice(
                    "off; ready: larder offers layers that are whole on this node; lazy: the same, and layers that are not here yet",
                    &["off", "ready", "lazy"],
                ),
            ),
            (
                "directory",
                absolute("one of containerd's layer_content_caches"),
            ),
            (
                "holder",
                absolute("the socket of larder hold, with mode = \"lazy\""),
            ),
            (
                "never",
                texts(
                    "images that larder never offers: REGISTRY/REPOSITORY with *, or namespace:NAME",
                    REPOSITORIES,
                ),
            ),
            (
                "private",
                flag("whether larder offers layers that not every client may read"),
            ),
            (
                "min_layer",
                text(
                    "larder offers images with a layer of at least this size",
                    BYTES,
                ),
            ),
        ],
    )
}

fn tags() -> Value {
    table(
        "when larder revalidates a tag, and what a cached tag is worth",
        &[
            (
                "fresh_for",
                text("how long a tag is fresh after its revalidation", TIME),
            ),
            (
                "timeout",
                text("how long a revalidation may take, 4s at the most", TIME),
            ),
            (
                "when_unreachable",
                choice(
                    "the answer for a cached tag while the registry is unreachable",
                    &["serve", "fail"],
                ),
            ),
            (
                "when_deleted",
                choice(
                    "the answer for a cached tag that the registry has deleted",
                    &["serve", "forget"],
                ),
            ),
        ],
    )
}

fn access() -> Value {
    table(
        "how long larder remembers that the origin accepted a credential",
        &[
            (
                "ttl",
                text("how long a credential needs no new proof", TIME),
            ),
            (
                "grace",
                text(
                    "how much longer it counts while the registry is unreachable",
                    TIME,
                ),
            ),
        ],
    )
}

fn cluster() -> Value {
    let mut tls = table(
        "PEM files of mutual TLS",
        &[
            (
                "ca",
                absolute("the authority that signs members' certificates"),
            ),
            ("cert", absolute("this node's certificate")),
            ("key", absolute("its private key")),
            (
                "name",
                text("the DNS name in every member's certificate", "."),
            ),
        ],
    );
    tls["required"] = json!(["ca", "cert", "key"]);
    let members = text(
        "dns:NAME:PORT, or a list of addresses",
        r"^dns:[A-Za-z0-9._-]+(:[0-9]+)?$",
    );
    table(
        "the other members",
        &[
            (
                "listen",
                text("the address that members connect to", ADDRESS_OR_OFF),
            ),
            (
                "advertise",
                text("this node's address among the members", ADDRESS),
            ),
            (
                "members",
                json!({ "anyOf": [members, some_texts("the members' addresses", ADDRESS)] }),
            ),
            ("tls", json!({ "anyOf": [{ "const": "off" }, tls] })),
            (
                "key",
                absolute("a file with the secret that all members share"),
            ),
            (
                "copies",
                json!({
                    "description": "so many living members hold what is used; 1 makes no copies",
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 8,
                }),
            ),
            (
                "copy_rate",
                text("bytes a second that a node fetches for copies", RATE),
            ),
            (
                "copies_private",
                flag("whether copies are made of what is not known to be public"),
            ),
            ("object_store", object_store()),
        ],
    )
}

fn object_store() -> Value {
    let mut object_store = table(
        "an object store behind all members",
        &[
            (
                "url",
                text(
                    "s3://BUCKET/PREFIX, gs://…, az://… or file:///DIR",
                    r"^(s3://|gs://|az://|file:///)",
                ),
            ),
            (
                "options",
                json!({
                    "description": "further options of the object store's client; secrets come from the environment",
                    "type": "object",
                    "propertyNames": {
                        "not": { "pattern": "secret|password|token|account_key|sas_|service_account_key" },
                    },
                    "additionalProperties": { "type": "string" },
                }),
            ),
            (
                "max_rate",
                text("the most bytes per second that a node writes there", RATE),
            ),
        ],
    );
    object_store["required"] = json!(["url"]);
    object_store
}

fn telemetry() -> Value {
    table(
        "metrics, health, logs",
        &[
            (
                "listen",
                text(
                    "the address of metrics, health and the status page",
                    ADDRESS_OR_OFF,
                ),
            ),
            (
                "expose",
                text(
                    "one more address of metrics and health, without the status page",
                    ADDRESS_OR_OFF,
                ),
            ),
            (
                "log",
                text("the log filter: a level, or info,larder::fill=debug", "."),
            ),
            (
                "log_format",
                choice("the form of log lines", &["text", "json"]),
            ),
        ],
    )
}

fn admin() -> Value {
    table(
        "the socket of the command line",
        &[("socket", path("the path of the socket"))],
    )
}
