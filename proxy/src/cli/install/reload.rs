//! When CRI-O reads its drop-ins: by itself, or after a signal.
//!
//! CRI-O's own configuration is only read. CRI-O's process is found by its name.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use toml::Table;

use super::plan::Plan;
use super::preset::CRIO_DIR;
use super::root::Root;
use crate::sys;

/// The name of CRI-O's process.
const PROCESS: &str = "crio";

/// How exactly the start time of a process is known. If in doubt, larder sends the signal.
const DOUBT: Duration = Duration::from_millis(100);

/// The result of the signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Signalled {
    /// The number of CRI-O's processes that this process can see.
    pub(super) seen: usize,
    /// How many of them started before the files changed, and got a SIGHUP.
    pub(super) told: usize,
}

/// Sends a SIGHUP to every CRI-O process that started before the files changed.
pub(super) fn reload(changed: SystemTime) -> Signalled {
    let mut signalled = Signalled::default();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let of_root = entry.metadata().is_ok_and(|about| about.uid() == 0);
        // A process that has ended since then does not count.
        let called = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if !of_root || called.trim_end() != PROCESS {
            continue;
        }
        let is_newer = sys::started(pid).is_ok_and(|started| started > changed + DOUBT);
        if is_newer {
            signalled.seen += 1;
        } else if sys::hang_up(pid).is_ok() {
            signalled.seen += 1;
            signalled.told += 1;
        }
    }
    signalled
}

/// When `file` changed last, in content or by replacement. If it does not exist: when the directory changed that would
/// hold it.
pub(super) fn changed(root: &Root, file: &Path) -> Result<SystemTime> {
    for path in file.ancestors() {
        let here = root.here(path).and_then(|here| {
            let about = fs::symlink_metadata(here)?;
            let since_epoch = Duration::new(
                u64::try_from(about.ctime()).unwrap_or_default(),
                u32::try_from(about.ctime_nsec()).unwrap_or_default(),
            );
            Ok(SystemTime::UNIX_EPOCH + since_epoch)
        });
        match here {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found.with_context(|| path.display().to_string()),
        }
    }
    Ok(SystemTime::now())
}

/// Says when CRI-O will read its drop-ins again: after a signal, or by itself with a setting that is off by default.
/// CRI-O watches the directory of the drop-ins. It has no watch on a directory that larder has just made, and loses the
/// watch on one that larder removes.
pub(super) fn say_when(plan: &mut Plan, root: &Root, dir: &Path) -> Result<()> {
    let watches = reloads_by_itself(root)?;
    if watches && !plan.makes(dir) && !plan.removes(dir) {
        plan.effects.push(
            "CRI-O watches its drop-ins (auto_reload_registries), so it reads them now".to_owned(),
        );
    } else if watches {
        plan.warnings.push(format!(
            "CRI-O watches its drop-ins (auto_reload_registries), but perhaps not this time, because {} was made or removed: run \
             `systemctl reload crio` on the node, or use --crio-reload",
            dir.display()
        ));
    } else {
        plan.warnings.push(format!(
            "CRI-O reads its drop-ins only when it starts or gets a SIGHUP: run `systemctl reload crio` on the node, or use \
             --crio-reload. To make it read them whenever they change, put these lines into {CRIO_DIR}/crio.conf.d/10-registries.conf \
             and restart it once:\n[crio.image]\n  auto_reload_registries = true"
        ));
    }
    Ok(())
}

/// `auto_reload_registries` as CRI-O reads it: crio.conf first, then the drop-ins by name; the last value counts.
fn reloads_by_itself(root: &Root) -> Result<bool> {
    let dir = Path::new(CRIO_DIR);
    let drop_ins = dir.join("crio.conf.d");
    let mut files = vec![dir.join("crio.conf")];
    files.extend(
        root.entries(&drop_ins)?
            .iter()
            .map(|name| drop_ins.join(name)),
    );
    let mut reloads = false;
    for file in files {
        let conf = root
            .read(&file)?
            .and_then(|text| text.parse::<Table>().ok());
        let said = conf.as_ref().and_then(|conf| {
            conf.get("crio")?
                .get("image")?
                .get("auto_reload_registries")?
                .as_bool()
        });
        reloads = said.unwrap_or(reloads);
    }
    Ok(reloads)
}
