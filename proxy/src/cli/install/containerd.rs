//! Checks in containerd's own configuration whether containerd reads `hosts.toml` where larder writes it. Never writes.
//!
//! The keys are below `registry` in a plugin's section: `plugins.cri` in version 1 of the file,
//! `plugins."io.containerd.grpc.v1.cri"` in version 2, `plugins."io.containerd.cri.v1.images"` in version 3.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::root::Root;
use crate::config::Pattern;

const VERSION_1: &str = "cri";
const VERSION_2: &str = "io.containerd.grpc.v1.cri";
const VERSION_3: &str = "io.containerd.cri.v1.images";

/// What is wrong, and what a person should do about it.
pub type Advice = (String, String);

/// What a person should change so that containerd, started with `file`, reads the hosts.toml files in `dir`. Each item
/// is a sentence or two.
pub(super) fn check(root: &Root, file: &Path, dir: &Path) -> Vec<String> {
    let sentences = advice(root, file, dir).into_iter();
    sentences
        .map(|(wrong, fix)| format!("{wrong}. {}", capitalised(&fix)))
        .collect()
}

/// The same for a node whose root directory is at `node_root`, with the problem and the fix apart.
pub fn advice_below(node_root: &Path, file: &Path, dir: &Path) -> Vec<Advice> {
    match Root::new(node_root) {
        Ok(root) => advice(&root, file, dir),
        Err(error) => vec![(error.to_string(), by_hand(dir))],
    }
}

fn advice(root: &Root, file: &Path, dir: &Path) -> Vec<Advice> {
    let text = match read(root, file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let wrong = format!(
                "{} does not exist, so containerd may not read {}",
                file.display(),
                dir.display()
            );
            let fix = fix("add these lines to it", VERSION_2, Some("version = 2"), dir);
            let fix = format!(
                "if containerd starts with another file, name that file with --containerd-config; else {fix}"
            );
            return vec![(wrong, fix)];
        }
        Err(error) => {
            let wrong = format!("{} cannot be read ({error})", file.display());
            return vec![(wrong, by_hand(dir))];
        }
    };
    // The last file with a section about registries takes precedence.
    let (text, file) = imported(root, file, &text).unwrap_or_else(|| (text, file.to_owned()));
    findings(&text, &file.display().to_string(), dir)
}

fn by_hand(dir: &Path) -> String {
    let path = dir.display().to_string();
    format!("check by hand that its config_path is {path:?}")
}

fn read(root: &Root, file: &Path) -> io::Result<String> {
    let bytes = root.bytes(file)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last one of the files that `file` imports and that have a section about registries. `text` is the content of
/// `file`. Names are relative to `file`, and `*` matches anything in the last part.
fn imported(root: &Root, file: &Path, text: &str) -> Option<(String, PathBuf)> {
    let config: Table = text.parse().ok()?;
    let mut last = None;
    for import in config.get("imports")?.as_array()? {
        let pattern = file.parent()?.join(import.as_str()?);
        let names = Pattern::new(pattern.file_name()?.to_str()?);
        let dir = pattern.parent()?;
        let entries = root.entries(dir).unwrap_or_default();
        for name in entries.iter().filter(|name| names.matches(name)) {
            let found = dir.join(name);
            let text = read(root, &found).unwrap_or_default();
            if text.parse().is_ok_and(|config| registries(&config)) {
                last = Some((text, found));
            }
        }
    }
    last
}

/// Whether a file has a section about registries, in any version of the file.
fn registries(config: &Table) -> bool {
    let section = |plugin: &&str| config.get("plugins")?.get(plugin)?.get("registry");
    [VERSION_1, VERSION_2, VERSION_3]
        .iter()
        .any(|plugin| section(plugin).is_some())
}

fn findings(text: &str, file: &str, dir: &Path) -> Vec<Advice> {
    let Ok(config) = text.parse::<Table>() else {
        return vec![(format!("{file} is not TOML"), by_hand(dir))];
    };
    let version = config.get("version").and_then(Value::as_integer);
    let plugins = config.get("plugins").and_then(Value::as_table);
    let registry_under = |plugin: &str| {
        plugins
            .and_then(|plugins| plugins.get(plugin))
            .and_then(|plugin| plugin.get("registry"))
    };
    // A file of version 1 may lack the version, and containerd 2 also accepts the long names of sections in it.
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
    // For an empty file, propose version 2, which every containerd reads.
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
    let said = registry.is_some_and(|registry| registry.get("config_path").is_some());
    let verb = if said {
        "change it to this"
    } else {
        "add these lines to it"
    };
    let fix = fix(verb, plugin, version_line, dir);
    if path.is_empty() {
        let wrong =
            format!("{file} sets no config_path, so containerd does not reliably read hosts.toml");
        warnings.push((wrong, fix));
    } else if path.contains(':') {
        let therefore = in_a_list(path, dir, pulls_the_older_way(plugins, plugin));
        let wrong = format!("{file} sets config_path to the list {path:?}{therefore}");
        warnings.push((wrong, fix));
    } else if Path::new(path) != dir {
        let wrong = format!(
            "{file} sets config_path to {path:?}, but the files are in {}",
            dir.display()
        );
        let fix = format!("install with --containerd-certs-dir {path}, or {fix}");
        warnings.push((wrong, fix));
    }
    if let Some(registry) = registry {
        warnings.extend(conflicts(registry, plugin, file));
    }
    warnings
}

/// What to say of `config_path` if it is the list `path`: whether containerd reads the hosts.toml files in `dir`.
fn in_a_list(path: &str, dir: &Path, older_way: bool) -> String {
    if !path.split(':').any(|one| Path::new(one) == dir) {
        format!(", and {} is not in it", dir.display())
    } else if older_way {
        ", which containerd 2.1 and later only read because discard_unpacked_layers or use_local_image_pull is set \
         too; without these keys they find no hosts.toml in a list"
            .to_owned()
    } else {
        ", in which containerd 2.1 and later find no hosts.toml".to_owned()
    }
}

/// Whether a setting keeps containerd 2.1 and later from pulling by its transfer service. The transfer service reads a
/// list as one path.
fn pulls_the_older_way(plugins: Option<&Table>, plugin: &str) -> bool {
    let section = plugins.and_then(|plugins| plugins.get(plugin));
    let set = |place: &Value, key: &str| place.get(key).and_then(Value::as_bool) == Some(true);
    section.is_some_and(|section| {
        set(section, "use_local_image_pull")
            || set(section, "discard_unpacked_layers")
            || section
                .get("containerd")
                .is_some_and(|below| set(below, "discard_unpacked_layers"))
    })
}

/// Finds the older form of mirrors. Together with a config_path it keeps the CRI plugin from starting.
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
            "{file} has {}: containerd does not start its CRI plugin if config_path is set too",
            sections.join(" and ")
        ),
        "first move these settings into hosts.toml files, and remove the sections".to_owned(),
    ))
}

fn section(plugin: &str) -> String {
    if plugin == VERSION_1 {
        format!("plugins.{plugin}.registry")
    } else {
        format!("plugins.\"{plugin}\".registry")
    }
}

/// The fix: `verb`, the lines, and that this one change needs a restart of containerd.
fn fix(verb: &str, plugin: &str, version_line: Option<&str>, dir: &Path) -> String {
    let version = version_line.map_or_else(String::new, |line| format!("{line}\n"));
    format!(
        "{verb} and restart containerd once:\n{version}[{}]\n  config_path = {}",
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
