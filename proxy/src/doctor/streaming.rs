//! Whether this node can mount the layers that larder offers to its container runtime, judged by what the kernel and
//! the runtime report.
//!
//! Only the command sees containerd's files: [`crate::cli`].

mod lazy;

use std::{fs, io};

use larder_shared::{
    admin::{Check, Finding},
    runtime::{Plugin, Report},
};

use crate::{
    config::Mode,
    pull::Pull,
    runtime,
    store::{Ready, WrongIndex},
};

/// From this version on, the kernel mounts the trees of ready files by a loop device.
const KERNEL_BY_LOOP: Version = (6, 4);
/// From this version on, the kernel mounts them from a plain file.
const KERNEL: Version = (6, 12);
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
const DIFFER: &str = "io.containerd.differ.v1";
const TRANSFER: &str = "io.containerd.transfer.v1";

const INSTALL: &str =
    "`larder install --streaming` on the node, then restart containerd once; docs/streaming.md";

/// Major and minor.
type Version = (u64, u64);

/// What the checks are decided by.
#[derive(Clone, Debug, Default)]
struct Facts<'a> {
    /// The kernel's release, such as `6.12.48+deb13-amd64`.
    kernel: Option<String>,
    /// Whether the kernel has EROFS now; `None` if that is not known.
    erofs: Option<bool>,
    report: Option<&'a Report>,
}

/// The findings; none if `[streaming]` is off.
pub(super) async fn look(pull: &Pull) -> Vec<Finding> {
    if pull.config.load().streaming.mode == Mode::Off {
        return Vec::new();
    }
    let read = |path: &'static str| tokio::task::spawn_blocking(move || fs::read_to_string(path));
    let (kernel, systems) = tokio::join!(
        read("/proc/sys/kernel/osrelease"),
        read("/proc/filesystems")
    );
    let text = |read: Result<io::Result<String>, _>| read.ok().and_then(Result::ok);
    let known = pull.runtime.known();
    let release = text(kernel).map(|release| release.trim().to_owned());
    let mut findings = prerequisites(&Facts {
        kernel: release.clone(),
        erofs: text(systems).map(|systems| has_erofs(&systems)),
        report: known.report().map(AsRef::as_ref),
    });
    if pull.config.load().streaming.mode == Mode::Lazy {
        let joined = pull.cluster.is_joined() || pull.cluster.store.is_some();
        let wrong = pull.store.indexes().wrong();
        findings.extend(indexes(joined, pull.key.is_shared(), &wrong));
        findings.extend(lazy::look(&lazy::Facts {
            kernel: release,
            mounts: pull.store.ready().and_then(Ready::mounts),
            limits: limits().await,
        }));
    }
    findings
}

/// The times in seconds after which the kernel aborts FUSE requests. Kernels before 6.14 have no such limit.
async fn limits() -> Vec<(&'static str, u64)> {
    let read = || {
        let names = [
            "fs.fuse.default_request_timeout",
            "fs.fuse.max_request_timeout",
        ];
        let limit = |name: &'static str| {
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            let text = fs::read_to_string(path).ok()?;
            Some((name, text.trim().parse().ok()?))
        };
        names.into_iter().filter_map(limit).collect()
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

/// Whether members can give each other indexes of layers, and which indexes were wrong.
fn indexes(joined: bool, key: bool, wrong: &[WrongIndex]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if joined && !key {
        findings.push(warning(
            "the cluster has no key, so this node believes no index of a layer that another one has made",
            "name a file in [cluster] key, with the same 32 random bytes or more on every member, and restart larder",
        ));
    }
    for one in wrong {
        let WrongIndex {
            layer, maker, why, ..
        } = one;
        findings.push(error(
            format!("{maker} made a wrong index of the layer {layer}: {why}. It is set aside"),
            "look at that node: every member that has the cluster's key can make an index. Start containers anew that read the layer on \
             this node before it was whole here. This is shown for a week",
        ));
    }
    if findings.is_empty() {
        findings.push(ok("no index of a layer was found wrong"));
    }
    findings
}

fn has_erofs(file_systems: &str) -> bool {
    let mut lines = file_systems.lines();
    lines.any(|line| line.split_whitespace().next_back() == Some("erofs"))
}

/// A finding for each prerequisite.
fn prerequisites(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = vec![kernel(facts), erofs(facts)];
    let Some(report) = facts.report else {
        findings.push(warning(
            "no watcher reports what the container runtime does: whether it mounts ready layers is not known, and larder removes \
             none of them",
            "`larder runtime` on the node, or runtime.watch.enabled=true in the chart's values; docs/runtime.md",
        ));
        return findings;
    };
    findings.push(containerd(report));
    if report.runtime.name != "containerd" {
        return findings;
    }
    findings.extend([snapshotter(report), transfer(report), mkfs(report)]);
    findings.push(of_pulls(report));
    findings
}

fn kernel(facts: &Facts<'_>) -> Finding {
    let release = facts.kernel.as_deref().unwrap_or_default();
    match version(release) {
        None => ok("the kernel's version is not known"),
        Some(version) if version < KERNEL_BY_LOOP => error(
            format!(
                "the kernel is {release}: it cannot mount ready layers, so a container of one does not start"
            ),
            "a kernel of 6.12 or newer, or [streaming] mode = \"off\"",
        ),
        Some(version) if version < KERNEL => warning(
            format!(
                "the kernel is {release}: before 6.12 it mounts each ready layer by a loop device, of which a node has few"
            ),
            "a kernel of 6.12 or newer",
        ),
        Some(_) => ok(format!("the kernel is {release}")),
    }
}

fn erofs(facts: &Facts<'_>) -> Finding {
    match facts.erofs {
        Some(false) => error(
            "the kernel has not loaded EROFS, without which containerd's erofs snapshotter does not start",
            "on the node: modprobe erofs; echo erofs > /etc/modules-load.d/erofs.conf; then restart containerd once",
        ),
        Some(true) => ok("the kernel has EROFS"),
        None => ok("whether the kernel has EROFS is not known"),
    }
}

fn containerd(report: &Report) -> Finding {
    let (name, said) = (&report.runtime.name, &report.runtime.version);
    if name != "containerd" {
        return error(
            format!("the container runtime is {name} {said}, which cannot mount ready layers"),
            "[streaming] mode = \"off\" on this node, or containerd 2.4.2 or newer",
        );
    }
    if runtime::tells(report) {
        return ok(format!("containerd is {said}"));
    }
    error(
        format!(
            "containerd is {said}: before 2.4.2 it does not say which ready layers it uses, or has no use for them, so larder offers none"
        ),
        "containerd 2.4.2 or newer, or [streaming] mode = \"off\" on this node",
    )
}

fn snapshotter(report: &Report) -> Finding {
    match plugin(report, SNAPSHOTTER, "erofs") {
        Some(Plugin { trouble: None, .. }) => ok("containerd's erofs snapshotter works"),
        Some(Plugin {
            trouble: Some(trouble),
            ..
        }) => {
            let fix = if trouble.contains("incompatible with layer_content_caches") {
                "remove enable_fsverity and set_immutable from [plugins.\"io.containerd.snapshotter.v1.erofs\"], and restart containerd"
            } else if trouble.contains("modprobe") {
                "modprobe erofs on the node, and restart containerd"
            } else {
                "look at containerd's log"
            };
            error(
                format!("containerd's erofs snapshotter did not start: {trouble}"),
                fix,
            )
        }
        None => error("containerd has no erofs snapshotter", INSTALL),
    }
}

/// containerd pulls no image at all without its transfer service.
fn transfer(report: &Report) -> Finding {
    match plugin(report, TRANSFER, "local") {
        Some(Plugin {
            trouble: Some(trouble),
            ..
        }) => error(
            format!(
                "containerd's transfer service did not start, so no image can be pulled: {trouble}"
            ),
            "name the differ \"walking\" in unpack_config: the differ \"erofs\" needs an mkfs.erofs that knows --tar (erofs-utils 1.8)",
        ),
        _ => ok("containerd's transfer service works"),
    }
}

/// The state of containerd's erofs differ shows whether mkfs.erofs is there. The erofs snapshotter needs it too.
fn mkfs(report: &Report) -> Finding {
    match plugin(report, DIFFER, "erofs") {
        Some(Plugin {
            trouble: Some(trouble),
            ..
        }) if trouble.contains("availability") => error(
            "containerd finds no mkfs.erofs, so it cannot pull an image of which one layer is not ready",
            "install erofs-utils on the node, and restart containerd",
        ),
        _ => ok("containerd finds mkfs.erofs for layers that are not ready"),
    }
}

/// The snapshotter of the images that the kubelet pulls.
fn of_pulls(report: &Report) -> Finding {
    match report.snapshotter.as_deref() {
        Some("erofs") => ok("the kubelet's images go to the erofs snapshotter"),
        Some(other) => error(
            format!(
                "the kubelet's images go to the snapshotter {other}, so no ready layer is used"
            ),
            INSTALL,
        ),
        None => ok("which snapshotter the kubelet's images go to is not known"),
    }
}

fn plugin<'a>(report: &'a Report, kind: &str, id: &str) -> Option<&'a Plugin> {
    let mut plugins = report.plugins.iter();
    plugins.find(|plugin| plugin.kind == kind && plugin.id == id)
}

/// The first two numbers of a version, without what stands before and after them.
fn version(text: &str) -> Option<Version> {
    let mut parts = text.trim_start_matches('v').split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?;
    let digits = minor.bytes().take_while(u8::is_ascii_digit).count();
    Some((major, minor[..digits].parse().ok()?))
}

fn ok(found: impl Into<String>) -> Finding {
    Finding::ok(Check::Streaming, found)
}

fn warning(found: impl Into<String>, fix: &str) -> Finding {
    Finding::warning(Check::Streaming, found, fix)
}

fn error(found: impl Into<String>, fix: &str) -> Finding {
    Finding::error(Check::Streaming, found, fix)
}

#[cfg(test)]
mod tests;
