//! The files beside the chart agree with it: the schema of its values, the table of its values, the plain manifests,
//! the example for GitOps.

use std::fs;

use serde_json::{Value, json};

use crate::helm::{larder, objects, rendered, root, run, said, same, tool};

/// The values that the plain manifests are rendered with.
const MANIFESTS: [(&str, &str); 2] = [
    ("larder.yaml", "{}"),
    (
        "rewrite.yaml",
        "policies: {enabled: true, registries: [docker.io, ghcr.io, quay.io, registry.k8s.io]}",
    ),
];

#[test]
fn the_schema_of_the_values_holds_that_of_the_configuration() {
    let path = root().join("deploy/larder/values.schema.json");
    let mut schema: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let output = larder(&["config", "schema"]);
    assert!(output.status.success(), "{}", said(&output));
    let mut config: Value = serde_json::from_slice(&output.stdout).unwrap();
    config.as_object_mut().unwrap().remove("$schema");
    schema["properties"]["config"] = config;
    name_the_keys(&mut schema);
    same(
        &path,
        &(serde_json::to_string_pretty(&schema).unwrap() + "\n"),
    );
}

/// helm only says that a key is not allowed. With all keys' names in the schema, it also says which keys exist.
fn name_the_keys(schema: &mut Value) {
    if schema["additionalProperties"] == false
        && let Some(properties) = schema["properties"].as_object()
    {
        let keys: Vec<_> = properties.keys().cloned().collect();
        schema["propertyNames"] = json!({ "enum": keys });
    }
    match schema {
        Value::Object(all) => all.values_mut().for_each(name_the_keys),
        Value::Array(all) => all.iter_mut().for_each(name_the_keys),
        _ => {}
    }
}

/// One value of the chart: its key, its default, and its description.
struct Documented {
    path: String,
    default: String,
    words: String,
}

/// Reads `values.yaml` line by line: a comment, and the key that it belongs to.
fn documented(text: &str) -> Vec<Documented> {
    let (mut found, mut above, mut words) = (Vec::new(), Vec::<String>::new(), Vec::new());
    for line in text.lines() {
        let rest = line.trim_start();
        let depth = (line.len() - rest.len()) / 2;
        if let Some(comment) = rest.strip_prefix("# ") {
            words.push(comment.to_owned());
            continue;
        }
        let Some((key, default)) = rest.split_once(':') else {
            words.clear();
            continue;
        };
        above.truncate(depth);
        above.push(key.to_owned());
        let path = above.join(".");
        if default.is_empty() {
            // A comment may describe a group of values, before the first of them.
            words.clear();
            continue;
        }
        assert!(!words.is_empty(), "{path} in values.yaml has no comment");
        let (default, words) = (
            default.trim().to_owned(),
            std::mem::take(&mut words).join(" "),
        );
        found.push(Documented {
            path,
            default,
            words,
        });
    }
    found
}

#[test]
fn every_value_is_documented_in_the_table_of_the_readme() {
    let chart = root().join("deploy/larder");
    let values = documented(&fs::read_to_string(chart.join("values.yaml")).unwrap());
    assert!(values.len() > 60, "{} values", values.len());
    let rows: Vec<String> = values
        .iter()
        .map(|value| {
            let words = value.words.replace('|', "\\|");
            format!("| `{}` | `{}` | {words} |", value.path, value.default)
        })
        .collect();
    let rows = rows.join("\n");
    let path = chart.join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let begin = "| value | default | meaning |\n|---|---|---|\n";
    let (before, after) = readme.split_once(begin).expect("the table of values");
    let after = after.trim_start_matches(|c| c != '\n').trim_start();
    let rest = after.lines().skip_while(|line| line.starts_with('|'));
    let rest = rest.collect::<Vec<_>>().join("\n");
    let wanted = format!("{before}{begin}{rows}\n\n{}\n", rest.trim());
    same(&path, &wanted);
}

#[test]
fn the_schema_knows_the_values_that_there_are_and_no_others() {
    let chart = root().join("deploy/larder");
    let schema = fs::read_to_string(chart.join("values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let values = fs::read_to_string(chart.join("values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&values).unwrap();
    keys_agree("", &schema, &values);
}

/// Where the schema names keys, the values have exactly these. For `config`, and for maps that the user fills, it names
/// none.
fn keys_agree(place: &str, schema: &Value, values: &Value) {
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    let known = |key: &str| place.is_empty() && key == "global";
    for (key, schema) in properties.iter().filter(|(key, _)| !known(key)) {
        let value = values.get(key);
        let value = value.unwrap_or_else(|| panic!("{place}/{key} is in the schema alone"));
        // Empty maps are for the user to fill.
        if key != "config" && value.as_object().is_some_and(|map| !map.is_empty()) {
            keys_agree(&format!("{place}/{key}"), schema, value);
        }
    }
    for key in values.as_object().into_iter().flatten().map(|(key, _)| key) {
        assert!(
            properties.contains_key(key),
            "{place}/{key} is in the values alone"
        );
    }
}

#[test]
fn the_plain_manifests_are_the_charts() {
    let dir = root().join("deploy/manifests");
    for (name, values) in MANIFESTS {
        let only = if name == "rewrite.yaml" {
            vec!["--show-only", "templates/policies.yaml"]
        } else {
            vec!["--no-hooks"]
        };
        same(&dir.join(name), &rendered(values, &only));
    }
    // kubectl alone puts them together and sets image and namespace.
    let output = run(tool("kubectl").arg("kustomize").arg(&dir));
    assert!(output.status.success(), "{}", said(&output));
    let objects = objects(&String::from_utf8(output.stdout).unwrap());
    let kinds: Vec<&str> = objects
        .iter()
        .filter_map(|object| object["kind"].as_str())
        .collect();
    for kind in ["Namespace", "DaemonSet", "ConfigMap", "ServiceAccount"] {
        assert!(kinds.contains(&kind), "{kind} is not in {kinds:?}");
    }
    assert!(
        !kinds.contains(&"MutatingAdmissionPolicy"),
        "the rewriting is off unless it is asked for"
    );
    let set = objects
        .iter()
        .find(|object| object["kind"] == "DaemonSet")
        .unwrap();
    let pod = &set["spec"]["template"]["spec"];
    for container in [&pod["initContainers"][0], &pod["containers"][0]] {
        assert_eq!(
            container["image"],
            concat!("registry.example.com/larder:", env!("CARGO_PKG_VERSION"))
        );
    }
}

#[test]
fn the_example_for_gitops_renders() {
    let file = root().join("deploy/larder/examples/flux.yaml");
    let objects = objects(&fs::read_to_string(file).unwrap());
    let release = objects
        .iter()
        .find(|object| object["kind"] == "HelmRelease")
        .unwrap();
    // JSON is YAML.
    let manifests = rendered(&release["spec"]["values"].to_string(), &[]);
    assert!(manifests.contains("kind: DaemonSet"), "{manifests}");
}
