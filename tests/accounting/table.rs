//! docs/metrics.md as data, compared with a running node. A unit test compares the table with the code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use larder_tests::http;
use larder_tests::image::{self, LayerSpec};
use larder_tests::scene::Scene;

/// A row of the table.
#[derive(Debug)]
pub struct Metric {
    pub kind: String,
    /// From each label to its values.
    pub labels: BTreeMap<String, BTreeSet<String>>,
}

/// A file of the project.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

pub fn read(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All rows.
pub fn table() -> BTreeMap<String, Metric> {
    let mut table = BTreeMap::new();
    for line in read("docs/metrics.md").lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let &["", name, kind, labels, _, ""] = &cells[..] else {
            continue;
        };
        let name = name.trim_matches('`');
        if !name.starts_with("larder_") && !name.starts_with("process_") {
            continue;
        }
        let pairs = labels
            .split("; ")
            .filter_map(|label| label.split_once("`: "));
        let labels = pairs.map(|(label, values)| {
            let values = values.split(", ").map(str::to_owned).collect();
            (label.trim_matches('`').to_owned(), values)
        });
        let metric = Metric {
            kind: kind.to_owned(),
            labels: labels.collect(),
        };
        table.insert(name.to_owned(), metric);
    }
    assert!(table.len() > 40, "{} rows were understood", table.len());
    table
}

impl Metric {
    /// Whether `label` may have this value.
    pub fn takes(&self, label: &str, value: &str) -> bool {
        let Some(values) = self.labels.get(label) else {
            return false;
        };
        values.contains(value) || values.iter().any(|value| value.starts_with('*'))
    }
}

/// The metric that a sample belongs to: a histogram's samples have a suffix.
pub fn metric_of<'a>(table: &'a BTreeMap<String, Metric>, sample: &str) -> Option<&'a Metric> {
    let histogram = || {
        let suffixes = ["_bucket", "_sum", "_count"];
        let base = suffixes.iter().find_map(|s| sample.strip_suffix(s))?;
        table.get(base).filter(|metric| metric.kind == "histogram")
    };
    table.get(sample).or_else(histogram)
}

#[tokio::test]
async fn a_running_node_shows_what_the_table_says() {
    let scene = Scene::new().await;
    let image = image::build(&scene.fake, "a/b", "v1", &[LayerSpec::new(1, 2_000_000)]);
    for _ in 0..2 {
        for url in [
            scene.manifest("a/b", "v1"),
            scene.blob("a/b", &image.layers[0].digest),
            scene.manifest("a/b", "none"),
        ] {
            http::get(&url, &[]).await.expect("an answer");
        }
        scene.until_committed(&image.layers[0].digest).await;
    }
    let table = table();
    let page = scene.node.metrics().await;
    let mut shown = BTreeSet::new();
    for line in page.lines() {
        if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            let metric = table
                .get(name)
                .unwrap_or_else(|| panic!("{name} is not there"));
            assert_eq!(metric.kind, kind, "{name}");
            shown.insert(name.to_owned());
        }
        let Some((sample, _)) = line.rsplit_once(' ').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let metric = metric_of(&table, name).unwrap_or_else(|| panic!("{name} is not there"));
        for (label, value) in labels
            .trim_end_matches('}')
            .split("\",")
            .filter_map(|pair| pair.split_once("=\""))
        {
            let value = value.trim_end_matches('"');
            let bucket = label == "le" && metric.kind == "histogram";
            assert!(bucket || metric.takes(label, value), "{sample}");
        }
    }
    // Most metrics exist from the start; those that need members, Docker Hub or credentials do not.
    assert!(shown.len() + 15 > table.len(), "{shown:?}");
    for (sample, least) in [
        ("larder_config_last_reload_successful", 1.0),
        ("larder_config_last_reload_success_timestamp_seconds", 1.6e9),
        ("process_start_time_seconds", 1.6e9),
        ("process_resident_memory_bytes", 1e6),
        ("process_open_fds", 5.0),
        ("larder_store_free_bytes", 1.0),
        ("larder_store_max_bytes", 1.0),
        ("larder_revalidations_total{outcome=\"changed\"}", 1.0),
        ("larder_revalidations_total{outcome=\"unchanged\"}", 1.0),
        ("larder_revalidations_total{outcome=\"not_found\"}", 2.0),
        ("larder_access_verdicts_total{verdict=\"allowed\"}", 3.0),
        ("larder_members{state=\"own\"}", 0.0),
    ] {
        let value = scene.node.metric(sample).await;
        assert!(
            value.is_some_and(|value| value >= least),
            "{sample} is {value:?}: {page}"
        );
    }
    let host = scene.fake.host();
    let endpoints = format!("larder_upstream_endpoints{{upstream=\"{host}\",state=\"ok\"}}");
    assert_eq!(scene.node.metric(&endpoints).await, Some(1.0));
}
