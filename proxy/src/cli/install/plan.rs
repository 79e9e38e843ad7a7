//! What is to be done, decided from what the disk holds. Reads, never writes.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};

use super::hosts::{self, Block};

const FILE: &str = "hosts.toml";
const KEPT: &str = "hosts.toml.before-larder";
/// The directory that containerd reads for registries without one of their own.
const DEFAULT: &str = "_default";
const NEW_FILE_MODE: u32 = 0o644;

/// One act. Each is atomic, and any prefix of a plan leaves containerd with files it can read.
#[derive(Debug)]
pub(super) enum Step {
    /// A directory that is not there, mode 0755. Its parent is there by then.
    MakeDir(PathBuf),
    /// A second name for the file as it is, so that inode, owner, mode and bytes can come back.
    Keep { file: PathBuf, kept: PathBuf },
    /// New content under the name, by way of a temporary file.
    Write {
        file: PathBuf,
        before: Option<String>,
        after: String,
        mode: u32,
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
    /// What a person should mend.
    pub(super) warnings: Vec<String>,
    /// Whether something that belongs to larder has to stay.
    pub(super) unfinished: bool,
}

/// Plans to put `address` first for `registries`, or for all when there are none.
pub(super) fn install(dir: &Path, registries: &[String], address: &str) -> Result<Plan> {
    let mut plan = Plan::default();
    if registries.is_empty() {
        plan.put(&dir.join(DEFAULT), address)?;
        plan.warn_of_shadows(dir)?;
    }
    let mut done = BTreeSet::new();
    for registry in registries {
        let host_dir = host_dir(dir, registry);
        if done.insert(host_dir.clone()) {
            plan.warn_of_certificates(&host_dir, registry)?;
            plan.put(&host_dir, address)?;
        }
    }
    Ok(plan)
}

/// Plans to take larder out of every file under `dir`.
pub(super) fn uninstall(dir: &Path) -> Result<Plan> {
    let mut plan = Plan::default();
    let mut made = BTreeSet::new();
    for name in directories(dir)? {
        plan.take(&dir.join(name), &mut made)?;
    }
    // The longest path first: a directory goes before the one that holds it.
    let made = made.into_iter().rev();
    plan.steps.extend(made.map(Step::RemoveDirIfEmpty));
    if plan.steps.is_empty() && plan.notes.is_empty() && plan.warnings.is_empty() {
        let nothing = format!("nothing of larder's is in {}", dir.display());
        plan.notes.push(nothing);
    }
    Ok(plan)
}

impl Plan {
    /// Puts the block into the `hosts.toml` of `host_dir`.
    fn put(&mut self, host_dir: &Path, address: &str) -> Result<()> {
        let file = host_dir.join(FILE);
        let Some(text) = read(&file)? else {
            let made = self.make_dirs(host_dir)?;
            self.steps.push(Step::Write {
                file,
                before: None,
                after: Block { address, made }.render(),
                mode: NEW_FILE_MODE,
            });
            return Ok(());
        };
        let refused =
            |why: String| anyhow!("{}: {why}; nothing was changed anywhere", file.display());
        let listed = hosts::hosts_in_order(&text).map_err(refused)?;
        let is_larder = |host: &String| host.trim_end_matches('/') == address;
        let first = listed.first().is_some_and(is_larder);
        let after = if let Some(place) = hosts::find(&text).map_err(refused)? {
            let made = hosts::made(&text[place.clone()]);
            let block = Block { address, made }.render();
            let after = format!("{}{block}{}", &text[..place.start], &text[place.end..]);
            hosts::hosts_in_order(&after).map_err(refused)?;
            if after == text {
                if !first {
                    self.warn_not_first(&file);
                }
                self.notes.push(format!(
                    "{}: already installed, nothing to change",
                    file.display()
                ));
                return Ok(());
            }
            after
        } else if listed.iter().any(is_larder) {
            if !first {
                self.warn_not_first(&file);
            }
            self.notes.push(format!(
                "{}: names {address} without larder's marks, left as it is",
                file.display()
            ));
            return Ok(());
        } else {
            let block = Block { address, made: 0 }.render();
            let after = hosts::weave(&text, &block).map_err(refused)?;
            self.steps.push(Step::Keep {
                file: file.clone(),
                kept: host_dir.join(KEPT),
            });
            after
        };
        let mode = mode(&file)?;
        self.steps.push(Step::Write {
            file,
            before: Some(text),
            after,
            mode,
        });
        Ok(())
    }

    /// Takes the block out of the `hosts.toml` of `host_dir`, and adds the directories that were made
    /// for it to `made`.
    fn take(&mut self, host_dir: &Path, made: &mut BTreeSet<PathBuf>) -> Result<()> {
        let (file, kept) = (host_dir.join(FILE), host_dir.join(KEPT));
        let kept_text = fs::read(&kept).ok();
        let text = match read(&file) {
            Ok(text) => text.unwrap_or_default(),
            Err(error) => {
                self.warnings.push(format!("{error:#}; left as it is"));
                self.unfinished |= kept_text.is_some();
                return Ok(());
            }
        };
        let place = match hosts::find(&text) {
            Ok(place) => place,
            Err(why) => {
                self.warnings.push(format!("{}: {why}", file.display()));
                self.unfinished = true;
                return Ok(());
            }
        };
        let Some(place) = place else {
            match kept_text {
                // An install that ended between its two steps.
                Some(bytes) if bytes == text.as_bytes() => self.steps.push(Step::Remove {
                    file: kept,
                    before: text,
                }),
                Some(_) => self.note_kept(&kept),
                None => {}
            }
            return Ok(());
        };
        let block = &text[place.clone()];
        made.extend(
            host_dir
                .ancestors()
                .take(hosts::made(block))
                .map(Path::to_owned),
        );
        if let Some(bytes) = &kept_text
            && let Ok(original) = std::str::from_utf8(bytes)
            && hosts::weave(original, block).is_ok_and(|woven| woven == text)
        {
            self.steps.push(Step::Restore {
                after: original.to_owned(),
                file,
                kept,
                before: text,
            });
            return Ok(());
        }
        let rest = hosts::strip(&text, &place);
        if rest.trim().is_empty() {
            self.steps.push(Step::Remove { file, before: text });
        } else {
            self.notes.push(format!(
                "{}: changed since the install, so only larder's lines go and the rest stays",
                file.display()
            ));
            let mode = mode(&file)?;
            self.steps.push(Step::Write {
                file,
                before: Some(text),
                after: rest,
                mode,
            });
        }
        if kept_text.is_some() {
            self.note_kept(&kept);
        }
        Ok(())
    }

    /// Plans the missing directories down to `dir` and counts them.
    fn make_dirs(&mut self, dir: &Path) -> Result<usize> {
        let mut missing = Vec::new();
        for ancestor in dir.ancestors() {
            let planned = |step: &Step| matches!(step, Step::MakeDir(made) if made == ancestor);
            let there = ancestor
                .try_exists()
                .with_context(|| ancestor.display().to_string())?;
            if there || self.steps.iter().any(planned) {
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

    fn warn_not_first(&mut self, file: &Path) {
        self.warnings.push(format!(
            "{}: another host stands before larder and is asked first; move larder's section up",
            file.display()
        ));
    }

    /// A directory of a registry's own hides `_default`, even without a hosts.toml in it.
    fn warn_of_shadows(&mut self, dir: &Path) -> Result<()> {
        let mut shadows = Vec::new();
        for name in directories(dir)? {
            let text = read(&dir.join(&name).join(FILE)).unwrap_or_default();
            let larder = text.is_some_and(|text| matches!(hosts::find(&text), Ok(Some(_))));
            if name != DEFAULT && !larder {
                shadows.push(registry_of(&name));
            }
        }
        if !shadows.is_empty() {
            let flags: Vec<String> = shadows
                .iter()
                .map(|name| format!("--registry {name}"))
                .collect();
            self.warnings.push(format!(
                "these registries have a directory of their own in {}, which hides _default: {}. \
                 To pull them through larder too: larder install {}",
                dir.display(),
                shadows.join(", "),
                flags.join(" ")
            ));
        }
        Ok(())
    }

    /// containerd reads loose certificates in a directory only as long as no hosts.toml is in it.
    fn warn_of_certificates(&mut self, host_dir: &Path, registry: &str) -> Result<()> {
        if read(&host_dir.join(FILE))?.is_some_and(|text| !text.is_empty()) {
            return Ok(());
        }
        let mut certificates: Vec<String> = entries(host_dir)?
            .into_iter()
            .filter(|name| {
                let extension = Path::new(name).extension();
                extension.is_some_and(|end| end == "crt" || end == "cert" || end == "key")
            })
            .collect();
        if certificates.is_empty() {
            return Ok(());
        }
        certificates.sort_unstable();
        self.warnings.push(format!(
            "{}: containerd no longer picks up {} by itself once a hosts.toml is there. For pulls that go \
             past larder, put above larder's lines: server = \"https://{registry}\" and ca (or client) with these files",
            host_dir.display(),
            certificates.join(", ")
        ));
        Ok(())
    }
}

/// The directory of `registry`: the one that containerd would find, else the name that it tries first.
fn host_dir(dir: &Path, registry: &str) -> PathBuf {
    let plain = dir.join(registry);
    let Some((host, port)) = registry
        .rsplit_once(':')
        .filter(|(_, port)| !port.ends_with(']'))
    else {
        return plain;
    };
    let escaped = dir.join(format!("{host}_{port}_"));
    if !escaped.is_dir() && plain.is_dir() {
        plain
    } else {
        escaped
    }
}

/// The registry that a directory is for.
fn registry_of(directory: &str) -> String {
    directory
        .strip_suffix('_')
        .and_then(|name| name.rsplit_once('_'))
        .filter(|(_, port)| port.parse::<u16>().is_ok())
        .map_or_else(
            || directory.to_owned(),
            |(host, port)| format!("{host}:{port}"),
        )
}

/// The text of `file`, or `None` when there is no such file.
fn read(file: &Path) -> Result<Option<String>> {
    match fs::read(file) {
        Ok(bytes) => String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| anyhow!("{}: it is not UTF-8 text", file.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| file.display().to_string()),
    }
}

/// The permissions that a file has keep: its headers may hold secrets.
fn mode(file: &Path) -> Result<u32> {
    let metadata = fs::metadata(file).with_context(|| file.display().to_string())?;
    Ok(metadata.permissions().mode() & 0o7777)
}

/// The names in `dir` that are directories, sorted; none when there is no such directory. containerd
/// knows no name that is not UTF-8.
fn directories(dir: &Path) -> Result<Vec<String>> {
    let mut names = entries(dir)?;
    names.retain(|name| dir.join(name).is_dir());
    names.sort_unstable();
    Ok(names)
}

fn entries(dir: &Path) -> Result<Vec<String>> {
    let listed = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.with_context(|| dir.display().to_string())?,
    };
    let mut names = Vec::new();
    for entry in listed {
        let entry = entry.with_context(|| dir.display().to_string())?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}
