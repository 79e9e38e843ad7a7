//! Where the files are mounted: what an earlier holder left there, whether others see it, and the mount itself.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

use super::wire::Connection;
use crate::sys::{
    fuse,
    mounts::{self, Mount},
};

/// The subdirectory that is mounted over. A dead mount on the volume itself would keep new containers from starting;
/// here it does not.
const FILES: &str = "files";

/// The mount's source is this and the connection's id.
const SOURCE: &str = "larder-";

/// How far the kernel reads ahead, in KiB: the size of one request.
const READ_AHEAD: u32 = 1024;

/// How long a mount may take to answer that it is dead.
const GLANCE: Duration = Duration::from_secs(2);

/// A connection, and what keeps it alive.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) connection: Connection,
    pub(super) fd: Arc<OwnedFd>,
    /// No daemon has had this connection yet, so one request waits: INIT. It keeps no reader from being killed.
    pub(super) fresh: bool,
}

/// The subdirectory in which the files are mounted.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) files: PathBuf,
}

/// What is mounted there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Found {
    Nothing,
    /// larder's connections. This one is on top.
    Ours(u64),
    Foreign(String),
}

impl Held {
    pub(super) fn is_over(&self) -> bool {
        fuse::is_over(self.fd.as_fd())
    }
}

impl Place {
    /// Makes the directory. Without `seen_here`, mounts in it have to be visible to other namespaces.
    pub(super) fn new(directory: &Path, seen_here: bool) -> Result<Self, String> {
        let shown = directory.display();
        let trouble = |error: io::Error| format!("{shown}: {error}");
        fs::create_dir_all(directory).map_err(trouble)?;
        let directory = fs::canonicalize(directory).map_err(trouble)?;
        if !seen_here {
            let mounts = mounts::mounts().map_err(trouble)?;
            let around = mounts::around(&mounts, &directory);
            if let Some(why) = around.and_then(hidden) {
                return Err(why);
            }
        }
        let files = directory.join(FILES);
        Ok(Self { files })
    }

    pub(super) fn found(&self) -> Result<Found, String> {
        let mounts = mounts::mounts().map_err(|error| error.to_string())?;
        let here = mounts.iter().rfind(|mount| mount.point == self.files);
        Ok(here.map_or(Found::Nothing, |mount| match id(mount) {
            Some(id) => Found::Ours(id),
            None => Found::Foreign(format!("{} ({})", mount.source, mount.kind)),
        }))
    }

    /// Whether the mount is dead: no living process has its connection. The check is a request. If a living process has
    /// the connection and does not serve it, a thread is left waiting.
    pub(super) async fn is_dead(&self) -> bool {
        let (says, said) = oneshot::channel();
        let files = self.files.clone();
        thread::spawn(move || {
            let _ = says.send(fs::metadata(files));
        });
        // These are ENOTCONN and ECONNABORTED.
        let dead = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::NotConnected | io::ErrorKind::ConnectionAborted
            )
        };
        match timeout(GLANCE, said).await {
            Ok(Ok(Err(error))) => dead(&error),
            _ => false,
        }
    }

    /// Detaches all of larder's mounts here. Processes that use them go on.
    pub(super) fn clear(&self) -> Result<usize, String> {
        let mounts = mounts::mounts().map_err(|error| error.to_string())?;
        let here = |mount: &&Mount| mount.point == self.files;
        let all: Vec<_> = mounts.iter().filter(here).collect();
        for mount in all.iter().rev() {
            if id(mount).is_none() {
                return Err(format!(
                    "{} is mounted at {}, and is not larder's: unmount it, or give another --directory",
                    mount.source,
                    self.files.display()
                ));
            }
            fuse::detach(&self.files)
                .map_err(|error| format!("{}: {error}", self.files.display()))?;
        }
        Ok(all.len())
    }

    /// Opens a connection and mounts it. Nothing may be mounted here before.
    pub(super) fn mount(&self) -> Result<Held, String> {
        let fd = fuse::connection().map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "/dev/fuse may not be used: run the holder as root, in Kubernetes privileged"
                    .to_owned()
            }
            io::ErrorKind::NotFound => {
                "this machine has no /dev/fuse: modprobe fuse, and let the container see the device"
                    .to_owned()
            }
            _ => format!("/dev/fuse: {error}"),
        })?;
        let shown = self.files.display();
        fs::create_dir_all(&self.files).map_err(|error| format!("{shown}: {error}"))?;
        let id = fastrand::u64(1..);
        fuse::mount(fd.as_fd(), &source(id), &self.files).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => format!(
                "nothing may be mounted at {shown}: the holder needs CAP_SYS_ADMIN, which in Kubernetes takes privileged: true"
            ),
            _ => format!("mounting at {shown}: {error}"),
        })?;
        let mounts = mounts::mounts().map_err(|error| error.to_string())?;
        let made = mounts.iter().find(|mount| mount.source == source(id));
        let made = made.ok_or_else(|| format!("what was mounted at {shown} is not there"))?;
        let (_, device) = made.device;
        if let Err(error) = fuse::read_ahead(device, READ_AHEAD) {
            tracing::warn!(%error, "the read-ahead stays at 128 KiB, so that reads are small: /sys cannot be written");
        }
        Ok(Held {
            connection: Connection {
                id,
                device,
                at: Some(self.files.clone()),
            },
            fd: Arc::new(fd),
            fresh: true,
        })
    }
}

fn source(id: u64) -> String {
    format!("{SOURCE}{id:016x}")
}

/// The id of the connection, if the mount is larder's.
fn id(mount: &Mount) -> Option<u64> {
    let hex = mount.source.strip_prefix(SOURCE)?;
    (mount.kind == "fuse")
        .then(|| u64::from_str_radix(hex, 16).ok())
        .flatten()
}

/// Why no other namespace sees mounts below this mount. Without this check nothing would report it.
fn hidden(mount: &Mount) -> Option<String> {
    let point = mount.point.display();
    let kind = match (mount.shared, mount.slave) {
        (true, false) => return None,
        (_, true) => "a slave",
        (false, false) => "a private",
    };
    Some(format!(
        "{point} is {kind} mount, so the container runtime would not see what is mounted below it. In Kubernetes the volume needs \
         mountPropagation: Bidirectional; on a machine: mount --make-rshared {point}; or give --seen-here if the runtime \
         shares this process's mount namespace"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(shared: bool, slave: bool) -> Mount {
        Mount {
            device: (0, 44),
            point: PathBuf::from("/run"),
            shared,
            slave,
            kind: "fuse".to_owned(),
            source: "larder-00000000000000ff".to_owned(),
        }
    }

    #[test]
    fn only_a_shared_mount_that_is_no_slave_is_seen_by_others() {
        assert_eq!(hidden(&mount(true, false)), None);
        for (shared, slave, word) in [
            (false, false, "private"),
            (false, true, "slave"),
            (true, true, "slave"),
        ] {
            let why = hidden(&mount(shared, slave)).unwrap();
            assert!(why.contains(word) && why.contains("Bidirectional"), "{why}");
        }
    }

    #[test]
    fn what_is_mounted_names_its_connection() {
        assert_eq!(id(&mount(true, false)), Some(255));
        assert_eq!(source(255), mount(true, false).source);
        let mut other = mount(true, false);
        other.source = "sshfs".to_owned();
        assert_eq!(id(&other), None);
    }
}
