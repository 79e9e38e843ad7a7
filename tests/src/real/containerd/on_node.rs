//! A containerd as on a node: in a host's network, with pods on a bridge of their own behind it and host ports, and
//! with its own directories in place of `/etc/containerd` and `/var/lib`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Containerd, Release};
use crate::hosts::Host;

/// The directories that stand for a node's `/etc/containerd` and `/var/lib`.
const ETC: &str = "etc-containerd";
const LIB: &str = "var-lib";

/// Where a node's containerd looks for hosts files.
pub(super) const CERTS: &str = "/etc/containerd/certs.d";

impl Containerd {
    /// Starts containerd as a node's, with `pause` as the image of pod sandboxes.
    pub async fn start_on(release: Release, host: &Host, pause: &str) -> Result<Self> {
        let namespace = Some(host.namespace().to_owned());
        Self::start_in(release, namespace, |dir, snapshotter| {
            release.config_toml(dir, snapshotter, pause, Some(Path::new(CERTS)))
        })
        .await
    }

    /// This machine's path for a path of the node. Panics for paths that are this machine's own.
    pub fn on_this_machine(&self, path: &Path) -> PathBuf {
        assert!(self.namespace.is_some(), "it is no node's");
        if path.starts_with(self.dir()) {
            return path.to_owned();
        }
        let own = [("/etc/containerd", ETC), ("/var/lib", LIB)];
        let found = own.iter().find_map(|(of_node, here)| {
            let rest = path.strip_prefix(of_node).ok()?;
            Some(self.dir().join(here).join(rest))
        });
        found.unwrap_or_else(|| panic!("{} is this machine's own", path.display()))
    }
}

/// Makes the node's directories, with this configuration.
pub(super) fn prepare(dir: &Path, config: &str) -> Result<()> {
    fs::create_dir_all(dir.join(ETC).join("certs.d"))?;
    fs::write(dir.join(ETC).join("config.toml"), config)?;
    fs::create_dir(dir.join(LIB))?;
    fs::create_dir(dir.join("cni"))?;
    fs::write(
        dir.join("cni/10-pods.conflist"),
        pod_network(dir).to_string(),
    )?;
    Ok(())
}

/// The program in the network namespace and in a mount namespace of its own. Not by `ip netns exec`, which hides the
/// control groups.
pub(super) fn command(release: Release, dir: &Path, namespace: &str) -> Result<Command> {
    // As under systemd: pods may ask for mounts that come and go with the node's.
    const MOUNT: &str = r#"mount --make-rshared /
        mount --bind "$1" /etc/containerd
        mount --bind "$2" /var/lib
        exec containerd --config /etc/containerd/config.toml"#;
    let mut command = Command::new("nsenter");
    command.env("PATH", release.search_path()?);
    command.arg(format!("--net=/run/netns/{namespace}"));
    command.args(["unshare", "--mount", "--propagation", "private"]);
    command.args(["sh", "-ec", MOUNT, "sh"]);
    command.args([dir.join(ETC), dir.join(LIB)]);
    Ok(command)
}

/// A bridge behind the host's address, with host ports, by the plugins that common networks chain.
fn pod_network(dir: &Path) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "dataDir": dir.join("ipam"),
                    "ranges": [[{"subnet": "10.88.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}
