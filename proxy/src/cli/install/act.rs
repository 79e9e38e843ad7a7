//! A plan, carried out or only shown.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use similar::TextDiff;

use super::plan::{Plan, Step};

/// Does what `plan` says, or shows it, and tells `out`.
pub(super) fn act(plan: &Plan, dry_run: bool, out: &mut dyn Write) -> Result<()> {
    for step in &plan.steps {
        if dry_run {
            show(step, out)?;
        } else {
            let said = carry_out(step)?;
            if let Some(said) = said {
                writeln!(out, "{said}")?;
            }
        }
    }
    for note in &plan.notes {
        writeln!(out, "{note}")?;
    }
    for warning in &plan.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    if !plan.steps.is_empty() {
        let end = if dry_run {
            "dry run: nothing was changed"
        } else {
            "containerd reads these files at every pull, so it needs no restart for them"
        };
        writeln!(out, "{end}")?;
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
fn carry_out(step: &Step) -> Result<Option<String>> {
    let said = match step {
        Step::MakeDir(dir) => {
            make_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            format!("made {}", dir.display())
        }
        Step::Keep { file, kept } => {
            keep(file, kept).with_context(|| format!("cannot keep {}", file.display()))?;
            format!("kept {} as {}", file.display(), kept.display())
        }
        Step::Write {
            file,
            before,
            after,
            mode,
        } => {
            write(file, after, *mode)
                .with_context(|| format!("cannot write {}", file.display()))?;
            let verb = if before.is_some() { "changed" } else { "wrote" };
            format!("{verb} {}", file.display())
        }
        Step::Restore { file, kept, .. } => {
            fs::rename(kept, file)
                .and_then(|()| sync_parent(file))
                .with_context(|| format!("cannot put {} back", file.display()))?;
            format!("put {} back as it was", file.display())
        }
        Step::Remove { file, .. } => {
            fs::remove_file(file)
                .and_then(|()| sync_parent(file))
                .with_context(|| format!("cannot remove {}", file.display()))?;
            format!("removed {}", file.display())
        }
        Step::RemoveDirIfEmpty(dir) => match fs::remove_dir(dir) {
            Ok(()) => format!("removed {}", dir.display()),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound
                ) =>
            {
                return Ok(None);
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot remove {}", dir.display()));
            }
        },
    };
    Ok(Some(said))
}

fn make_dir(dir: &Path) -> std::io::Result<()> {
    fs::create_dir(dir)?;
    // Whatever the umask says: containerd's other tools read these without being root.
    fs::set_permissions(dir, Permissions::from_mode(0o755))
}

/// Gives `file` the second name `kept`; a copy where the file system has no hard links.
fn keep(file: &Path, kept: &Path) -> std::io::Result<()> {
    match fs::remove_file(kept) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if fs::hard_link(file, kept).is_err() {
        fs::copy(file, kept)?;
        File::open(kept)?.sync_all()?;
    }
    sync_parent(kept)
}

/// Replaces `file` as a whole, or leaves it as it is.
fn write(file: &Path, text: &str, mode: u32) -> Result<()> {
    let name = file.file_name().ok_or_else(|| anyhow!("no file name"))?;
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
        open.set_permissions(Permissions::from_mode(mode))?;
        open.sync_all()?;
        fs::rename(&temporary, file)?;
        sync_parent(file)
    })();
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    Ok(written?)
}

fn sync_parent(file: &Path) -> std::io::Result<()> {
    file.parent()
        .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
