//! The schema of `[warm]` and its sets.

use serde_json::{Value, json};

use super::{RATE, SIZE, TIME, absolute, choice, flag, some_texts, table, text, texts};

const PATH: &str = r"^(/[A-Za-z0-9._-]+)+$";
const SET: &str = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$";
const PLATFORM: &str = r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?$";
const TAG: &str = r"^[A-Za-z0-9_][A-Za-z0-9._-]*$";
const TAG_PATTERN: &str = r"^[A-Za-z0-9*#._-]+$";
const REPOSITORIES: &str = r"^[A-Za-z0-9*._:\[\]-]+/[A-Za-z0-9*._/:\[\]-]+$";
const REPOSITORY: &str = r"^[A-Za-z0-9._:\[\]-]+/[^@]+$";

pub(super) fn warm() -> Value {
    table(
        "sets of images that larder fetches before a client asks, and keeps",
        &[
            (
                "refresh",
                text("how often registries are asked what is new", TIME),
            ),
            (
                "path",
                text("the path of the sets' status on the telemetry port", PATH),
            ),
            (
                "expose",
                flag("whether the status is served on [telemetry] expose, too"),
            ),
            (
                "max_size",
                text(
                    "the most that all sets may hold; a percentage is of [store] max_size",
                    SIZE,
                ),
            ),
            (
                "max_rate",
                text("bytes a second that warming reads, at most", RATE),
            ),
            ("at_once", number("images that a node fetches at once", 16)),
            ("labels", words("this node's labels")),
            (
                "labels_file",
                absolute("a file with this node's labels, as the downward API writes it"),
            ),
            (
                "sets",
                json!({
                    "description": "the sets, by name",
                    "type": "object",
                    "propertyNames": { "pattern": SET },
                    "additionalProperties": set(),
                }),
            ),
        ],
    )
}

/// A whole number, as the values of charts have it.
fn number(description: &str, most: u32) -> Value {
    json!({ "description": description, "type": "integer", "minimum": 1, "maximum": most })
}

fn words(description: &str) -> Value {
    json!({
        "description": description,
        "type": "object",
        "additionalProperties": { "type": "string" },
    })
}

fn set() -> Value {
    let mut set = table(
        "one set",
        &[
            (
                "nodes",
                words("labels that a node must have: a value, \"a|b\", or \"*\""),
            ),
            (
                "from",
                json!({
                    "description": "where the images come from",
                    "type": "array",
                    "minItems": 1,
                    "items": { "anyOf": [from_repository(), from_images(), from_seen()] },
                }),
            ),
            (
                "platforms",
                texts("platforms of the images; without one, the node's", PLATFORM),
            ),
            (
                "keep",
                text("how long an image that left the set is held", TIME),
            ),
            (
                "max_size",
                text(
                    "the most that this set may hold; a percentage is of [store] max_size",
                    SIZE,
                ),
            ),
        ],
    );
    set["required"] = json!(["from"]);
    set
}

fn from_repository() -> Value {
    let mut newest = table(
        "the newest images of which a tag matches",
        &[
            (
                "match",
                text(
                    "a pattern for tags: # is a number, * is anything",
                    TAG_PATTERN,
                ),
            ),
            ("count", number("so many images", 1000)),
        ],
    );
    newest["required"] = json!(["match", "count"]);
    let mut repository = table(
        "images of a repository",
        &[
            ("repository", text("REGISTRY/NAME", REPOSITORY)),
            (
                "list",
                choice(
                    "the way to the list of its tags",
                    &["auto", "gar", "ecr", "acr", "off"],
                ),
            ),
            ("tags", texts("these, always and first", TAG)),
            (
                "newest",
                json!({ "description": "the newest images", "type": "array", "items": newest }),
            ),
            (
                "skip",
                texts(
                    "patterns of tags that are not taken for the newest",
                    TAG_PATTERN,
                ),
            ),
            (
                "max_age",
                text("the age of the push, where the list tells it", TIME),
            ),
        ],
    );
    repository["required"] = json!(["repository"]);
    repository
}

fn from_images() -> Value {
    let mut images = table("named images", &[("images", some_texts("images", "."))]);
    images["required"] = json!(["images"]);
    images
}

fn from_seen() -> Value {
    let mut seen = table(
        "what the members' container runtimes pulled or use",
        &[
            ("seen", text("pulled within this time, or in use", TIME)),
            ("on", number("on so many nodes at the least", 10_000)),
            (
                "match",
                texts("patterns over REGISTRY/NAME: these only", REPOSITORIES),
            ),
            (
                "skip",
                texts("patterns over REGISTRY/NAME: not these", REPOSITORIES),
            ),
        ],
    );
    seen["required"] = json!(["seen"]);
    seen
}
