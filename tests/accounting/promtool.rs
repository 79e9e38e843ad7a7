//! Prometheus' own tool checks larder's metrics page, and the rules that are shipped for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use larder_tests::http;
use larder_tests::scene::Scene;

use super::deploy::strings;
use super::table;

/// promtool where `scripts/test` puts it, or an installed one.
fn promtool() -> Command {
    let beside = larder_tests::node::larder_program();
    let target = beside.ancestors().nth(2).unwrap_or(Path::new("."));
    let own: PathBuf = target.join("prometheus/usr/bin/promtool");
    let mut command = Command::new(if own.is_file() {
        own
    } else {
        "promtool".into()
    });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(command: &mut Command, input: &str) -> Output {
    use std::io::Write as _;
    let started = command.stdin(Stdio::piped()).spawn();
    let mut child = started.expect("promtool, which scripts/test installs");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// promtool parses the page, and has no complaint about a name, a unit, a type or a help text.
#[tokio::test]
async fn the_metrics_are_as_prometheus_wants_them() {
    let scene = Scene::new().await;
    let digest = scene.fake.put_blob_of("a/b", 1, 3_000_000);
    for _ in 0..2 {
        let answer = http::get(&scene.blob("a/b", &digest), &[]).await;
        assert!(answer.expect("an answer").complete);
    }
    let page = scene.node.metrics().await;
    let output = run(promtool().args(["check", "metrics"]), &page);
    let said = said(&output);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
    // The check is real: promtool complains about a bad name.
    let bad = page.replace("larder_requests_total", "larder_requests_totally");
    let output = run(promtool().args(["check", "metrics"]), &bad);
    assert!(!output.status.success());
}

/// The dashboard's queries are PromQL: each expression passes as a rule.
#[test]
fn the_dashboard_asks_in_promql() {
    let dashboard = serde_json::from_str(&table::read("deploy/grafana/larder.json"));
    let mut expressions = Vec::new();
    strings(&dashboard.expect("JSON"), "expr", &mut expressions);
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    for (number, expression) in expressions.iter().enumerate() {
        // Variables are replaced as Grafana replaces them.
        let expression = expression
            .replace("$__rate_interval", "5m")
            .replace("$__range", "6h");
        let expression = serde_json::Value::from(expression);
        let (number, expression) = (number.to_string(), expression.to_string());
        let rule = [
            "      - record: panel:",
            &number,
            "\n        expr: ",
            &expression,
            "\n",
        ];
        rules.extend(rule);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("rules.yaml");
    std::fs::write(&file, rules).expect("a file");
    let output = run(promtool().args(["check", "rules"]).arg(&file), "");
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn the_alerts_are_rules_and_fire_when_they_should() {
    let rules = table::file("deploy/prometheus/rules.yaml");
    let output = run(promtool().args(["check", "rules"]).arg(&rules), "");
    assert!(output.status.success(), "{}", said(&output));
    let tests = table::file("deploy/prometheus/rules_test.yaml");
    let output = run(promtool().args(["test", "rules"]).arg(&tests), "");
    assert!(output.status.success(), "{}", said(&output));
}
