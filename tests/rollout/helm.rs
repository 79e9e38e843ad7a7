//! Rendering the chart, as helm does it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The image of every rendering that sets no other.
pub const IMAGE: &str = "image.repository=registry.example.com/larder";

/// The root of the project.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A command that scripts/test installs beside the build, or that is on the PATH.
pub fn tool(name: &str) -> Command {
    let test = std::env::current_exe().expect("the path of this executable");
    let beside = test
        .ancestors()
        .map(|dir| dir.join("kubernetes/bin").join(name))
        .find(|tool| tool.is_file());
    Command::new(beside.unwrap_or_else(|| name.into()))
}

/// `helm template` with these values, which are YAML.
pub fn template(values: &str, more: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("values.yaml");
    fs::write(&file, values).expect("a file");
    let mut helm = tool("helm");
    helm.args(["template", "larder"])
        .arg(root().join("deploy/larder"))
        .args(["--namespace", "larder-system", "--set", IMAGE, "--values"])
        .arg(&file)
        .args(more);
    run(&mut helm)
}

/// The manifests rendered from these values.
pub fn rendered(values: &str, more: &[&str]) -> String {
    let output = template(values, more);
    assert!(output.status.success(), "{}\nof\n{values}", said(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The objects of a stream of manifests.
pub fn objects(manifests: &str) -> Vec<Value> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(manifests).expect("YAML");
    objects.into_iter().filter(Value::is_object).collect()
}

/// The object of this kind; the first one if there are several.
pub fn object(values: &str, kind: &str) -> Value {
    let mut objects = objects(&rendered(values, &[])).into_iter();
    let found = objects.find(|object| object["kind"] == kind);
    found.unwrap_or_else(|| panic!("no {kind} in what comes of\n{values}"))
}

/// `larder` with these arguments.
pub fn larder(arguments: &[&str]) -> Output {
    run(Command::new(larder_tests::node::larder_program()).args(arguments))
}

/// Runs it and waits.
pub fn run(command: &mut Command) -> Output {
    let output = command.output();
    output.unwrap_or_else(|error| panic!("{command:?}: {error}; scripts/test installs it"))
}

/// A program's output on both streams.
pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Compares a file with its wanted content; `LARDER_BLESS=1` writes it instead.
pub fn same(path: &Path, wanted: &str) {
    if std::env::var_os("LARDER_BLESS").is_some() {
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        return fs::write(path, wanted).expect("a file");
    }
    let there = fs::read_to_string(path).unwrap_or_default();
    let first = there
        .lines()
        .zip(wanted.lines())
        .enumerate()
        .find(|(_, (there, wanted))| there != wanted);
    if there != wanted {
        let (line, differ) = first.unwrap_or((there.lines().count(), ("the end", "another end")));
        panic!(
            "{} differs at line {}: run scripts/chart and look at the difference\n  there:  {}\n  wanted: {}",
            path.display(),
            line + 1,
            differ.0,
            differ.1
        );
    }
}
