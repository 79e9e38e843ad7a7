//! The schema has exactly the keys that the reader asks for, in every section.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

/// The keys that the reader knows in a table. Its error lists them if a key resembles none.
fn asked(text: &str) -> BTreeSet<String> {
    let error = parse(text).expect_err(text).to_string();
    let (_, list) = error
        .split_once("are ")
        .unwrap_or_else(|| panic!("{text}: {error}"));
    list.split(", ")
        .map(|key| key.trim_matches(['`', '[', ']']).to_owned())
        .collect()
}

fn said(schema: &Value) -> BTreeSet<String> {
    assert_eq!(schema["additionalProperties"], false, "{schema}");
    let keys = schema["properties"].as_object().unwrap();
    keys.keys().cloned().collect()
}

#[test]
fn every_section_has_the_same_keys_in_the_schema_and_in_the_reader() {
    let schema = Config::schema();
    let upstream = "/properties/upstreams/additionalProperties";
    let cluster = "/properties/cluster/properties";
    let set = "/properties/warm/properties/sets/additionalProperties";
    let from = format!("{set}/properties/from/items/anyOf");
    let rows = [
        ("", "zzzzzzzz = 1".to_owned()),
        (
            "/properties/registry",
            "[registry]\nzzzzzzzz = 1".to_owned(),
        ),
        ("/properties/store", "[store]\nzzzzzzzz = 1".to_owned()),
        ("/properties/runtime", "[runtime]\nzzzzzzzz = 1".to_owned()),
        (
            "/properties/streaming",
            "[streaming]\nzzzzzzzz = 1".to_owned(),
        ),
        ("/properties/tags", "[tags]\nzzzzzzzz = 1".to_owned()),
        ("/properties/access", "[access]\nzzzzzzzz = 1".to_owned()),
        (upstream, "[upstreams.\"a.b\"]\nzzzzzzzz = 1".to_owned()),
        (
            &format!("{upstream}/properties/tags/items"),
            "[[upstreams.\"a.b\".tags]]\nmatch = \"v\"\nfresh_for = \"1h\"\nzzzzzzzz = 1"
                .to_owned(),
        ),
        (
            &format!("{upstream}/properties/credentials"),
            "[upstreams.\"a.b\"]\ncredentials = { docker_config = \"/d\", zzzzzzzz = 1 }"
                .to_owned(),
        ),
        ("/properties/cluster", "[cluster]\nzzzzzzzz = 1".to_owned()),
        (
            &format!("{cluster}/tls/anyOf/1"),
            "[cluster]\ntls = { ca = \"/a\", cert = \"/b\", key = \"/c\", zzzzzzzz = 1 }"
                .to_owned(),
        ),
        (
            &format!("{cluster}/object_store"),
            "[cluster.object_store]\nurl = \"s3://b\"\nzzzzzzzz = 1".to_owned(),
        ),
        (
            "/properties/telemetry",
            "[telemetry]\nzzzzzzzz = 1".to_owned(),
        ),
        ("/properties/warm", "[warm]\nzzzzzzzz = 1".to_owned()),
        (
            set,
            "[warm.sets.a]\nfrom = [{ images = [\"a\"] }]\nzzzzzzzz = 1".to_owned(),
        ),
        (
            &format!("{from}/0"),
            "[[warm.sets.a.from]]\nrepository = \"a.b/c\"\ntags = [\"d\"]\nzzzzzzzz = 1".to_owned(),
        ),
        (
            &format!("{from}/0/properties/newest/items"),
            "[[warm.sets.a.from]]\nrepository = \"a.b/c\"\nnewest = [{ match = \"v#\", count = 1, zzzzzzzz = 1 }]"
                .to_owned(),
        ),
        (
            &format!("{from}/1"),
            "[[warm.sets.a.from]]\nimages = [\"a\"]\nzzzzzzzz = 1".to_owned(),
        ),
        ("/properties/admin", "[admin]\nzzzzzzzz = 1".to_owned()),
    ];
    for (place, text) in rows {
        let part = schema.pointer(place).unwrap_or_else(|| panic!("{place}"));
        assert_eq!(said(part), asked(&text), "{place}");
    }
}
