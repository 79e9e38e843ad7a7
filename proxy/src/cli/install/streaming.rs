//! Plans containerd's drop-in for ready files: the erofs snapshotter, and the directory where it looks for them. Reads,
//! never writes.
//!
//! A drop-in replaces lists as a whole, so larder's drop-in repeats the items of the other files. larder never changes
//! containerd's own file: if that imports no drop-ins, a person adds the line.

mod said;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use toml::{Table, Value};

use self::said::{DropIn, EROFS, IMAGES, TRANSFER};
pub use self::said::{Said, Unpack};
use super::block;
use super::plan::{Plan, Step};
use super::root::Root;

/// The drop-in's name.
const FILE: &str = "larder-streaming.toml";

/// The snapshotter that mounts ready files.
const SNAPSHOTTER: &str = "erofs";

/// This differ works with every mkfs.erofs. The differ `erofs` needs an mkfs.erofs that knows `--tar`. With an older
/// one, containerd does not load the service that pulls.
const DIFFER: &str = "walking";

/// Plans the drop-in. In a container it fails, and the error has the lines that a person should write on the node.
pub(super) fn install(plan: &mut Plan, root: &Root, config: &Path, directory: &Path) -> Result<()> {
    let unknown = |why: String| anyhow!("{why}; no file was changed");
    let before = said::read(root, config, FILE).map_err(unknown)?;
    let lines = drop_in(&before, directory);
    let (file, line) = match said::drop_in(root, config, FILE).map_err(unknown)? {
        DropIn::Read(file) => (file, None),
        DropIn::Import { file, line } => (file, Some(line)),
    };
    plan.warnings.extend(conflicts(&before, config));
    if !root.is_own() {
        bail!(
            "larder writes containerd's own configuration only on the machine itself, never from a container. Save these lines \
             on the node as {} and restart containerd once:\n{lines}",
            file.display()
        );
    }
    if let Some(line) = line {
        plan.warnings.push(format!(
            "{} imports no drop-ins, so containerd does not read {} yet. Add this line to it, above the first section:\n{line}",
            config.display(),
            file.display()
        ));
    }
    write(plan, root, &file, &lines)?;
    if !plan.steps.is_empty() {
        plan.effects.push(
            "containerd reads it when it starts: restart it once (systemctl restart containerd). Running containers go on. \
             containerd unpacks images that it has already once more, when a container of them starts: begin with fresh nodes"
                .to_owned(),
        );
    }
    Ok(())
}

/// Removes the drop-in.
pub(super) fn uninstall(plan: &mut Plan, root: &Root, config: &Path) -> Result<()> {
    // In a container, uninstall leaves the drop-in alone: only a person on the machine may have written it.
    if !root.is_own() {
        return Ok(());
    }
    let mut places = BTreeSet::from([default_place(config)]);
    if let Ok(DropIn::Read(file)) = said::drop_in(root, config, FILE) {
        places.insert(file);
    }
    for file in places {
        let steps = plan.steps.len();
        let mut made = BTreeSet::new();
        plan.take(root, &file, None, &mut made)?;
        plan.remove_made(root, made, &BTreeSet::new())?;
        if plan.steps.len() > steps {
            plan.effects.push(
                "containerd goes on with its erofs snapshotter until it is restarted (systemctl restart containerd). First drain \
                 the node and remove the images that it has mounted from larder's files (crictl rmi): they need these files, and \
                 after the restart the kubelet starts no container of them"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

/// What containerd's files say now, including larder's drop-in.
///
/// # Errors
/// One of the files cannot be read or understood.
pub(in crate::cli) fn said(root: &Root, config: &Path) -> Result<Said, String> {
    said::read(root, config, "")
}

fn default_place(config: &Path) -> PathBuf {
    let dir = config.parent().unwrap_or(Path::new("/"));
    dir.join(said::BY_DEFAULT).with_file_name(FILE)
}

fn write(plan: &mut Plan, root: &Root, file: &Path, lines: &str) -> Result<()> {
    let dir = file.parent().unwrap_or(Path::new("/"));
    plan.clear(root, dir, |name| name == FILE)?;
    let text = root.read_to_replace(file)?;
    let place = match &text {
        None => None,
        Some(text) => match block::find(text) {
            Ok(Some(place)) => Some(place),
            Ok(None) => bail!(
                "{}: larder did not write this file; move it away first. No file was changed",
                file.display()
            ),
            Err(why) => bail!("{}: {why}", file.display()),
        },
    };
    let (dirs, made) = if let (Some(text), Some(place)) = (&text, &place) {
        (Vec::new(), block::made(&text[place.clone()]))
    } else {
        let dirs = plan.missing(root, dir)?;
        let made = dirs.len();
        (dirs, made)
    };
    let lines = block::marked(lines, made);
    let (after, owned) = match (&text, place) {
        (Some(text), Some(place)) => (
            format!("{}{lines}{}", &text[..place.start], &text[place.end..]),
            Some(root.owned(file)?),
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
        file: file.to_owned(),
        before: text,
        after,
        owned,
    });
    Ok(())
}

/// The lines of the drop-in. `before` is what containerd's other files say.
fn drop_in(before: &Said, directory: &Path) -> String {
    let directory = directory.display().to_string();
    let mut directories = before.directories.clone();
    if !directories.contains(&directory) {
        directories.push(directory);
    }
    let directories: Vec<Value> = directories.into_iter().map(Value::String).collect();
    let mut lines = format!(
        "# containerd mounts layers that larder has made ready, and pulls and unpacks all others.\n\
         version = 3\n\n\
         [plugins.\"{IMAGES}\"]\n  snapshotter = \"{SNAPSHOTTER}\"\n\n\
         [plugins.\"{EROFS}\"]\n  layer_content_caches = {}\n",
        Value::Array(directories)
    );
    // A list in the drop-in replaces containerd's default too, which is for the overlayfs snapshotter.
    let mut entries: Vec<Table> = match &before.unpack {
        Some(unpack) => unpack.iter().map(|one| one.entry.clone()).collect(),
        None => vec![entry("overlayfs")],
    };
    let has = before.unpack.as_ref();
    if !has.is_some_and(|unpack| unpack.iter().any(Unpack::is_for_ready_files)) {
        entries.push(entry(SNAPSHOTTER));
    }
    for entry in entries {
        let _ = write!(lines, "\n[[plugins.\"{TRANSFER}\".unpack_config]]\n");
        for (key, value) in entry {
            let _ = writeln!(lines, "  {key} = {value}");
        }
    }
    lines
}

fn entry(snapshotter: &str) -> Table {
    let text = |key: &str, value: &str| (key.to_owned(), Value::String(value.to_owned()));
    Table::from_iter([
        text("platform", "linux"),
        text("snapshotter", snapshotter),
        text("differ", DIFFER),
    ])
}

/// Settings of other files that a drop-in cannot undo.
fn conflicts(before: &Said, config: &Path) -> Vec<String> {
    before
        .hindrances()
        .into_iter()
        .map(|(wrong, fix)| {
            format!(
                "{} and its imports: {wrong}. To fix it, {fix}",
                config.display()
            )
        })
        .collect()
}

impl Said {
    /// The settings that keep the erofs snapshotter from mounting ready files, each with its fix.
    pub fn hindrances(&self) -> Vec<(String, &'static str)> {
        let mut found = Vec::new();
        for (set, key) in [
            (self.set_immutable, "set_immutable"),
            (self.enable_fsverity, "enable_fsverity"),
        ] {
            if set {
                found.push((
                    format!(
                        "{key} is set, and beside layer_content_caches containerd's erofs snapshotter does not start with it"
                    ),
                    "remove that line and restart containerd",
                ));
            }
        }
        if self.dmverity_mode == "on" {
            found.push((
                "dmverity_mode is \"on\", so containerd refuses each ready file and the pull fails"
                    .to_owned(),
                "set it to \"auto\" and restart containerd",
            ));
        }
        if self.disabled {
            found.push((
                "disabled_plugins has the erofs snapshotter".to_owned(),
                "remove it from that list and restart containerd",
            ));
        }
        found
    }
}
