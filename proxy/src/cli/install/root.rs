//! The node's files as this process sees them: at their own paths, or mounted below a directory.
//!
//! The rest of `install` uses the node's paths. Only this module knows where they are.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};

/// As many symbolic links as Linux follows in one path.
const LINKS: usize = 40;

/// Where the node's root directory is.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Root {
    at: PathBuf,
}

/// Mode and owner of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) mode: u32,
    pub(super) user: u32,
    pub(super) group: u32,
}

impl Root {
    pub(in crate::cli) fn new(at: &Path) -> Result<Self> {
        let at =
            std::path::absolute(at).with_context(|| format!("--node-root {}", at.display()))?;
        Ok(Self { at })
    }

    /// Whether the node's paths are this process's own.
    pub(super) fn is_own(&self) -> bool {
        self.at == Path::new("/")
    }

    /// Where `path` is for this process. If `path` is a link, this is the place of the link itself.
    pub(super) fn here(&self, path: &Path) -> io::Result<PathBuf> {
        self.resolve(path, false)
    }

    /// Resolves links as the node does: an absolute link starts at the node's root, and no link leads out of it.
    fn resolve(&self, path: &Path, follow_last: bool) -> io::Result<PathBuf> {
        if self.is_own() {
            return Ok(path.to_owned());
        }
        let mut found = self.at.clone();
        let mut depth = 0_usize;
        let mut links = 0;
        let mut rest: VecDeque<OsString> = names(path).collect();
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                if depth > 0 {
                    found.pop();
                    depth -= 1;
                }
                continue;
            }
            let next = found.join(&name);
            let link = match fs::symlink_metadata(&next) {
                Ok(metadata) => metadata.is_symlink(),
                Err(error) if error.kind() == ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            };
            if !link || (rest.is_empty() && !follow_last) {
                found = next;
                depth += 1;
                continue;
            }
            links += 1;
            if links > LINKS {
                return Err(io::Error::other("too many symbolic links"));
            }
            let target = fs::read_link(&next)?;
            if target.is_absolute() {
                found.clone_from(&self.at);
                depth = 0;
            }
            for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                rest.push_front(name);
            }
        }
        Ok(found)
    }

    pub(in crate::cli) fn exists(&self, path: &Path) -> Result<bool> {
        self.resolve(path, true)
            .and_then(|here| here.try_exists())
            .with_context(|| path.display().to_string())
    }

    /// The bytes of `file`, links followed.
    pub(super) fn bytes(&self, file: &Path) -> io::Result<Vec<u8>> {
        fs::read(self.resolve(file, true)?)
    }

    /// The text of `file`; `None` if the file does not exist.
    pub(in crate::cli) fn read(&self, file: &Path) -> Result<Option<String>> {
        match self.bytes(file) {
            Ok(bytes) => String::from_utf8(bytes)
                .map(Some)
                .map_err(|_| anyhow!("{}: it is not UTF-8 text", file.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| file.display().to_string()),
        }
    }

    /// The text of a `file` that is to be replaced; `None` if the file does not exist.
    ///
    /// # Errors
    /// The file cannot be read, or a link leads to a path that does not exist here: larder would replace a file that it
    /// could not read.
    pub(super) fn read_to_replace(&self, file: &Path) -> Result<Option<String>> {
        let text = self.read(file)?;
        if text.is_some() {
            return Ok(text);
        }
        for path in file.ancestors() {
            let link = self.here(path).and_then(fs::read_link);
            if let Ok(target) = link
                && !self.exists(path)?
            {
                let missing = if self.is_own() { "there" } else { "mounted" };
                bail!(
                    "{} is a link to {}, which is not {missing}; no file was changed",
                    path.display(),
                    target.display()
                );
            }
        }
        Ok(None)
    }

    /// The mode and owner of `file`, for the file that replaces it. Headers in it may hold secrets.
    pub(super) fn owned(&self, file: &Path) -> Result<Owned> {
        let metadata = self
            .resolve(file, true)
            .and_then(fs::metadata)
            .with_context(|| file.display().to_string())?;
        Ok(Owned {
            mode: metadata.mode() & 0o7777,
            user: metadata.uid(),
            group: metadata.gid(),
        })
    }

    /// The directories in `dir` that are not hidden, by name and sorted; empty if `dir` does not exist.
    pub(in crate::cli) fn directories(&self, dir: &Path) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for name in self.entries(dir)? {
            let path = dir.join(&name);
            let here = self.resolve(&path, true);
            let here = here.with_context(|| path.display().to_string())?;
            if !name.starts_with('.') && here.is_dir() {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// All paths below `dir`, at any depth. Links are not followed.
    pub(super) fn below(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut rest = vec![dir.to_owned()];
        while let Some(dir) = rest.pop() {
            let here = self.here(&dir);
            let listed = here.and_then(fs::read_dir);
            for entry in listed.with_context(|| dir.display().to_string())? {
                let entry = entry.with_context(|| dir.display().to_string())?;
                let path = dir.join(entry.file_name());
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    rest.push(path.clone());
                }
                found.push(path);
            }
        }
        Ok(found)
    }

    /// The names in `dir`, sorted; empty if `dir` does not exist. Names that are not UTF-8 are left out, since no
    /// runtime reads them.
    pub(super) fn entries(&self, dir: &Path) -> Result<Vec<String>> {
        let listed = match self.resolve(dir, true).and_then(fs::read_dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed.with_context(|| dir.display().to_string())?,
        };
        let mut names = Vec::new();
        for entry in listed {
            let entry = entry.with_context(|| dir.display().to_string())?;
            names.extend(entry.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Fails if no directory above `dir` exists either: then the node's directory is not mounted, and files written
    /// there would be lost.
    pub(super) fn mounted(&self, dir: &Path) -> Result<()> {
        if self.is_own() {
            return Ok(());
        }
        for above in dir.ancestors().filter(|above| above.parent().is_some()) {
            if self.exists(above)? {
                return Ok(());
            }
        }
        Err(anyhow!(
            "no part of {} exists below --node-root {}: mount the node's directory there",
            dir.display(),
            self.at.display()
        ))
    }
}

/// The components of `path`, including `..`.
fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_of_the_node_stay_on_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("etc/static")).unwrap();
        fs::write(at("etc/static/config.toml"), "here").unwrap();
        symlink("/etc/static", at("etc/containerd")).unwrap();
        symlink("../../../../etc/static/config.toml", at("etc/static/up")).unwrap();
        symlink("loop", at("etc/loop")).unwrap();
        let root = Root::new(dir.path()).unwrap();
        for path in ["/etc/containerd/config.toml", "/etc/containerd/up"] {
            assert_eq!(root.read(Path::new(path)).unwrap().unwrap(), "here");
        }
        // A rename or a removal acts on the link itself, if the path ends in one.
        let up = root.here(Path::new("/etc/containerd/up")).unwrap();
        assert_eq!(up, at("etc/static/up"));
        assert_eq!(root.read(Path::new("/etc/none")).unwrap(), None);
        assert!(root.read(Path::new("/etc/loop")).is_err());
    }

    #[test]
    fn a_directory_of_which_nothing_is_mounted_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path()).unwrap();
        let certs = Path::new("/etc/containerd/certs.d");
        let error = root.mounted(certs).unwrap_err().to_string();
        assert!(
            error.contains("mount the node's directory there"),
            "{error}"
        );
        fs::create_dir(dir.path().join("etc")).unwrap();
        root.mounted(certs).unwrap();
        Root::new(Path::new("/")).unwrap().mounted(certs).unwrap();
    }
}
