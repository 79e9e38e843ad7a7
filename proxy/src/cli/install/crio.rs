//! Plans the changes for CRI-O: one drop-in beside registries.conf. Reads, never writes.
//!
//! podman and skopeo read the same files with the same library. A drop-in's table for a prefix replaces any other table
//! for the same prefix as a whole. No table can stand for every registry: a wildcard matches subdomains, and its mirror
//! would not learn the registry. So each registry has its own table. larder writes none for a registry that has a table
//! in another file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use toml::{Table, Value};

use super::EVERY;
use super::block;
use super::plan::{Plan, Step};
use super::root::Root;

pub(super) const FILE: &str = "larder.conf";
/// The meaning of "every registry" for CRI-O, which needs a table for each: the public registries that clusters use.
const PUBLIC: [&str; 10] = [
    "docker.io",
    "gcr.io",
    "ghcr.io",
    "mcr.microsoft.com",
    "nvcr.io",
    "public.ecr.aws",
    "quay.io",
    "registry.gitlab.com",
    "registry.k8s.io",
    "registry.redhat.io",
];

/// Registries, each with its name in larder's paths: its alias, or else its own name.
type Paths = BTreeMap<String, String>;

/// Puts `address` first for `registries`, each with its alias if it has one. If the list is empty or holds [`EVERY`],
/// it stands for the public ones. Without `exact`, registries that the drop-in already names stay.
pub(super) fn install(
    plan: &mut Plan,
    root: &Root,
    dir: &Path,
    registries: &[(String, Option<String>)],
    address: &str,
    exact: bool,
) -> Result<()> {
    root.mounted(dir)?;
    clear(plan, root, dir)?;
    let file = dir.join(FILE);
    let mut paths = named(registries)?;
    let text = root.read_to_replace(&file)?;
    let place = match &text {
        None => None,
        Some(text) => {
            let place = block::find(text).map_err(anyhow::Error::msg);
            let place = place.with_context(|| file.display().to_string())?;
            let Some(place) = place else {
                bail!(
                    "{}: larder did not write this file; move it away first. No file was changed",
                    file.display()
                );
            };
            if !exact {
                for (registry, path) in installed(&text[place.clone()]) {
                    paths.entry(registry).or_insert(path);
                }
            }
            Some(place)
        }
    };
    leave_others(plan, root, dir, &mut paths, address)?;
    if paths.is_empty() {
        // Tables of an earlier run would still replace the tables of other files.
        return take(plan, root, dir);
    }
    let (dirs, made) = if let (Some(text), Some(place)) = (&text, &place) {
        (Vec::new(), block::made(&text[place.clone()]))
    } else {
        let dirs = plan.missing(root, dir)?;
        let made = dirs.len();
        (dirs, made)
    };
    let lines = block::marked(&tables(&paths, address), made);
    let (after, owned) = match (&text, place) {
        (Some(text), Some(place)) => (
            format!("{}{lines}{}", &text[..place.start], &text[place.end..]),
            Some(root.owned(&file)?),
        ),
        _ => (lines, None),
    };
    if text.as_deref() == Some(after.as_str()) {
        plan.notes.push(format!(
            "{}: already installed, nothing to change",
            file.display()
        ));
        return Ok(());
    }
    plan.steps.push(Step::Write {
        dirs,
        file,
        before: text,
        after,
        owned,
    });
    plan.crio_changes = true;
    Ok(())
}

/// Removes larder's drop-in.
pub(super) fn uninstall(plan: &mut Plan, root: &Root, dir: &Path) -> Result<()> {
    root.mounted(dir)?;
    clear(plan, root, dir)?;
    take(plan, root, dir)
}

fn take(plan: &mut Plan, root: &Root, dir: &Path) -> Result<()> {
    let mut made = BTreeSet::new();
    let before = plan.steps.len();
    plan.take(root, &dir.join(FILE), None, &mut made)?;
    plan.remove_made(root, made, &BTreeSet::new())?;
    // CRI-O watches the directory. It notices that a file is removed, but not that the directory is renamed.
    plan.remove_files_first();
    plan.crio_changes = plan.steps.len() > before;
    Ok(())
}

/// Removes leftovers of earlier runs from the places where this run writes.
fn clear(plan: &mut Plan, root: &Root, dir: &Path) -> Result<()> {
    plan.clear_above(root, dir)?;
    plan.clear(root, dir, |name| name == FILE)
}

fn named(registries: &[(String, Option<String>)]) -> Result<Paths> {
    let mut paths = Paths::new();
    if registries.is_empty() || registries.iter().any(|(name, _)| name == EVERY) {
        paths.extend(PUBLIC.map(|name| (name.to_owned(), name.to_owned())));
    }
    for (name, alias) in registries.iter().filter(|(name, _)| name != EVERY) {
        let path = match alias {
            Some(alias) => alias.clone(),
            None if name.contains([':', '[']) => bail!(
                "--registry {name}: CRI-O puts the name into a path, and a path takes no port. Give it an alias in larder's \
                 configuration, [upstreams.\"{name}\"] alias = \"NAME\", and write --registry {name}=NAME"
            ),
            None => name.clone(),
        };
        paths.insert(name.clone(), path);
    }
    Ok(paths)
}

/// The tables for `paths`, in the order of the registries' names.
fn tables(paths: &Paths, address: &str) -> String {
    let mut text = "# CRI-O, podman and skopeo ask larder on this node first, and go on to the registry itself if\n\
         # it does not give them the manifest, so that pulls work while larder is down.\n"
        .to_owned();
    for (registry, path) in paths {
        text.push_str(&table(registry, path, address));
    }
    text
}

fn table(registry: &str, path: &str, address: &str) -> String {
    format!(
        "[[registry]]\nprefix = \"{registry}\"\nlocation = \"{registry}\"\n{}",
        mirror(path, address)
    )
}

fn mirror(path: &str, address: &str) -> String {
    let (host, insecure) = match address.strip_prefix("http://") {
        Some(host) => (host, "insecure = true\n"),
        None => (address.trim_start_matches("https://"), ""),
    };
    format!("[[registry.mirror]]\nlocation = \"{host}/{path}\"\n{insecure}")
}

/// The registries that larder's block names.
fn installed(lines: &str) -> Paths {
    tables_of(lines)
        .into_iter()
        .filter_map(|table| {
            let path = mirrors(&table).into_iter().next()?;
            let path = path.split_once('/')?.1.to_owned();
            Some((prefix(&table)?, path))
        })
        .collect()
}

/// Removes from `paths` the registries that have a table in another file, and says what to write there.
fn leave_others(
    plan: &mut Plan,
    root: &Root,
    dir: &Path,
    paths: &mut Paths,
    address: &str,
) -> Result<()> {
    let mut others: Vec<PathBuf> = Vec::new();
    // The main file is registries.conf, beside registries.conf.d.
    if dir.extension().is_some_and(|end| end == "d") {
        others.push(dir.with_extension(""));
    }
    for name in root.entries(dir)? {
        let conf = Path::new(&name)
            .extension()
            .is_some_and(|end| end == "conf");
        if conf && name != FILE {
            others.push(dir.join(name));
        }
    }
    for file in others {
        let Some(text) = root.read(&file)? else {
            continue;
        };
        for table in tables_of(&text) {
            let Some(prefix) = prefix(&table) else {
                continue;
            };
            let Some(path) = paths.remove(&prefix) else {
                let registry = prefix.split('/').next().unwrap_or_default();
                if paths.contains_key(registry) {
                    plan.notes.push(format!(
                        "{}: has a table for {prefix}, so CRI-O pulls from there as that table says",
                        file.display()
                    ));
                }
                continue;
            };
            let host = address.split_once("://").map_or(address, |(_, host)| host);
            let ours = format!("{host}/{path}");
            if mirrors(&table).first() == Some(&ours) {
                plan.notes.push(format!(
                    "{}: {prefix} uses larder already, so larder did not change it",
                    file.display()
                ));
            } else {
                plan.warnings.push(format!(
                    "{} has a [[registry]] table for {prefix}. A table of larder's would replace it as a whole, so larder wrote \
                     none. To pull {prefix} through larder, add these lines to that table, before its other mirrors:\n{}",
                    file.display(),
                    mirror(&path, address).trim_end()
                ));
            }
        }
    }
    Ok(())
}

/// The `[[registry]]` tables; empty if the text is not TOML, which CRI-O itself reports.
fn tables_of(text: &str) -> Vec<Table> {
    let Ok(mut conf) = text.parse::<Table>() else {
        return Vec::new();
    };
    match conf.remove("registry") {
        Some(Value::Array(tables)) => tables
            .into_iter()
            .filter_map(|table| match table {
                Value::Table(table) => Some(table),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// The prefix of a table, or its location if it has no prefix.
fn prefix(table: &Table) -> Option<String> {
    let said = |key: &str| table.get(key).and_then(Value::as_str);
    let prefix = said("prefix").filter(|prefix| !prefix.is_empty());
    prefix.or_else(|| said("location")).map(str::to_owned)
}

/// The locations of a table's mirrors, in order.
fn mirrors(table: &Table) -> Vec<String> {
    let mirrors = table.get("mirror").and_then(Value::as_array);
    let location = |mirror: &Value| mirror.get("location")?.as_str().map(str::to_owned);
    mirrors.into_iter().flatten().filter_map(location).collect()
}
