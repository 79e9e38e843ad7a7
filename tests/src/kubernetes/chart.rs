//! The chart in `deploy/larder`, rendered by helm.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The namespace that the release is in.
pub const NAMESPACE: &str = "larder-system";

/// The values that helm gets.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    values: Vec<String>,
}

/// The objects that come out.
#[derive(Clone, Debug)]
pub struct Objects(Vec<Value>);

impl Chart {
    /// One more value, as `--set-json` takes it: `key=JSON`.
    #[must_use]
    pub fn set(mut self, key: &str, value: &Value) -> Self {
        self.values.push(format!("{key}={value}"));
        self
    }

    /// Renders the chart; panics with helm's output if that fails.
    pub fn render(&self) -> Objects {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/larder");
        let mut helm = Command::new(helm());
        helm.args(["template", "larder"])
            .arg(chart)
            .args(["--namespace", NAMESPACE]);
        for value in &self.values {
            helm.args(["--set-json", value]);
        }
        let output = helm.output();
        let output = output.unwrap_or_else(|e| panic!("{helm:?}: {e}; scripts/test installs it"));
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
        Objects(objects.into_iter().filter(Value::is_object).collect())
    }
}

/// On the PATH, or where scripts/test puts it: beside the build.
fn helm() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this executable");
    let beside = test
        .ancestors()
        .map(|dir| dir.join("kubernetes/bin/helm"))
        .find(|helm| helm.is_file());
    beside.unwrap_or_else(|| "helm".into())
}

impl Objects {
    /// The object of this kind and name; panics when there is none.
    pub fn get(&self, kind: &str, name: &str) -> &Value {
        let found = self
            .0
            .iter()
            .find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    /// The pod template of this DaemonSet.
    pub fn daemon_set(&self, name: &str) -> &Value {
        &self.get("DaemonSet", name)["spec"]["template"]
    }
}
