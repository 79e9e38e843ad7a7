//! The tree that a layer's tar describes, built entry by entry: of several entries with one name, the last wins.
//!
//! Whiteouts are kept as inodes of their own kind. They get overlayfs' form when the tree is written.

use std::collections::BTreeMap;

use crate::entry::{Attributes, Entry, Kind};
use crate::refused::Refused;
use crate::xattr::{self, Xattrs};

mod path;

use path::{Place, components};

/// A layer with more inodes has no index.
pub const MOST_INODES: usize = 200_000;
/// Bytes of all names, targets and attributes of a layer: this bounds the memory of a build.
const MOST_BYTES: usize = 16 << 20;

/// The root's number among the inodes.
pub const ROOT: u32 = 0;

/// The content of an inode.
#[derive(Debug)]
pub enum Content {
    /// A file whose content begins at this block of the tar.
    File {
        block: u32,
        size: u64,
    },
    Directory(Box<Directory>),
    Symlink(Box<[u8]>),
    CharDevice(u32),
    BlockDevice(u32),
    Fifo,
    /// Hides this name of lower layers.
    Whiteout,
}

/// The content of a directory.
#[derive(Debug, Default)]
pub struct Directory {
    pub children: BTreeMap<Box<[u8]>, u32>,
    /// Hides the directory's content in lower layers.
    pub opaque: bool,
    /// The tar has no entry for the directory, only for names below it.
    pub implied: bool,
}

/// One inode of the tree.
#[derive(Debug)]
pub struct Inode {
    pub content: Content,
    pub seconds: i64,
    pub nanoseconds: u32,
    pub uid: u32,
    pub gid: u32,
    /// How many names the inode has in directories. Not counted for directories.
    pub links: u32,
    pub mode: u16,
    pub xattrs: Option<Box<Xattrs>>,
}

/// A tree without the content of files.
#[derive(Debug)]
pub struct Tree {
    inodes: Vec<Inode>,
    bytes: usize,
}

impl Default for Tree {
    fn default() -> Self {
        let root = Inode::implied_directory();
        Self {
            inodes: vec![root],
            bytes: 0,
        }
    }
}

impl Inode {
    fn implied_directory() -> Self {
        let directory = Directory {
            implied: true,
            ..Directory::default()
        };
        Self {
            content: Content::Directory(Box::new(directory)),
            seconds: 0,
            nanoseconds: 0,
            uid: 0,
            gid: 0,
            links: 1,
            mode: 0o755,
            xattrs: None,
        }
    }

    pub fn directory(&self) -> Option<&Directory> {
        match &self.content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn set(&mut self, from: &Attributes) {
        self.mode = from.mode;
        self.uid = from.uid;
        self.gid = from.gid;
        self.seconds = from.seconds;
        self.nanoseconds = from.nanoseconds;
    }
}

impl Tree {
    pub fn inode(&self, number: u32) -> &Inode {
        &self.inodes[number as usize]
    }

    /// How many inodes were made. Some of them may have no name any more.
    pub fn made(&self) -> usize {
        self.inodes.len()
    }

    /// Takes the next entry of the tar.
    pub fn add(&mut self, entry: Entry) -> Result<(), Refused> {
        let Place::Below { parents, name } = components(&entry.path)? else {
            return self.set_root(entry);
        };
        let mut directory = ROOT;
        for parent in parents {
            directory = self.step_into(directory, parent)?;
        }
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.hide(directory, hidden, &entry);
        }
        let before = self.child(directory, name);
        let attributes = entry.attributes;
        let new = match entry.kind {
            Kind::HardLink { target } => {
                let number = self.linked(&target, &attributes)?;
                // A runtime would remove the name first, and then not find the target.
                if before == Some(number) {
                    return Err(Refused::HardLink);
                }
                self.inodes[number as usize].links += 1;
                number
            }
            Kind::Directory => {
                return self.add_directory(directory, name, before, attributes);
            }
            Kind::File { block, size } => self.make(Content::File { block, size }, attributes)?,
            Kind::Symlink { target } => {
                if target.is_empty() {
                    return Err(Refused::Path);
                }
                let target = self.keep_path(&target)?;
                // Linux has no other mode for symbolic links.
                let attributes = Attributes {
                    mode: 0o777,
                    ..attributes
                };
                self.make(Content::Symlink(target), attributes)?
            }
            Kind::CharDevice { major, minor } => {
                let number = device(major, minor)?;
                self.make(Content::CharDevice(number), attributes)?
            }
            Kind::BlockDevice { major, minor } => {
                let number = device(major, minor)?;
                self.make(Content::BlockDevice(number), attributes)?
            }
            Kind::Fifo => self.make(Content::Fifo, attributes)?,
        };
        self.put(directory, name, new)
    }

    fn set_root(&mut self, entry: Entry) -> Result<(), Refused> {
        if entry.kind != Kind::Directory {
            return Err(Refused::Path);
        }
        self.describe(ROOT, entry.attributes)
    }

    /// Sets a directory's attributes, for the first time or anew.
    fn describe(&mut self, number: u32, attributes: Attributes) -> Result<(), Refused> {
        let inode = &mut self.inodes[number as usize];
        inode.set(&attributes);
        if let Content::Directory(directory) = &mut inode.content {
            directory.implied = false;
        }
        self.set_xattrs(number, attributes.xattrs)
    }

    fn add_directory(
        &mut self,
        directory: u32,
        name: &[u8],
        before: Option<u32>,
        attributes: Attributes,
    ) -> Result<(), Refused> {
        if let Some(number) = before
            && self.inode(number).directory().is_some()
        {
            return self.describe(number, attributes);
        }
        let hides =
            before.is_some_and(|number| matches!(self.inode(number).content, Content::Whiteout));
        let new = Directory {
            opaque: hides,
            ..Directory::default()
        };
        let number = self.make(Content::Directory(Box::new(new)), attributes)?;
        self.put(directory, name, number)
    }

    /// Adds a whiteout: for the whole directory, or for one name in it.
    fn hide(&mut self, directory: u32, name: &[u8], entry: &Entry) -> Result<(), Refused> {
        if !matches!(entry.kind, Kind::File { .. }) {
            return Err(Refused::Whiteout);
        }
        if name == b".wh..opq" {
            self.directory_mut(directory)?.opaque = true;
            return Ok(());
        }
        // Other names with this prefix are aufs' own.
        if name.is_empty() || name == b"." || name == b".." || name.starts_with(b".wh.") {
            return Err(Refused::Whiteout);
        }
        let attributes = Attributes {
            mode: 0,
            xattrs: Vec::new(),
            ..entry.attributes.clone()
        };
        match self.child(directory, name) {
            Some(number) if matches!(self.inode(number).content, Content::Whiteout) => {
                self.inodes[number as usize].set(&attributes);
                Ok(())
            }
            Some(_) => Err(Refused::WhiteoutOfOwn),
            None => {
                let number = self.make(Content::Whiteout, attributes)?;
                self.put(directory, name, number)
            }
        }
    }

    /// The inode that a hard link's target names at this point of the tar.
    fn linked(&self, target: &[u8], said: &Attributes) -> Result<u32, Refused> {
        let Place::Below { parents, name } = components(target)? else {
            return Err(Refused::HardLink);
        };
        let mut number = ROOT;
        for name in parents.chain([name]) {
            number = self.child(number, name).ok_or(Refused::HardLink)?;
        }
        let inode = self.inode(number);
        let linkable = !matches!(inode.content, Content::Directory(_) | Content::Whiteout);
        let mode = matches!(inode.content, Content::Symlink(_)) || inode.mode == said.mode;
        let same = mode && (inode.uid, inode.gid) == (said.uid, said.gid);
        if linkable && same {
            Ok(number)
        } else {
            Err(Refused::HardLink)
        }
    }

    /// The directory with this name. It is made if only entries below it imply it.
    fn step_into(&mut self, directory: u32, name: &[u8]) -> Result<u32, Refused> {
        if name.starts_with(b".wh.") {
            return Err(Refused::Whiteout);
        }
        let before = self.child(directory, name);
        let hides = match before.map(|number| &self.inode(number).content) {
            Some(Content::Directory(_)) => return before.ok_or(Refused::Path),
            Some(Content::Symlink(_)) => return Err(Refused::ThroughLink),
            Some(Content::Whiteout) => true,
            Some(_) => return Err(Refused::NotADirectory),
            None => false,
        };
        let mut new = Inode::implied_directory();
        if let Content::Directory(directory) = &mut new.content {
            directory.opaque = hides;
        }
        let number = self.push(new)?;
        self.put(directory, name, number)?;
        Ok(number)
    }

    fn make(&mut self, content: Content, attributes: Attributes) -> Result<u32, Refused> {
        let mut inode = Inode {
            content,
            ..Inode::implied_directory()
        };
        inode.set(&attributes);
        let number = self.push(inode)?;
        self.set_xattrs(number, attributes.xattrs)?;
        Ok(number)
    }

    fn push(&mut self, inode: Inode) -> Result<u32, Refused> {
        if self.inodes.len() == MOST_INODES {
            return Err(Refused::TooManyInodes);
        }
        self.inodes.push(inode);
        Ok(self.inodes.len() as u32 - 1)
    }

    fn set_xattrs(&mut self, number: u32, said: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), Refused> {
        for (name, value) in said {
            let of = self.inode(number);
            // On other inodes, a runtime leaves these attributes out.
            let user = matches!(of.content, Content::File { .. } | Content::Directory(_));
            if !xattr::is_kept(&name, &value, user)? {
                continue;
            }
            self.count(name.len() + value.len())?;
            let xattrs = self.inodes[number as usize].xattrs.get_or_insert_default();
            xattrs.insert(name.into_boxed_slice(), value.into_boxed_slice());
        }
        match &self.inode(number).xattrs {
            Some(xattrs) if !xattr::fits(xattrs) => Err(Refused::Xattr),
            _ => Ok(()),
        }
    }

    fn keep_path(&mut self, target: &[u8]) -> Result<Box<[u8]>, Refused> {
        if target.len() > path::LONGEST {
            return Err(Refused::NameTooLong);
        }
        if target.contains(&0) {
            return Err(Refused::Path);
        }
        self.count(target.len())?;
        Ok(target.into())
    }

    fn count(&mut self, bytes: usize) -> Result<(), Refused> {
        self.bytes += bytes;
        if self.bytes > MOST_BYTES {
            Err(Refused::TooLarge)
        } else {
            Ok(())
        }
    }

    fn child(&self, directory: u32, name: &[u8]) -> Option<u32> {
        self.inode(directory)
            .directory()?
            .children
            .get(name)
            .copied()
    }

    fn directory_mut(&mut self, number: u32) -> Result<&mut Directory, Refused> {
        match &mut self.inodes[number as usize].content {
            Content::Directory(directory) => Ok(directory),
            _ => Err(Refused::NotADirectory),
        }
    }

    /// Gives an inode a name, and takes it from an inode that had it.
    fn put(&mut self, directory: u32, name: &[u8], number: u32) -> Result<(), Refused> {
        self.count(name.len())?;
        let before = self
            .directory_mut(directory)?
            .children
            .insert(name.into(), number);
        if let Some(before) = before {
            self.unlink(before);
        }
        Ok(())
    }

    /// Removes one name of an inode. A directory also loses everything below it.
    fn unlink(&mut self, number: u32) {
        let mut lost = vec![number];
        while let Some(number) = lost.pop() {
            let inode = &mut self.inodes[number as usize];
            inode.links = inode.links.saturating_sub(1);
            if let Content::Directory(directory) = &mut inode.content {
                lost.extend(std::mem::take(&mut directory.children).into_values());
            }
        }
    }
}

/// A device number in the form in which Linux stores it on disk.
fn device(major: u32, minor: u32) -> Result<u32, Refused> {
    if major > 0xfff || minor > 0xf_ffff {
        return Err(Refused::Number);
    }
    Ok(minor & 0xff | major << 8 | (minor & !0xff) << 12)
}
