//! containerd's own configuration, only looked at: whether it reads `hosts.toml` from where it was put.
//!
//! Where the keys are: `plugins.cri` in version 1 of the file, `plugins."io.containerd.grpc.v1.cri"` in
//! version 2, `plugins."io.containerd.cri.v1.images"` in version 3; below that always `registry`.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use toml::{Table, Value};

const VERSION_1: &str = "cri";
const VERSION_2: &str = "io.containerd.grpc.v1.cri";
const VERSION_3: &str = "io.containerd.cri.v1.images";

/// What is wrong, and what a person should do about it.
pub type Advice = (String, String);

/// What a person should change in `file` so that containerd reads the hosts.toml files in `dir`, a sentence each.
pub(super) fn check(file: &Path, dir: &Path) -> Vec<String> {
    let sentences = advice(file, dir).into_iter();
    sentences
        .map(|(wrong, mend)| format!("{wrong}. {}", capitalised(&mend)))
        .collect()
}

/// The same, what is wrong apart from what to do.
pub fn advice(file: &Path, dir: &Path) -> Vec<Advice> {
    let by_hand = || {
        let path = dir.display().to_string();
        format!("check by hand that config_path is {path:?}")
    };
    match fs::read_to_string(file) {
        Ok(text) => findings(&text, &file.display().to_string(), dir),
        Err(error) if error.kind() == ErrorKind::NotFound => vec![(
            format!(
                "{} is not there, so containerd may not read {}",
                file.display(),
                dir.display()
            ),
            format!(
                "if it starts with another file, check that one (--containerd-config); else {}",
                mend(VERSION_2, Some("version = 2"), dir)
            ),
        )],
        Err(error) => vec![(
            format!("{} cannot be read ({error})", file.display()),
            by_hand(),
        )],
    }
}

fn findings(text: &str, file: &str, dir: &Path) -> Vec<Advice> {
    let Ok(config) = text.parse::<Table>() else {
        let path = dir.display().to_string();
        return vec![(
            format!("{file} is not TOML"),
            format!("check by hand that config_path is {path:?}"),
        )];
    };
    let version = config.get("version").and_then(Value::as_integer);
    let plugins = config.get("plugins").and_then(Value::as_table);
    let registry_under = |plugin: &str| {
        plugins
            .and_then(|plugins| plugins.get(plugin))
            .and_then(|plugin| plugin.get("registry"))
    };
    // Files of version 1 need not say so, and containerd 2 takes the long names in them too.
    let candidates: &[&str] = match version {
        Some(3..) => &[VERSION_3],
        Some(2) => &[VERSION_2],
        _ => &[VERSION_1, VERSION_2, VERSION_3],
    };
    let present = candidates
        .iter()
        .find(|plugin| plugins.is_some_and(|plugins| plugins.contains_key(**plugin)));
    let configured = candidates
        .iter()
        .find(|plugin| registry_under(plugin).is_some());
    // A file that says nothing yet is best begun in the version that every containerd reads.
    let (plugin, version_line) = match (configured.or(present), version) {
        (Some(plugin), _) => (*plugin, None),
        (None, Some(_)) => (candidates[0], None),
        (None, None) if plugins.is_none() => (VERSION_2, Some("version = 2")),
        (None, None) => (VERSION_1, None),
    };
    let registry = registry_under(plugin);
    let path = registry
        .and_then(|registry| registry.get("config_path"))
        .and_then(Value::as_str)
        .unwrap_or_default();

    let mut warnings = Vec::new();
    let mend = mend(plugin, version_line, dir);
    if path.is_empty() {
        let imports = config.get("imports").and_then(Value::as_array);
        let elsewhere = if imports.is_some_and(|imports| !imports.is_empty()) {
            " (unless a file that it imports does)"
        } else {
            ""
        };
        warnings.push((
            format!(
                "{file} sets no config_path{elsewhere}, and without it containerd does not reliably read hosts.toml"
            ),
            mend,
        ));
    } else if path.contains(':') {
        warnings.push((
            format!(
                "{file} sets config_path to the list {path:?}, in which containerd 2.1 and later find no hosts.toml"
            ),
            mend,
        ));
    } else if Path::new(path) != dir {
        warnings.push((
            format!(
                "{file} sets config_path to {path:?}, but the files are in {}",
                dir.display()
            ),
            format!("install with --containerd-certs-dir {path}, or {mend}"),
        ));
    }
    if let Some(registry) = registry {
        warnings.extend(conflicts(registry, plugin, file));
    }
    warnings
}

/// The older way of naming mirrors. Beside a config_path it keeps the CRI plugin from starting.
fn conflicts(registry: &Value, plugin: &str, file: &str) -> Option<Advice> {
    let filled = |key: &str| {
        registry
            .get(key)
            .and_then(Value::as_table)
            .filter(|table| !table.is_empty())
    };
    let tls = filled("configs")
        .is_some_and(|configs| configs.values().any(|config| config.get("tls").is_some()));
    let mut sections = Vec::new();
    if filled("mirrors").is_some() {
        sections.push(format!("[{}.mirrors]", section(plugin)));
    }
    if tls {
        sections.push(format!("[{}.configs.….tls]", section(plugin)));
    }
    if sections.is_empty() {
        return None;
    }
    Some((
        format!(
            "{file} has {}: with config_path set, containerd refuses to start its CRI plugin beside them",
            sections.join(" and ")
        ),
        "move what they say into hosts.toml files and remove them first".to_owned(),
    ))
}

fn section(plugin: &str) -> String {
    if plugin == VERSION_1 {
        format!("plugins.{plugin}.registry")
    } else {
        format!("plugins.\"{plugin}\".registry")
    }
}

/// The lines to put, and that this one change needs a restart.
fn mend(plugin: &str, version_line: Option<&str>, dir: &Path) -> String {
    let version = version_line.map_or_else(String::new, |line| format!("{line}\n"));
    format!(
        "put these lines there and restart containerd once:\n{version}[{}]\n  config_path = {}",
        section(plugin),
        Value::String(dir.display().to_string())
    )
}

fn capitalised(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}
