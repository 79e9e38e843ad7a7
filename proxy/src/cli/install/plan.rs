//! The plan: the steps, decided from the files on disk. Reads, never writes.
//!
//! Paths are the node's. `certs` and `crio` decide which files are written, and their content.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::block;
use super::hosts;
use super::root::{Owned, Root};

/// The mode of a new file.
pub(super) const NEW_FILE_MODE: u32 = 0o644;

/// The mark in the temporary name of a file or directory that is being written or removed.
const TEMPORARY: &str = ".larder-";

/// A temporary name beside `path`, which no runtime reads.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}{TEMPORARY}{:016x}", fastrand::u64(..)))
}

/// The name for which a temporary name was made; `None` for other names, such as an operator's `.larder-backup`.
fn beside(name: &str) -> Option<&str> {
    let (beside, digits) = name.strip_prefix('.')?.rsplit_once(TEMPORARY)?;
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (!beside.is_empty() && digits.len() == 16 && digits.bytes().all(hex)).then_some(beside)
}

/// One step. Each is atomic. If a run ends between two steps, the runtime can read its files, and larder can restore
/// them.
#[derive(Debug)]
pub(super) enum Step {
    /// A leftover of an interrupted run, under a temporary name.
    Clear(PathBuf),
    /// Keeps the file under a second name, so that its inode, owner, mode, times and bytes can come back.
    Keep { file: PathBuf, kept: PathBuf },
    /// Writes the file by way of a temporary file. `dirs` are the missing directories, the outermost first; they are
    /// made together with the file. `owned` is the mode and owner of the previous file.
    Write {
        dirs: Vec<PathBuf>,
        file: PathBuf,
        before: Option<String>,
        after: String,
        owned: Option<Owned>,
    },
    /// Gives the kept file its old name again. The texts are for the dry run.
    Restore {
        file: PathBuf,
        kept: PathBuf,
        before: String,
        after: String,
    },
    /// Removes the file. The text is for the dry run.
    Remove { file: PathBuf, before: String },
    /// Removes the outermost of `dirs` with its contents: the other ones and `files`. The texts are for the dry run.
    RemoveTree {
        dirs: Vec<PathBuf>,
        files: Vec<(PathBuf, String)>,
    },
}

/// The steps in their order, and what to print.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// What a person should know about the result, one line each.
    pub(super) notes: Vec<String>,
    /// When the runtime notices the changes, if the plan has any.
    pub(super) effects: Vec<String>,
    /// What a person should fix.
    pub(super) warnings: Vec<String>,
    /// Whether CRI-O has to read its files again.
    pub(super) crio_changes: bool,
    /// Whether a person has to check a file that was left.
    pub(super) unfinished: bool,
}

impl Plan {
    /// Whether larder's lines were found in no file.
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.notes.is_empty() && self.warnings.is_empty()
    }

    /// Removes the block from `file`, and adds the directories that were made for the file to `made`. `kept` is the
    /// path of the copy from before the install.
    pub(super) fn take(
        &mut self,
        root: &Root,
        file: &Path,
        kept: Option<&Path>,
        made: &mut BTreeSet<PathBuf>,
    ) -> Result<()> {
        let kept = kept.and_then(|kept| Some((kept, root.bytes(kept).ok()?)));
        let text = match root.read(file) {
            Ok(text) => text.unwrap_or_default(),
            Err(error) => {
                self.warnings
                    .push(format!("{error:#}; larder did not change it"));
                self.unfinished |= kept.is_some();
                return Ok(());
            }
        };
        let place = match block::find(&text) {
            Ok(place) => place,
            Err(why) => {
                self.warnings.push(format!("{}: {why}", file.display()));
                self.unfinished = true;
                return Ok(());
            }
        };
        let Some(place) = place else {
            match kept {
                // An earlier install ended between its two steps.
                Some((kept, bytes)) if bytes == text.as_bytes() => self.steps.push(Step::Remove {
                    file: kept.to_owned(),
                    before: text,
                }),
                Some((kept, _)) => self.note_kept(kept),
                None => {}
            }
            return Ok(());
        };
        let lines = &text[place.clone()];
        let own_dirs = file.ancestors().skip(1).take(block::made(lines));
        made.extend(own_dirs.map(Path::to_owned));
        if let Some((kept, bytes)) = &kept
            && let Ok(original) = std::str::from_utf8(bytes)
            && hosts::weave(original, lines).is_ok_and(|woven| woven == text)
        {
            self.steps.push(Step::Restore {
                after: original.to_owned(),
                file: file.to_owned(),
                kept: (*kept).to_owned(),
                before: text,
            });
            return Ok(());
        }
        let rest = block::strip(&text, &place);
        if rest.trim().is_empty() {
            self.steps.push(Step::Remove {
                file: file.to_owned(),
                before: text,
            });
        } else {
            self.notes.push(format!(
                "{}: changed since the install, so larder removes only its own lines; check the rest by hand",
                file.display()
            ));
            self.unfinished = true;
            let owned = Some(root.owned(file)?);
            self.steps.push(Step::Write {
                dirs: Vec::new(),
                file: file.to_owned(),
                before: Some(text),
                after: rest,
                owned,
            });
        }
        if let Some((kept, _)) = kept {
            self.note_kept(kept);
            self.unfinished = true;
        }
        Ok(())
    }

    /// Whether the plan removes `dir`.
    pub(super) fn removes(&self, dir: &Path) -> bool {
        let removes = |step: &Step| match step {
            Step::RemoveTree { dirs, .. } => dirs.iter().any(|gone| gone == dir),
            _ => false,
        };
        self.steps.iter().any(removes)
    }

    /// Whether the plan makes `dir`.
    pub(super) fn makes(&self, dir: &Path) -> bool {
        let makes = |step: &Step| match step {
            Step::Write { dirs, .. } => dirs.iter().any(|made| made == dir),
            _ => false,
        };
        self.steps.iter().any(makes)
    }

    /// Removes each file at its own path, before the directories around it.
    pub(super) fn remove_files_first(&mut self) {
        let mut steps = Vec::new();
        for mut step in self.steps.drain(..) {
            if let Step::RemoveTree { files, .. } = &mut step {
                let files = std::mem::take(files).into_iter();
                steps.extend(files.map(|(file, before)| Step::Remove { file, before }));
            }
            steps.push(step);
        }
        self.steps = steps;
    }

    /// Plans to remove the directories in `made` that will be empty. One that has a directory of `except` below it
    /// stays.
    pub(super) fn remove_made(
        &mut self,
        root: &Root,
        mut made: BTreeSet<PathBuf>,
        except: &BTreeSet<PathBuf>,
    ) -> Result<()> {
        // An outer directory sorts before the directories in it.
        while let Some(dir) = made.pop_first() {
            if except.iter().any(|used| used.starts_with(&dir)) || !root.exists(&dir)? {
                continue;
            }
            let goes = |path: &PathBuf| {
                made.contains(path)
                    || self.steps.iter().any(|step| match step {
                        Step::Remove { file, .. } => file == path,
                        Step::Clear(left) => path.starts_with(left),
                        _ => false,
                    })
            };
            let below = root.below(&dir)?;
            if !below.iter().all(goes) {
                continue;
            }
            let mut files = Vec::new();
            self.steps.retain_mut(|step| match step {
                Step::Remove { file, before } if file.starts_with(&dir) => {
                    files.push((std::mem::take(file), std::mem::take(before)));
                    false
                }
                _ => true,
            });
            let inner = made.iter().filter(|one| one.starts_with(&dir)).cloned();
            let dirs: Vec<PathBuf> = std::iter::once(dir.clone()).chain(inner).collect();
            made.retain(|one| !one.starts_with(&dir));
            self.steps.push(Step::RemoveTree { dirs, files });
        }
        Ok(())
    }

    /// Plans to remove the leftovers of interrupted runs in `dir`.
    pub(super) fn clear(
        &mut self,
        root: &Root,
        dir: &Path,
        written: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let left = root.entries(dir)?;
        let left = left
            .into_iter()
            .filter(|name| beside(name).is_some_and(&written));
        self.steps
            .extend(left.map(|name| Step::Clear(dir.join(name))));
        Ok(())
    }

    /// The same in the directory above `dir`, where only `dir` itself is larder's.
    pub(super) fn clear_above(&mut self, root: &Root, dir: &Path) -> Result<()> {
        let (Some(above), Some(own)) = (dir.parent(), dir.file_name()) else {
            return Ok(());
        };
        self.clear(root, above, |name| own == name)
    }

    /// The directories that are missing down to `dir`, the outermost first.
    pub(super) fn missing(&self, root: &Root, dir: &Path) -> Result<Vec<PathBuf>> {
        let mut missing = Vec::new();
        for ancestor in dir.ancestors() {
            let planned = |step: &Step| match step {
                Step::Write { dirs, .. } => dirs.iter().any(|made| made == ancestor),
                _ => false,
            };
            if root.exists(ancestor)? || self.steps.iter().any(planned) {
                break;
            }
            missing.push(ancestor.to_owned());
        }
        missing.reverse();
        Ok(missing)
    }

    fn note_kept(&mut self, kept: &Path) {
        self.notes.push(format!(
            "{}: the copy from before the install; compare it with the file, then delete it",
            kept.display()
        ));
    }
}
