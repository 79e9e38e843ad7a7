//! A plan, carried out or only shown.

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::Path;

use anyhow::{Context as _, Result};
use similar::TextDiff;

use super::plan::{NEW_FILE_MODE, Plan, Step};
use super::root::{Owned, Root};

/// Does what `plan` says, or shows it; tells `out` what was done and `complaints` what a person should mend.
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
        } else if let Some(said) = carry_out(step, root)? {
            writeln!(out, "{said}")?;
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
        Step::MakeDir(dir) => writeln!(out, "would make {}", dir.display())?,
        Step::Keep { file, kept } => {
            writeln!(out, "would keep {} as {}", file.display(), kept.display())?;
        }
        Step::Write {
            file,
            before,
            after,
            ..
        } => diff(file, before.as_deref(), Some(after), out)?,
        Step::Restore {
            file,
            kept,
            before,
            after,
        } => {
            writeln!(
                out,
                "would put {} back from {}",
                file.display(),
                kept.display()
            )?;
            diff(file, Some(before), Some(after), out)?;
        }
        Step::Remove { file, before } => diff(file, Some(before), None, out)?,
        Step::RemoveDirIfEmpty(dir) => {
            writeln!(out, "would remove {} if empty by then", dir.display())?;
        }
    }
    Ok(())
}

/// A unified diff; `None` is a file that is not there.
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

/// Does one step and gives the line that tells of it.
fn carry_out(step: &Step, root: &Root) -> Result<Option<String>> {
    let said = match step {
        Step::MakeDir(dir) => {
            root.here(dir)
                .and_then(|here| make_dir(&here))
                .with_context(|| format!("cannot make {}", dir.display()))?;
            format!("made {}", dir.display())
        }
        Step::Keep { file, kept } => {
            root.here(file)
                .and_then(|here| keep(&here, &root.here(kept)?))
                .with_context(|| format!("cannot keep {}", file.display()))?;
            format!("kept {} as {}", file.display(), kept.display())
        }
        Step::Write {
            file,
            before,
            after,
            owned,
        } => {
            root.here(file)
                .and_then(|here| write(&here, after, *owned))
                .with_context(|| format!("cannot write {}", file.display()))?;
            let verb = if before.is_some() { "changed" } else { "wrote" };
            format!("{verb} {}", file.display())
        }
        Step::Restore { file, kept, .. } => {
            root.here(file)
                .and_then(|here| {
                    fs::rename(root.here(kept)?, &here)?;
                    sync_parent(&here)
                })
                .with_context(|| format!("cannot put {} back", file.display()))?;
            format!("put {} back as it was", file.display())
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
        Step::RemoveDirIfEmpty(dir) => match root.here(dir).and_then(fs::remove_dir) {
            Ok(()) => format!("removed {}", dir.display()),
            Err(error) => match error.kind() {
                ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound => return Ok(None),
                ErrorKind::ResourceBusy => {
                    format!("{} is mounted here, so it stays, empty", dir.display())
                }
                _ => {
                    return Err(error).with_context(|| format!("cannot remove {}", dir.display()));
                }
            },
        },
    };
    Ok(Some(said))
}

fn make_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir(dir)?;
    // Whatever the umask says: the runtime's other tools read these without being root.
    fs::set_permissions(dir, Permissions::from_mode(0o755))
}

/// Gives `file` the second name `kept`; a copy where the file system has no hard links.
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

/// A copy with the same mode, owner and times.
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

/// Replaces `file` as a whole, or leaves it as it is.
fn write(file: &Path, text: &str, owned: Option<Owned>) -> io::Result<()> {
    let name = file
        .file_name()
        .ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
    let temporary = file.with_file_name(format!(
        ".{}.larder-{}",
        name.to_string_lossy(),
        std::process::id()
    ));
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
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn sync_parent(file: &Path) -> io::Result<()> {
    file.parent()
        .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
