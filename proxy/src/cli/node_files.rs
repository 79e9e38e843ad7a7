//! Where containerd's files are, for the commands that read them. Paths are the node's. In a pod, the files are below
//! the directory where the node is mounted.

use std::path::{Path, PathBuf};

use super::install::Root;

/// The directory where containerd looks for `hosts.toml` by convention, and containerd's configuration.
pub const CERTS_DIR: &str = "/etc/containerd/certs.d";
pub const CONFIG: &str = "/etc/containerd/config.toml";

const RESTART: &str =
    "its install container writes the files when the pod of this node restarts: kubectl delete pod";

/// Which node, and its directory of `hosts.toml` files.
#[derive(Clone, Debug, clap::Args)]
pub struct NodeFiles {
    /// In a container, the directory where the node's root is mounted; the paths of containerd's files are the node's
    #[arg(
        long,
        env = "LARDER_NODE_ROOT",
        value_name = "DIR",
        default_value = "/"
    )]
    pub node_root: PathBuf,
    /// The directory that containerd's `config_path` names [default: /etc/containerd/certs.d, if it exists here]
    #[arg(long, env = "LARDER_CONTAINERD_CERTS_DIR", value_name = "DIR")]
    containerd_certs_dir: Option<PathBuf>,
}

impl NodeFiles {
    /// The node's directory of `hosts.toml` files, or `None` if it cannot be seen here.
    pub fn certs_dir(&self) -> Option<PathBuf> {
        self.shown(self.containerd_certs_dir.as_deref(), CERTS_DIR)
    }

    /// `given`, or else `default` if its parent directory exists here. Without the parent, the file is at another place
    /// rather than missing.
    pub fn shown(&self, given: Option<&Path>, default: &str) -> Option<PathBuf> {
        let path = given.unwrap_or(Path::new(default)).to_owned();
        let above = path.parent().unwrap_or(&path);
        let near = self.root().and_then(|root| root.exists(above));
        (given.is_some() || near.unwrap_or(false)).then_some(path)
    }

    /// What a person does so that the runtime asks larder for every registry, or for `registry`, which the file for
    /// every registry does not cover. In a pod, the chart writes the files.
    pub fn how_to_install(&self, registry: Option<&str>) -> String {
        let in_pod = self.node_root != Path::new("/");
        match (in_pod, registry) {
            (false, None) => "larder install".to_owned(),
            (false, Some(registry)) => format!("larder install --registry {registry}"),
            (true, None) => {
                format!("set runtime.enabled=true in the chart's values; {RESTART}")
            }
            (true, Some(registry)) => {
                format!(
                    "set runtime.registries=[\"*\", \"{registry}\"] in the chart's values; {RESTART}"
                )
            }
        }
    }

    /// The node's root, at which paths and links are resolved.
    pub fn root(&self) -> anyhow::Result<Root> {
        Root::new(&self.node_root)
    }
}
