//! The systemd units of the watcher and of the holder, as text. Pure.

use std::path::Path;

use super::preset::{Preset, Runtime};

/// The file that the watcher writes. The unit gives it write access there and nowhere else.
const REPORT: &str = "/run/larder-runtime/runtime.json";

/// The runtime's socket on the node.
fn socket(preset: Preset, runtime: Option<Runtime>) -> &'static str {
    match (preset, runtime) {
        (_, Some(Runtime::Crio)) | (Preset::Crio, None) => "/run/crio/crio.sock",
        (Preset::K3s | Preset::Rke2, _) => "/run/k3s/containerd/containerd.sock",
        _ => "/run/containerd/containerd.sock",
    }
}

/// The unit that runs `program` as the watcher.
pub(super) fn watcher(program: &Path, preset: Preset, runtime: Option<Runtime>) -> String {
    let (program, socket) = (program.display(), socket(preset, runtime));
    format!(
        "\
# larder's watcher. Save this as /etc/systemd/system/larder-runtime.service, then run
#   systemctl daemon-reload && systemctl enable --now larder-runtime
# and let the daemon read the file, by these lines of its configuration:
#   [runtime]
#   file = \"{REPORT}\"
[Unit]
Description=larder: what the container runtime holds and uses
StartLimitIntervalSec=0

[Service]
ExecStart={program} runtime --socket {socket} --file {REPORT}
Restart=always
RestartSec=5
# Only this directory is writable. The file outlives a restart of the watcher.
RuntimeDirectory=larder-runtime
RuntimeDirectoryPreserve=yes
# The runtime's socket belongs to root, and gives root. The watcher has no other right, and no network.
User=root
CapabilityBoundingSet=
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX
PrivateNetwork=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
MemoryMax=64M

[Install]
WantedBy=multi-user.target
"
    )
}

/// The unit that runs `program` as the holder. It leaves out every setting that needs a mount namespace of its own,
/// since the container runtime would not see the mounts.
pub(super) fn holder(program: &Path) -> String {
    let program = program.display();
    format!(
        "\
# larder's holder of mounts. Save this as /etc/systemd/system/larder-hold.service, then run
#   systemctl daemon-reload && systemctl enable --now larder-hold
# To take it away again: larder hold --uninstall, and when it has ended, systemctl disable larder-hold
[Unit]
Description=larder: mounts that outlive the daemon
StartLimitIntervalSec=0

[Service]
ExecStart={program} hold
# It ends without an error when it is uninstalled, and when another holder has taken over.
Restart=on-failure
RestartSec=2
RuntimeDirectory=larder-hold
RuntimeDirectoryMode=0755
# The mounts are in this directory, and outlive a restart.
RuntimeDirectoryPreserve=yes
# Its mounts are for the container runtime, so it shares the machine's mount namespace: none of ProtectSystem, PrivateTmp,
# PrivateDevices, PrivateNetwork and their like, each of which makes another one.
PrivateMounts=no
User=root
CapabilityBoundingSet=CAP_SYS_ADMIN
NoNewPrivileges=yes
DevicePolicy=closed
DeviceAllow=/dev/fuse rw
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service @mount
MemoryMax=64M
# While holder and daemon are both gone, containers read errors.
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
"
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_unit_names_the_presets_socket() {
        let program = Path::new("/usr/local/bin/larder");
        for (preset, runtime, socket) in [
            (Preset::Kubeadm, None, "/run/containerd/containerd.sock"),
            (Preset::K3s, None, "/run/k3s/containerd/containerd.sock"),
            (Preset::Crio, None, "/run/crio/crio.sock"),
            (Preset::Kubeadm, Some(Runtime::Crio), "/run/crio/crio.sock"),
            (
                Preset::Talos,
                Some(Runtime::Auto),
                "/run/containerd/containerd.sock",
            ),
        ] {
            let unit = watcher(program, preset, runtime);
            let line = format!(
                "ExecStart=/usr/local/bin/larder runtime --socket {socket} --file {REPORT}\n"
            );
            assert!(unit.contains(&line), "{unit}");
        }
    }

    #[test]
    fn systemd_understands_the_units() {
        let dir = tempfile::tempdir().unwrap();
        let program = Path::new("/bin/true");
        for (name, unit) in [
            ("larder-runtime", watcher(program, Preset::Kubeadm, None)),
            ("larder-hold", holder(program)),
        ] {
            let file = dir.path().join(format!("{name}.service"));
            std::fs::write(&file, unit).unwrap();
            let verify = Command::new("systemd-analyze")
                .arg("verify")
                .arg(&file)
                .output();
            // A machine without systemd cannot check the unit.
            let Ok(output) = verify else { return };
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let of_unit = said.lines().filter(|line| line.contains(name));
            assert_eq!(of_unit.collect::<Vec<_>>(), Vec::<&str>::new());
        }
    }
}
