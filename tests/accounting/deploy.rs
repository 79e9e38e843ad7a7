//! Alerts and the dashboard name only metrics, labels and values that exist.

use std::collections::BTreeSet;

use serde_json::Value;

use super::table::{self, metric_of};

/// Labels that Prometheus adds when it scrapes.
const SCRAPED: [&str; 4] = ["job", "instance", "namespace", "le"];

fn rules() -> Vec<Value> {
    let text = table::read("deploy/prometheus/rules.yaml");
    let all: Value = serde_saphyr::from_str(&text).expect("YAML");
    let groups = all["groups"].as_array().expect("groups").clone();
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().expect("rules").clone());
    rules.collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&table::read("deploy/grafana/larder.json")).expect("JSON")
}

/// All strings under this key, at any depth.
pub fn strings(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                match inner {
                    Value::String(text) if name == key => found.push(text.clone()),
                    inner => strings(inner, key, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| strings(inner, key, found)),
        _ => {}
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Checks the names, selectors and groupings of an expression; gives its metrics.
fn check(expression: &str) -> BTreeSet<String> {
    let table = table::table();
    let mut used = BTreeSet::new();
    let mut rest = expression;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '"') {
        if rest[at..].starts_with('"') {
            let end = rest[at + 1..].find('"').expect("a string that ends");
            rest = &rest[at + end + 2..];
            continue;
        }
        let begins = &rest[at..];
        let len = begins.find(|c| !is_name(c)).unwrap_or(begins.len());
        let (name, behind) = begins.split_at(len);
        rest = behind;
        if !name.starts_with("larder_") && !name.starts_with("process_") && name != "up" {
            continue;
        }
        let metric = metric_of(&table, name);
        assert!(metric.is_some() || name == "up", "{name} in {expression}");
        used.insert(name.to_owned());
        let Some(selector) = behind.strip_prefix('{') else {
            continue;
        };
        let (selector, behind) = selector.split_once('}').expect("a selector that ends");
        rest = behind;
        for matcher in selector.split("\",").filter(|matcher| !matcher.is_empty()) {
            let at = matcher.find(['=', '!']).expect("a label and a value");
            let (label, value) = (matcher[..at].trim(), &matcher[at..]);
            let value = value.trim_start_matches(['=', '!', '~', '"']);
            let value = value.trim_end_matches('"');
            if SCRAPED.contains(&label) || value.starts_with('$') {
                continue;
            }
            let metric = metric.unwrap_or_else(|| panic!("{label} of {name} in {expression}"));
            for word in value.split('|') {
                assert!(
                    metric.takes(label, word),
                    "{name}{{{label}={word}}}: {expression}"
                );
            }
        }
    }
    // Every label of a grouping belongs to one of the metrics.
    let groupings = expression.split("by (").skip(1);
    let groupings = groupings.filter_map(|part| part.split_once(')'));
    for label in groupings.flat_map(|(labels, _)| labels.split(',')) {
        let label = label.trim();
        let has =
            |name: &String| metric_of(&table, name).is_some_and(|m| m.labels.contains_key(label));
        assert!(
            SCRAPED.contains(&label) || used.iter().any(has),
            "{label}: {expression}"
        );
    }
    used
}

#[test]
fn every_alert_speaks_of_what_there_is_and_says_what_to_do() {
    let runbook = table::read("docs/alerts.md");
    let tests = table::read("deploy/prometheus/rules_test.yaml");
    let rules = rules();
    assert!(rules.len() >= 15, "{} alerts", rules.len());
    for rule in rules {
        let name = rule["alert"].as_str().expect("a name");
        check(rule["expr"].as_str().expect("an expression"));
        assert!(rule["for"].is_string(), "{name}: for");
        let severity = rule["labels"]["severity"].as_str();
        let known = ["critical", "warning", "info"];
        assert!(
            severity.is_some_and(|s| known.contains(&s)),
            "{name}: severity"
        );
        for annotation in ["summary", "description", "runbook"] {
            let text = rule["annotations"][annotation].as_str();
            assert!(
                text.is_some_and(|text| text.len() > 10),
                "{name}: {annotation}"
            );
        }
        let anchor = format!("docs/alerts.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook"], *anchor, "{name}");
        assert!(
            runbook.contains(&format!("\n## {name}\n")),
            "{name} in docs/alerts.md"
        );
        // The rule's tests see it fire and see it silent.
        let tested = tests.matches(&format!("alertname: {name}\n")).count();
        assert!(tested >= 2, "{name} is tested {tested} times");
    }
}

#[test]
fn the_dashboard_draws_what_there_is() {
    let dashboard = dashboard();
    let mut expressions = Vec::new();
    strings(&dashboard, "expr", &mut expressions);
    assert!(expressions.len() >= 25, "{} expressions", expressions.len());
    let mut used = BTreeSet::new();
    for expression in &expressions {
        used.append(&mut check(expression));
    }
    // The dashboard shows most of the metrics.
    let table = table::table();
    let drawn = |name: &String| used.iter().any(|sample| sample.starts_with(name.as_str()));
    let missing: Vec<&String> = table.keys().filter(|name| !drawn(name)).collect();
    assert!(missing.len() * 4 <= table.len(), "not drawn: {missing:#?}");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].to_string()), "{}", panel["id"]);
        assert!(panel["title"].is_string() && panel["gridPos"]["w"].is_u64());
    }
}

/// The check itself finds mistakes.
#[test]
fn names_and_labels_that_are_not_there_are_found() {
    for bad in [
        "rate(larder_requests[5m])",
        "larder_requests_total{tier=\"disk\"}",
        "larder_requests_total{outcome=~\"hit|mist\"}",
        "larder_store_blobs{tier=\"node\"}",
        "sum by (role) (rate(larder_requests_total[5m]))",
    ] {
        let checked = std::panic::catch_unwind(|| check(bad));
        assert!(checked.is_err(), "{bad}");
    }
    check(
        "sum by (le, tier) (rate(larder_first_byte_seconds_bucket{tier=~\"node|cluster\",job=\"x\"}[5m]))",
    );
}
