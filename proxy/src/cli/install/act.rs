//! Carries a plan out, or shows it.

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use similar::TextDiff;

use super::plan::{NEW_FILE_MODE, Plan, Step, temporary};
use super::root::{Owned, Root};

/// Carries `plan` out, or shows it. Writes to `out` what it did, and to `complaints` what a person should fix.
pub(super) fn act(
    plan: &Plan,
    root: &Root,
    dry_run: bool,
    out: &mut dyn Write,
    complaints: &mut dyn Write,
) -> Result<()> {
    for step in &plan.steps {
        if dry_run {
            show(step, out)?;
        } else {
            writeln!(out, "{}", carry_out(step, root)?)?;
        }
    }
    for note in &plan.notes {
        writeln!(out, "{note}")?;
    }
    if dry_run {
        writeln!(out, "dry run: nothing was changed")?;
    } else {
        for effect in &plan.effects {
            writeln!(out, "{effect}")?;
        }
    }
    for warning in &plan.warnings {
        writeln!(complaints, "warning: {warning}")?;
    }
    Ok(())
}

fn show(step: &Step, out: &mut dyn Write) -> Result<()> {
    match step {
        Step::Clear(left) => writeln!(out, "would clear {}", left.display())?,
        Step::Keep { file, kept } => {
            writeln!(out, "would keep {} as {}", file.display(), kept.display())?;
        }
        Step::Write {
            dirs,
            file,
            before,
            after,
            ..
        } => {
            for dir in dirs {
                writeln!(out, "would make {}", dir.display())?;
            }
            diff(file, before.as_deref(), Some(after), out)?;
        }
        Step::Restore {
            file,
            kept,
            before,
            after,
        } => {
            writeln!(
                out,
                "would restore {} from {}",
                file.display(),
                kept.display()
            )?;
            diff(file, Some(before), Some(after), out)?;
        }
        Step::Remove { file, before } => diff(file, Some(before), None, out)?,
        Step::RemoveTree { dirs, files } => {
            for (file, before) in files {
                diff(file, Some(before), None, out)?;
            }
            for dir in dirs.iter().rev() {
                writeln!(out, "would remove {}", dir.display())?;
            }
        }
    }
    Ok(())
}

/// A unified diff; `None` stands for a file that does not exist.
fn diff(file: &Path, before: Option<&str>, after: Option<&str>, out: &mut dyn Write) -> Result<()> {
    let name = file.display().to_string();
    let label = |text: Option<&str>| text.map_or("/dev/null", |_| &name);
    let lines = TextDiff::from_lines(before.unwrap_or_default(), after.unwrap_or_default());
    let unified = lines
        .unified_diff()
        .header(label(before), label(after))
        .to_string();
    out.write_all(unified.as_bytes())?;
    Ok(())
}

/// Carries out one step and returns the lines that report it.
fn carry_out(step: &Step, root: &Root) -> Result<String> {
    let said = match step {
        Step::Clear(left) => {
            root.here(left)
                .and_then(|here| clear(&here))
                .with_context(|| format!("cannot clear {}", left.display()))?;
            format!("cleared {}", left.display())
        }
        Step::Keep { file, kept } => {
            root.here(file)
                .and_then(|here| keep(&here, &root.here(kept)?))
                .with_context(|| format!("cannot keep {}", file.display()))?;
            format!("kept {} as {}", file.display(), kept.display())
        }
        Step::Write {
            dirs,
            file,
            before,
            after,
            owned,
        } => {
            root.here(file)
                .and_then(|here| match dirs.first() {
                    None => write(&here, after, *owned),
                    Some(outermost) => write_with_dirs(&root.here(outermost)?, &here, after),
                })
                .with_context(|| format!("cannot write {}", file.display()))?;
            let verb = if before.is_some() { "changed" } else { "wrote" };
            let mut said: Vec<String> = dirs
                .iter()
                .map(|dir| format!("made {}", dir.display()))
                .collect();
            said.push(format!("{verb} {}", file.display()));
            said.join("\n")
        }
        Step::Restore { file, kept, .. } => {
            root.here(file)
                .and_then(|here| {
                    fs::rename(root.here(kept)?, &here)?;
                    sync_parent(&here)
                })
                .with_context(|| format!("cannot restore {}", file.display()))?;
            format!("restored {}", file.display())
        }
        Step::Remove { file, .. } => {
            root.here(file)
                .and_then(|here| {
                    fs::remove_file(&here)?;
                    sync_parent(&here)
                })
                .with_context(|| format!("cannot remove {}", file.display()))?;
            format!("removed {}", file.display())
        }
        Step::RemoveTree { dirs, files } => {
            let mut said: Vec<String> = files
                .iter()
                .map(|(file, _)| format!("removed {}", file.display()))
                .collect();
            for dir in remove_tree(dirs, root)? {
                said.push(format!("removed {}", dir.display()));
            }
            if let Some(outermost) = dirs.first().filter(|dir| root.exists(dir).unwrap_or(false)) {
                said.push(format!(
                    "{} is a mount point, so the empty directory stays",
                    outermost.display()
                ));
            }
            said.join("\n")
        }
    };
    Ok(said)
}

/// Removes the outermost of `dirs` with its contents, and returns the removed directories, the innermost first.
fn remove_tree<'a>(dirs: &'a [PathBuf], root: &Root) -> Result<Vec<&'a PathBuf>> {
    let Some((outermost, inner)) = dirs.split_first() else {
        return Ok(Vec::new());
    };
    let cannot = || format!("cannot remove {}", outermost.display());
    let here = root.here(outermost).with_context(cannot)?;
    let going = temporary(&here);
    match fs::rename(&here, &going) {
        Ok(()) => {
            let cleared = sync_parent(&here).and_then(|()| fs::remove_dir_all(&going));
            cleared.with_context(cannot)?;
            Ok(dirs.iter().rev().collect())
        }
        // A mount point, as in a container, cannot be renamed: only its contents go.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::ResourceBusy | ErrorKind::ReadOnlyFilesystem | ErrorKind::CrossesDevices
            ) =>
        {
            for entry in fs::read_dir(&here).with_context(cannot)? {
                entry
                    .and_then(|entry| clear(&entry.path()))
                    .with_context(cannot)?;
            }
            Ok(inner.iter().rev().collect())
        }
        Err(error) => Err(error).with_context(cannot),
    }
}

/// Removes a file, or a directory with all that is in it.
fn clear(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir(dir)?;
    // Independent of the umask, since other tools of the runtime read these directories without being root.
    fs::set_permissions(dir, Permissions::from_mode(0o755))
}

/// Makes the directories from `outermost` down to `file`, and the file itself. All appear at once, or none does.
fn write_with_dirs(outermost: &Path, file: &Path, text: &str) -> io::Result<()> {
    let outside = || io::Error::from(ErrorKind::InvalidInput);
    let below = file.strip_prefix(outermost).map_err(|_| outside())?;
    let coming = temporary(outermost);
    let written = (|| {
        let mut dir = coming.clone();
        make_dir(&dir)?;
        for name in below.parent().ok_or_else(outside)? {
            dir.push(name);
            make_dir(&dir)?;
        }
        write(&coming.join(below), text, None)?;
        for dir in dir
            .ancestors()
            .skip(1)
            .take_while(|dir| dir.starts_with(&coming))
        {
            File::open(dir)?.sync_all()?;
        }
        fs::rename(&coming, outermost)?;
        sync_parent(outermost)
    })();
    if written.is_err() {
        // The first error is reported.
        let _ = fs::remove_dir_all(&coming);
    }
    written
}

/// Gives `file` the second name `kept`. If the file system has no hard links, `kept` is a copy.
fn keep(file: &Path, kept: &Path) -> io::Result<()> {
    match fs::remove_file(kept) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if fs::hard_link(file, kept).is_err() {
        copy(file, kept)?;
    }
    sync_parent(kept)
}

/// Makes a copy with the same mode, owner and times.
fn copy(file: &Path, to: &Path) -> io::Result<()> {
    fs::copy(file, to)?;
    let metadata = fs::metadata(file)?;
    chown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    let copy = File::options().write(true).open(to)?;
    copy.set_times(
        FileTimes::new()
            .set_accessed(metadata.accessed()?)
            .set_modified(metadata.modified()?),
    )?;
    copy.sync_all()
}

/// Replaces `file` as a whole, or leaves it unchanged.
fn write(file: &Path, text: &str, owned: Option<Owned>) -> io::Result<()> {
    let temporary = temporary(file);
    let written = (|| {
        let mut open = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        open.write_all(text.as_bytes())?;
        if let Some(owned) = owned {
            let own = open.metadata()?;
            if (own.uid(), own.gid()) != (owned.user, owned.group) {
                chown(&temporary, Some(owned.user), Some(owned.group))?;
            }
        }
        let mode = owned.map_or(NEW_FILE_MODE, |owned| owned.mode);
        open.set_permissions(Permissions::from_mode(mode))?;
        open.sync_all()?;
        fs::rename(&temporary, file)?;
        sync_parent(file)
    })();
    if written.is_err() {
        // The first error is reported.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn sync_parent(file: &Path) -> io::Result<()> {
    file.parent()
        .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
