//! What `helm` says to the person who installs the chart, and that the chart can be copied and packed.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::helm::{IMAGE, object, objects, root, run, said, same, tool};

/// What the chart has of larder's alerts and dashboard, rendered from this chart.
fn monitoring(chart: &Path) -> Vec<Value> {
    let mut helm = tool("helm");
    helm.args(["template", "larder"])
        .arg(chart)
        .args(["--set", IMAGE]);
    helm.args(["--set", "monitoring.rules=true,monitoring.dashboard=true"]);
    helm.args(["--show-only", "templates/monitoring.yaml"]);
    let output = run(&mut helm);
    assert!(output.status.success(), "{}", said(&output));
    objects(&String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_chart_can_be_copied_and_packed() {
    let chart = root().join("deploy/larder");
    let here = monitoring(&chart);
    let kinds: Vec<&str> = here.iter().filter_map(|one| one["kind"].as_str()).collect();
    assert_eq!(kinds, ["ConfigMap", "PrometheusRule"]);
    let dir = tempfile::tempdir().unwrap();
    let copied = run(Command::new("cp").arg("-a").arg(&chart).arg(dir.path()));
    assert!(copied.status.success(), "{}", said(&copied));
    assert_eq!(monitoring(&dir.path().join("larder")), here);
    let packed = run(tool("helm")
        .arg("package")
        .arg(&chart)
        .arg("--destination")
        .arg(dir.path()));
    assert!(packed.status.success(), "{}", said(&packed));
    assert_eq!(
        monitoring(
            &dir.path()
                .join(concat!("larder-", env!("CARGO_PKG_VERSION"), ".tgz"))
        ),
        here
    );
}

#[test]
fn the_charts_alerts_and_dashboard_are_those_that_are_shipped() {
    for (chart, shipped) in [
        ("alerts.yaml", "prometheus/rules.yaml"),
        ("dashboard.json", "grafana/larder.json"),
    ] {
        let shipped = fs::read_to_string(root().join("deploy").join(shipped)).unwrap();
        same(&root().join("deploy/larder/files").join(chart), &shipped);
    }
}

/// A setting of larder's file, as the chart writes it.
fn setting(values: &str, key: &str) -> Option<String> {
    let map = object(values, "ConfigMap");
    let text = map["data"]["larder.toml"]
        .as_str()
        .expect("a file")
        .to_owned();
    let lines = text
        .lines()
        .filter_map(|line| line.trim().split_once(" = "));
    let mut values = lines
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value.trim_matches('"'));
    values.next().map(str::to_owned)
}

/// Every user may write into an emptyDir's own directory, and the container's user cannot change that.
#[test]
fn the_store_in_an_empty_dir_is_a_directory_of_larders_own() {
    let path = |values| setting(values, "path").expect("a path");
    assert_eq!(path("store: {type: emptyDir}"), "/var/lib/larder/store");
    assert_eq!(path("{}"), "/var/lib/larder");
}

/// On a disk that the kubelet uses too, larder's own default of `min_free` holds.
#[test]
fn the_charts_bounds_are_for_a_shared_disk_or_for_one_of_larders_own() {
    let bounds = |values| ["max_size", "min_free"].map(|key| setting(values, key));
    let text = |text: &str| Some(text.to_owned());
    for shared in ["{}", "store: {type: emptyDir}"] {
        assert_eq!(bounds(shared), [text("40%"), None]);
    }
    assert_eq!(
        bounds("store: {type: ephemeral, size: 9Gi}"),
        [None, text("5%")]
    );
}
