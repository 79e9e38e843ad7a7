//! What is to be done, decided from what the disk holds. Reads, never writes.
//!
//! Paths are the node's. Which files there are, and what comes into them, is `certs`' and `crio`'s.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::block;
use super::hosts;
use super::root::{Owned, Root};

/// The mode of a file that was not there.
pub(super) const NEW_FILE_MODE: u32 = 0o644;

/// One act. Each is atomic, and any prefix of a plan leaves the runtime with files it can read.
#[derive(Debug)]
pub(super) enum Step {
    /// A directory that is not there, mode 0755. Its parent is there by then.
    MakeDir(PathBuf),
    /// A second name for the file as it is, so that inode, owner, mode, times and bytes can come back.
    Keep { file: PathBuf, kept: PathBuf },
    /// New content under the name, by way of a temporary file. `owned` is what the file before it had.
    Write {
        file: PathBuf,
        before: Option<String>,
        after: String,
        owned: Option<Owned>,
    },
    /// The kept file under its old name again. The texts are for showing.
    Restore {
        file: PathBuf,
        kept: PathBuf,
        before: String,
        after: String,
    },
    /// The file goes. The text is for showing.
    Remove { file: PathBuf, before: String },
    /// The directory goes, unless something is in it.
    RemoveDirIfEmpty(PathBuf),
}

/// Steps in order, and what to say besides.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// What a person should know about the outcome, one line each.
    pub(super) notes: Vec<String>,
    /// When the runtime sees what was done, if anything was.
    pub(super) effects: Vec<String>,
    /// What a person should mend.
    pub(super) warnings: Vec<String>,
    /// Whether a person has to look at what was left.
    pub(super) unfinished: bool,
}

impl Plan {
    /// Whether nothing of larder's was found.
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.notes.is_empty() && self.warnings.is_empty()
    }

    /// Takes the block out of `file`, and adds the directories that were made for it to `made`. `kept` is
    /// where the file from before the install would be.
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
                self.warnings.push(format!("{error:#}; left as it is"));
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
                // An install that ended between its two steps.
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
                "{}: changed since the install, so only larder's lines go and the rest stays; look at it",
                file.display()
            ));
            self.unfinished = true;
            let owned = Some(root.owned(file)?);
            self.steps.push(Step::Write {
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

    /// Whether `dir` is planned to go.
    pub(super) fn removes(&self, dir: &Path) -> bool {
        let removes = |step: &Step| matches!(step, Step::RemoveDirIfEmpty(gone) if gone == dir);
        self.steps.iter().any(removes)
    }

    /// Directories that were made for files that go. Those above what is in `except` are in use.
    pub(super) fn remove_made(&mut self, made: BTreeSet<PathBuf>, except: &BTreeSet<PathBuf>) {
        // The longest path first: a directory goes before the one that holds it.
        let unused = made.into_iter().rev();
        let unused = unused.filter(|dir| !except.iter().any(|used| used.starts_with(dir)));
        self.steps.extend(unused.map(Step::RemoveDirIfEmpty));
    }

    /// Plans the missing directories down to `dir` and counts them.
    pub(super) fn make_dirs(&mut self, root: &Root, dir: &Path) -> Result<usize> {
        let mut missing = Vec::new();
        for ancestor in dir.ancestors() {
            let planned = |step: &Step| matches!(step, Step::MakeDir(made) if made == ancestor);
            if root.exists(ancestor)? || self.steps.iter().any(planned) {
                break;
            }
            missing.push(ancestor.to_owned());
        }
        let made = missing.len();
        self.steps
            .extend(missing.into_iter().rev().map(Step::MakeDir));
        Ok(made)
    }

    fn note_kept(&mut self, kept: &Path) {
        self.notes.push(format!(
            "{}: the file from before the install, left for you to compare and delete",
            kept.display()
        ));
    }
}
