//! The new file: written beside the old one, then renamed into its place. A reader sees either file whole.
//!
//! Items are written as they come, so a node with ten thousand blobs takes no more memory than one with ten. The
//! watcher has one thread and nothing else to do meanwhile, so it writes on that thread.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use larder_shared::runtime::{Software, VERSION};
use serde::Serialize;

/// Anybody on the node may read it: it holds no secret.
const MODE: u32 = 0o644;

/// The end of a temporary name, before its random digits.
const TEMPORARY: &str = ".larder-";

/// A file that is being written. If it is dropped before its end, the temporary file is removed.
#[derive(Debug)]
pub struct Draft {
    to: BufWriter<File>,
    temporary: PathBuf,
    file: PathBuf,
    /// Whether a list is open, and whether it has an item already.
    list: Option<bool>,
    whole: bool,
}

impl Draft {
    /// Begins a draft of `file`.
    pub fn begin(
        file: &Path,
        at: u64,
        boot: Option<&str>,
        software: &Software,
    ) -> io::Result<Self> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let random = fastrand::u64(..);
        let temporary = file.with_file_name(format!(".{name}{TEMPORARY}{random:016x}"));
        // A link that someone has made there is not followed.
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        let mut draft = Self {
            to: BufWriter::with_capacity(16 * 1024, opened),
            temporary,
            file: file.to_owned(),
            list: None,
            whole: false,
        };
        write!(draft.to, "{{\"version\":{VERSION},\"at\":{at}")?;
        if let Some(boot) = boot {
            write!(draft.to, ",\"boot\":")?;
            serde_json::to_writer(&mut draft.to, boot)?;
        }
        write!(draft.to, ",\"runtime\":")?;
        serde_json::to_writer(&mut draft.to, software)?;
        Ok(draft)
    }

    /// Ends the open list, if there is one, and adds a field.
    pub fn value(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> io::Result<()> {
        self.end_list()?;
        write!(self.to, ",\"{name}\":")?;
        Ok(serde_json::to_writer(&mut self.to, value)?)
    }

    /// Ends the open list, if there is one, and begins the list `name`.
    pub fn list(&mut self, name: &str) -> io::Result<()> {
        self.end_list()?;
        self.list = Some(false);
        write!(self.to, ",\"{name}\":[")
    }

    /// Adds an item to the open list.
    pub fn item(&mut self, item: &impl Serialize) -> io::Result<()> {
        let separator: &[u8] = if self.list == Some(true) {
            b",\n"
        } else {
            b"\n"
        };
        self.to.write_all(separator)?;
        self.list = Some(true);
        Ok(serde_json::to_writer(&mut self.to, item)?)
    }

    /// Puts the draft in the file's place.
    pub fn finish(mut self) -> io::Result<()> {
        self.end_list()?;
        self.to.write_all(b"}\n")?;
        self.to.flush()?;
        // Set explicitly, so that the mode does not depend on this process's umask.
        self.to
            .get_ref()
            .set_permissions(Permissions::from_mode(MODE))?;
        fs::rename(&self.temporary, &self.file)?;
        self.whole = true;
        Ok(())
    }

    fn end_list(&mut self) -> io::Result<()> {
        match self.list.take() {
            Some(_) => self.to.write_all(b"]"),
            None => Ok(()),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.whole {
            // It does not matter if the file is gone already.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Removes the temporary files that killed watchers have left beside `file`.
pub fn sweep(file: &Path) {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let begin = format!(".{name}{TEMPORARY}");
    let left = file.parent().map(fs::read_dir).into_iter().flatten();
    for entry in left.flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&begin) {
            // A file that cannot be removed does no harm.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use larder_shared::{
        digest::Digest,
        runtime::{Content, Report},
    };

    use super::*;

    fn software() -> Software {
        Software {
            name: "containerd".to_owned(),
            version: "1".to_owned(),
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn the_lists_that_were_written_are_the_report() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("runtime.json");
        let blob = |text: &str| Content {
            namespace: "k8s.io".to_owned(),
            digest: Digest::sha256(text.as_bytes()),
            size: 1,
            labels: BTreeMap::new(),
            created: None,
        };
        let mut draft = Draft::begin(&file, 7, Some("a boot"), &software()).unwrap();
        draft.value("snapshotter", "erofs").unwrap();
        for list in ["images", "users", "snapshots", "content"] {
            draft.list(list).unwrap();
        }
        draft.item(&blob("a")).unwrap();
        draft.item(&blob("b")).unwrap();
        assert!(!file.exists(), "not before it is whole");
        draft.finish().unwrap();
        let report: Report = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!((report.version, report.at), (VERSION, 7));
        assert_eq!(report.boot.as_deref(), Some("a boot"));
        assert_eq!(report.snapshotter.as_deref(), Some("erofs"));
        assert_eq!(report.content, [blob("a"), blob("b")]);
        assert!(report.images.is_empty() && report.users.is_empty() && report.snapshots.is_empty());
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            MODE
        );
        assert_eq!(names(dir.path()), ["runtime.json"]);
    }

    #[test]
    fn a_draft_that_is_given_up_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("runtime.json");
        fs::write(&file, "old").unwrap();
        let mut draft = Draft::begin(&file, 7, Some("a boot"), &software()).unwrap();
        draft.list("images").unwrap();
        drop(draft);
        assert_eq!(fs::read(&file).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["runtime.json"]);
    }

    #[test]
    fn what_killed_watchers_left_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("runtime.json");
        for name in [
            "runtime.json",
            ".runtime.json",
            ".runtime.json.larder-0123456789abcdef",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        sweep(&file);
        let mut left = names(dir.path());
        left.sort();
        assert_eq!(left, [".runtime.json", "runtime.json"]);
    }
}
