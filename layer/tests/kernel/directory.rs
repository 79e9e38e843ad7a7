//! All facts about the files below a directory.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{lgetxattr, llistxattr};

/// One name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub seconds: i64,
    pub nanoseconds: i64,
    pub links: u64,
    pub size: u64,
    pub device: u64,
    /// The content of a file, or the target of a symbolic link.
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name with the same inode.
    pub same_as: PathBuf,
}

/// All names below a directory. The directory itself has the empty name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Directory(pub BTreeMap<PathBuf, File>);

impl Directory {
    pub fn read(root: &Path) -> Self {
        let mut paths = vec![PathBuf::new()];
        let mut next = 0;
        while next < paths.len() {
            let path = paths[next].clone();
            next += 1;
            if fs::symlink_metadata(root.join(&path)).unwrap().is_dir() {
                let names = fs::read_dir(root.join(&path)).unwrap();
                paths.extend(names.map(|name| path.join(name.unwrap().file_name())));
            }
        }
        paths.sort();
        let mut inodes = BTreeMap::new();
        let file = |path: PathBuf| {
            let file = read(&root.join(&path), &path, &mut inodes);
            (path, file)
        };
        Self(paths.into_iter().map(file).collect())
    }

    pub fn get(&self, path: &str) -> &File {
        &self.0[Path::new(path)]
    }

    pub fn names(&self) -> Vec<&str> {
        let names = self.0.keys().map(|path| path.to_str().unwrap());
        names.filter(|name| !name.is_empty()).collect()
    }

    /// Compares the names and files of both.
    ///
    /// # Panics
    /// The two differ.
    pub fn assert_is(&self, other: &Self) {
        let names = |directory: &Self| directory.0.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(self), names(other), "names");
        for (path, file) in &self.0 {
            assert_eq!(file, &other.0[path], "{}", path.display());
        }
    }
}

fn read(path: &Path, name: &Path, inodes: &mut BTreeMap<u64, PathBuf>) -> File {
    let meta = fs::symlink_metadata(path).unwrap();
    let kind = meta.file_type();
    let content = if kind.is_file() {
        fs::read(path).unwrap()
    } else if kind.is_symlink() {
        fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
    } else {
        Vec::new()
    };
    let device = if kind.is_char_device() || kind.is_block_device() {
        meta.rdev()
    } else {
        0
    };
    let same_as = inodes.entry(meta.ino()).or_insert_with(|| name.to_owned());
    File {
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        seconds: meta.mtime(),
        nanoseconds: meta.mtime_nsec(),
        links: if kind.is_dir() { 0 } else { meta.nlink() },
        size: if kind.is_dir() { 0 } else { meta.size() },
        device,
        content,
        xattrs: xattrs(path),
        same_as: same_as.clone(),
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 64 << 10];
    let length = llistxattr(path, &mut list[..]).unwrap();
    let names = list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let length = lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        value.truncate(length);
        (name.to_vec(), value)
    };
    names.map(value).collect()
}
