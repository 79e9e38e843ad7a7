//! What containerd's configuration files say about ready files. They are merged as containerd 2 merges them: the first
//! file, then the files that it imports, then the files that those import. A later value replaces an earlier one, and a
//! list is replaced as a whole.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use toml::{Table, Value};

use crate::cli::install::root::Root;
use crate::config::Pattern;

pub(super) const IMAGES: &str = "io.containerd.cri.v1.images";
pub(super) const EROFS: &str = "io.containerd.snapshotter.v1.erofs";
pub(super) const TRANSFER: &str = "io.containerd.transfer.v1.local";
/// The CRI plugin's name before version 3 of the file.
const CRI: &str = "io.containerd.grpc.v1.cri";

/// The most files that a configuration may have.
const FILES: usize = 100;

/// The files that containerd imports if its configuration has no imports, or if it has no configuration.
pub(super) const BY_DEFAULT: &str = "conf.d/*.toml";

/// One entry of `unpack_config`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Unpack {
    pub snapshotter: String,
    pub differ: String,
    /// The entry as the file has it.
    pub(super) entry: Table,
}

/// The settings that concern ready files.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Said {
    /// `layer_content_caches`
    pub directories: Vec<String>,
    pub set_immutable: bool,
    pub enable_fsverity: bool,
    pub dmverity_mode: String,
    /// The snapshotter of the images that the kubelet pulls.
    pub snapshotter: Option<String>,
    /// `unpack_config`; `None` if no file sets it.
    pub unpack: Option<Vec<Unpack>>,
    /// Whether containerd is told not to load the erofs snapshotter.
    pub disabled: bool,
}

/// Where containerd reads a drop-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DropIn {
    /// containerd imports this file as soon as it exists.
    Read(PathBuf),
    /// containerd would import this file if its configuration had this line.
    Import { file: PathBuf, line: String },
}

/// Reads `file` and all files that it imports, except for files with the name `but`.
///
/// # Errors
/// One of the files cannot be read or is not TOML, so that containerd's settings are not known.
pub(super) fn read(root: &Root, file: &Path, but: &str) -> Result<Said, String> {
    let mut merged = Table::new();
    let mut seen = BTreeSet::new();
    let mut pending = VecDeque::from([file.to_owned()]);
    while let Some(path) = pending.pop_front() {
        if path.file_name().is_some_and(|name| name == but) || !seen.insert(path.clone()) {
            continue;
        }
        if seen.len() > FILES {
            return Err(format!("{} imports too many files", file.display()));
        }
        let mut own = match parsed(root, &path)? {
            Some(own) => own,
            None if path == file => with_defaults(),
            None => return Err(format!("{} does not exist", path.display())),
        };
        pending.extend(imports(root, &path, &own)?);
        migrate(&mut own);
        merge(&mut merged, own);
    }
    Ok(said(&merged))
}

/// Where containerd reads a drop-in with this name.
pub(super) fn drop_in(root: &Root, file: &Path, name: &str) -> Result<DropIn, String> {
    let config = parsed(root, file)?.unwrap_or_else(with_defaults);
    let patterns = patterns(file, &config);
    let fits = patterns.iter().find(|pattern| {
        let last = pattern.file_name().and_then(|last| last.to_str());
        last.is_some_and(|last| last.contains('*') && Pattern::new(last).matches(name))
    });
    if let Some(pattern) = fits {
        return Ok(DropIn::Read(pattern.with_file_name(name)));
    }
    let default = beside(file, BY_DEFAULT);
    let shown = |pattern: &PathBuf| Value::String(pattern.display().to_string()).to_string();
    let mut all: Vec<String> = patterns.iter().map(shown).collect();
    all.push(shown(&default));
    Ok(DropIn::Import {
        file: default.with_file_name(name),
        line: format!("imports = [{}]", all.join(", ")),
    })
}

/// The content of a file; `None` if the file does not exist.
fn parsed(root: &Root, file: &Path) -> Result<Option<Table>, String> {
    let bytes = match root.bytes(file) {
        Ok(bytes) => bytes,
        Err(error) if missing(&error) => return Ok(None),
        Err(error) => return Err(format!("{} cannot be read: {error}", file.display())),
    };
    let table = String::from_utf8_lossy(&bytes).parse();
    table
        .map(Some)
        .map_err(|_| format!("{} is not TOML", file.display()))
}

fn missing(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

/// containerd's defaults without a configuration file.
fn with_defaults() -> Table {
    let imports = Value::Array(vec![Value::String(BY_DEFAULT.to_owned())]);
    Table::from_iter([
        ("version".to_owned(), Value::Integer(3)),
        ("imports".to_owned(), imports),
    ])
}

fn beside(file: &Path, name: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("/")).join(name)
}

fn patterns(file: &Path, config: &Table) -> Vec<PathBuf> {
    let list = config.get("imports").and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    texts.map(|text| clean(&beside(file, text))).collect()
}

/// Removes `..` as containerd does: by the text of the path, without regard to links.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            clean.pop();
        } else {
            clean.push(part);
        }
    }
    clean
}

/// The files that `file` imports, in containerd's order.
fn imports(root: &Root, file: &Path, config: &Table) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for pattern in patterns(file, config) {
        let last = pattern.file_name().and_then(|last| last.to_str());
        let (Some(last), Some(dir)) = (last, pattern.parent()) else {
            continue;
        };
        if !last.contains('*') {
            found.push(pattern);
            continue;
        }
        let names = Pattern::new(last);
        let mut entries = match root.entries(dir) {
            Ok(entries) => entries,
            Err(error) => return Err(format!("{} cannot be read: {error:#}", dir.display())),
        };
        entries.retain(|name| names.matches(name));
        entries.sort_unstable();
        found.extend(entries.into_iter().map(|name| dir.join(name)));
    }
    Ok(found)
}

/// Moves settings of older versions of the file to their place in version 3.
fn migrate(config: &mut Table) {
    if config.get("version").and_then(Value::as_integer) >= Some(3) {
        return;
    }
    let Some(plugins) = config.get_mut("plugins").and_then(Value::as_table_mut) else {
        return;
    };
    let old = [CRI, "cri"].iter().find_map(|plugin| {
        let snapshotter = plugins
            .get(*plugin)?
            .get("containerd")?
            .get("snapshotter")?;
        Some(snapshotter.clone())
    });
    if let Some(snapshotter) = old {
        let images = Table::from_iter([("snapshotter".to_owned(), snapshotter)]);
        plugins.insert(IMAGES.to_owned(), Value::Table(images));
    }
}

fn merge(to: &mut Table, from: Table) {
    for (key, value) in from {
        match (to.get_mut(&key), value) {
            (Some(Value::Table(to)), Value::Table(from)) => merge(to, from),
            (_, value) => {
                to.insert(key, value);
            }
        }
    }
}

fn said(config: &Table) -> Said {
    let plugin = |name: &str| config.get("plugins")?.get(name);
    let erofs = |key: &str| plugin(EROFS)?.get(key);
    let flag = |key: &str| erofs(key).and_then(Value::as_bool) == Some(true);
    let texts = |list: Option<&Value>| -> Vec<String> {
        let list = list.and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let unpack = plugin(TRANSFER).and_then(|transfer| transfer.get("unpack_config")?.as_array());
    Said {
        directories: texts(erofs("layer_content_caches")),
        set_immutable: flag("set_immutable"),
        enable_fsverity: flag("enable_fsverity"),
        dmverity_mode: text(erofs("dmverity_mode")).unwrap_or_default(),
        snapshotter: text(plugin(IMAGES).and_then(|images| images.get("snapshotter"))),
        unpack: unpack.map(|list| {
            let tables = list.iter().filter_map(Value::as_table);
            let entries = tables.map(|table| Unpack {
                snapshotter: text(table.get("snapshotter")).unwrap_or_default(),
                differ: text(table.get("differ")).unwrap_or_default(),
                entry: table.clone(),
            });
            entries.collect()
        }),
        disabled: texts(config.get("disabled_plugins"))
            .iter()
            .any(|name| name == EROFS),
    }
}

impl Unpack {
    /// Whether this entry sends layers of ordinary images to the erofs snapshotter.
    pub fn is_for_ready_files(&self) -> bool {
        let platform = self.entry.get("platform").and_then(Value::as_str);
        self.snapshotter == "erofs" && !platform.is_some_and(|platform| platform.contains("erofs"))
    }
}
