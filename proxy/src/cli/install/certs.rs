//! Plans the changes for containerd: one `hosts.toml` for every registry, or one for each. Reads, never writes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};

use super::EVERY;
use super::block;
use super::hosts::{self, Block};
use super::plan::{Plan, Step};
use super::root::Root;

const FILE: &str = "hosts.toml";
const KEPT: &str = "hosts.toml.before-larder";
/// containerd reads this directory for every registry that has no directory of its own.
const DEFAULT: &str = "_default";

/// Puts `address` first for `registries`, or for all if the list is empty or holds [`EVERY`]. With `exact`, removes
/// larder from the files of all other registries.
pub(super) fn install(
    plan: &mut Plan,
    root: &Root,
    dir: &Path,
    registries: &[String],
    address: &str,
    exact: bool,
) -> Result<()> {
    root.mounted(dir)?;
    let mut certs = Certs {
        plan,
        root,
        inherited: 0,
    };
    let every = registries.is_empty() || registries.iter().any(|name| name == EVERY);
    let mut wanted: Vec<(PathBuf, Option<&str>)> = Vec::new();
    if every {
        wanted.push((dir.join(DEFAULT), None));
    }
    for registry in registries.iter().filter(|name| *name != EVERY) {
        let host_dir = host_dir(root, dir, registry)?;
        if !wanted.iter().any(|(known, _)| *known == host_dir) {
            wanted.push((host_dir, Some(registry)));
        }
    }
    certs.clear(dir)?;
    // Removals are planned first but done last. The files of this run then record the directories that removed files
    // had recorded.
    let before = certs.plan.steps.len();
    if exact {
        let except = wanted.iter().map(|(host_dir, _)| host_dir.clone());
        certs.take_all(dir, &except.collect())?;
    }
    let gone = certs.plan.steps.len() - before;
    for (host_dir, registry) in &wanted {
        if let Some(registry) = registry {
            certs.warn_of_certificates(host_dir, registry)?;
        }
        certs.put(host_dir, address)?;
    }
    if every {
        certs.warn_of_shadows(dir, &wanted, exact)?;
    }
    certs.plan.steps[before..].rotate_left(gone);
    if !certs.plan.steps.is_empty() {
        certs
            .plan
            .effects
            .push("containerd reads these files at every pull, so it needs no restart".to_owned());
    }
    Ok(())
}

/// Removes larder from every file under `dir`.
pub(super) fn uninstall(plan: &mut Plan, root: &Root, dir: &Path) -> Result<()> {
    root.mounted(dir)?;
    let mut certs = Certs {
        plan,
        root,
        inherited: 0,
    };
    certs.clear(dir)?;
    certs.take_all(dir, &BTreeSet::new())
}

/// The part of the plan that is about containerd.
struct Certs<'a> {
    plan: &'a mut Plan,
    root: &'a Root,
    /// How many directories above those of the registries were made for files that are now removed. The next new file
    /// records them.
    inherited: usize,
}

impl Certs<'_> {
    /// Removes leftovers of earlier runs from the places where this run writes: above `dir`, in it, and in the
    /// directories of registries.
    fn clear(&mut self, dir: &Path) -> Result<()> {
        self.plan.clear_above(self.root, dir)?;
        // In `dir` a leftover may have any name, since any name may be a registry's.
        self.plan.clear(self.root, dir, |_| true)?;
        for name in self.root.directories(dir)? {
            let host_dir = dir.join(name);
            self.plan.clear(self.root, &host_dir, |name| name == FILE)?;
        }
        Ok(())
    }

    /// Puts larder's block into the `hosts.toml` of `host_dir`.
    fn put(&mut self, host_dir: &Path, address: &str) -> Result<()> {
        let file = host_dir.join(FILE);
        let Some(text) = self.root.read_to_replace(&file)? else {
            let dirs = self.plan.missing(self.root, host_dir)?;
            let made = self.with_inherited(dirs.len());
            self.plan.steps.push(Step::Write {
                dirs,
                file,
                before: None,
                after: Block { address, made }.render(),
                owned: None,
            });
            return Ok(());
        };
        let refused = |why: String| anyhow!("{}: {why}; no file was changed", file.display());
        let listed = hosts::hosts_in_order(&text).map_err(refused)?;
        let is_larder = |host: &String| host.trim_end_matches('/') == address;
        let first = listed.first().is_some_and(is_larder);
        let after = if let Some(place) = block::find(&text).map_err(refused)? {
            let made = self.with_inherited(block::made(&text[place.clone()]));
            let block = Block { address, made }.render();
            let after = format!("{}{block}{}", &text[..place.start], &text[place.end..]);
            hosts::hosts_in_order(&after).map_err(refused)?;
            if after == text {
                if !first {
                    self.warn_not_first(&file);
                }
                self.plan.notes.push(format!(
                    "{}: already installed, nothing to change",
                    file.display()
                ));
                return Ok(());
            }
            after
        } else if listed.iter().any(is_larder) {
            if !first {
                self.warn_not_first(&file);
            }
            self.plan.notes.push(format!(
                "{}: names {address} without larder's marks, so larder did not change it",
                file.display()
            ));
            return Ok(());
        } else {
            let block = Block { address, made: 0 }.render();
            let after = hosts::weave(&text, &block).map_err(refused)?;
            self.plan.steps.push(Step::Keep {
                file: file.clone(),
                kept: host_dir.join(KEPT),
            });
            after
        };
        let owned = Some(self.root.owned(&file)?);
        self.plan.steps.push(Step::Write {
            dirs: Vec::new(),
            file,
            before: Some(text),
            after,
            owned,
        });
        Ok(())
    }

    /// Removes larder from the files of all directories but those in `except`.
    fn take_all(&mut self, dir: &Path, except: &BTreeSet<PathBuf>) -> Result<()> {
        let mut made = BTreeSet::new();
        for name in self.root.directories(dir)? {
            let host_dir = dir.join(name);
            if !except.contains(&host_dir) {
                let kept = host_dir.join(KEPT);
                self.plan
                    .take(self.root, &host_dir.join(FILE), Some(&kept), &mut made)?;
            }
        }
        let above = dir.ancestors().take_while(|above| made.contains(*above));
        self.inherited = above.count();
        self.plan.remove_made(self.root, made, except)
    }

    /// Adds the inherited directories to `made` if the file's own directory was made too.
    fn with_inherited(&mut self, made: usize) -> usize {
        if made == 0 {
            return 0;
        }
        made + std::mem::take(&mut self.inherited)
    }

    fn warn_not_first(&mut self, file: &Path) {
        self.plan.warnings.push(format!(
            "{}: containerd asks another host before larder; move larder's section up",
            file.display()
        ));
    }

    /// Warns of registries' directories without larder. Each hides `_default`, even without a hosts.toml in it.
    fn warn_of_shadows(
        &mut self,
        dir: &Path,
        wanted: &[(PathBuf, Option<&str>)],
        exact: bool,
    ) -> Result<()> {
        let mut shadows = Vec::new();
        for name in self.root.directories(dir)? {
            let host_dir = dir.join(&name);
            let text = self.root.read(&host_dir.join(FILE)).unwrap_or_default();
            let larder = text.is_some_and(|text| matches!(block::find(&text), Ok(Some(_))));
            let planned = wanted.iter().any(|(planned, _)| *planned == host_dir)
                || self.plan.removes(&host_dir);
            // With `exact`, this run removes larder's lines from other directories.
            if !planned && (exact || !larder) {
                shadows.push(registry_of(&name));
            }
        }
        if !shadows.is_empty() {
            // In the chart's init container, a value of the chart names the registries.
            let how = if self.root.is_own() {
                let flags = shadows.iter().map(|name| format!(" --registry {name}"));
                format!("larder install --registry '*'{}", flags.collect::<String>())
            } else {
                format!(
                    "set the chart's value runtime.registries to [\"*\", \"{}\"]",
                    shadows.join("\", \"")
                )
            };
            self.plan.warnings.push(format!(
                "these registries have their own directory in {}, which hides _default: {}. \
                 To pull them through larder too: {how}",
                dir.display(),
                shadows.join(", ")
            ));
        }
        Ok(())
    }

    /// containerd uses loose certificates in a directory only while the directory has no hosts.toml.
    fn warn_of_certificates(&mut self, host_dir: &Path, registry: &str) -> Result<()> {
        if self
            .root
            .read(&host_dir.join(FILE))?
            .is_some_and(|text| !text.is_empty())
        {
            return Ok(());
        }
        let mut certificates: Vec<String> = self
            .root
            .entries(host_dir)?
            .into_iter()
            .filter(|name| {
                let extension = Path::new(name).extension();
                extension.is_some_and(|end| end == "crt" || end == "cert" || end == "key")
            })
            .collect();
        if certificates.is_empty() {
            return Ok(());
        }
        certificates.sort_unstable();
        self.plan.warnings.push(format!(
            "{}: with a hosts.toml, containerd no longer loads {} by itself. For pulls that bypass \
             larder, add above larder's lines: server = \"https://{registry}\" and ca (or client) with these files",
            host_dir.display(),
            certificates.join(", ")
        ));
        Ok(())
    }
}

/// The directory of `registry`: the one that containerd would find, or else the name that containerd tries first.
fn host_dir(root: &Root, dir: &Path, registry: &str) -> Result<PathBuf> {
    let plain = dir.join(registry);
    let Some((host, port)) = registry
        .rsplit_once(':')
        .filter(|(_, port)| !port.ends_with(']'))
    else {
        return Ok(plain);
    };
    let escaped = dir.join(format!("{host}_{port}_"));
    Ok(if !root.exists(&escaped)? && root.exists(&plain)? {
        plain
    } else {
        escaped
    })
}

/// The registry to which a directory belongs.
fn registry_of(directory: &str) -> String {
    directory
        .strip_suffix('_')
        .and_then(|name| name.rsplit_once('_'))
        .filter(|(_, port)| port.parse::<u16>().is_ok())
        .map_or_else(
            || directory.to_owned(),
            |(host, port)| format!("{host}:{port}"),
        )
}
