//! The paths of the runtimes' files on known distributions.
//!
//! The paths come from the distributions' own sources: k3s and RKE2 from the agent's set-up of its
//! containerd, Talos from its controller of registry hosts, EKS from nodeadm's templates, GKE from the
//! reference of its containerd configuration.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::ValueEnum;

use super::root::Root;

/// A distribution whose paths are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// containerd as packaged: kubeadm, AKS, kind, minikube
    Kubeadm,
    /// Amazon EKS
    Eks,
    /// Google Kubernetes Engine
    Gke,
    /// k3s
    K3s,
    /// RKE2
    Rke2,
    /// Talos Linux
    Talos,
    /// CRI-O, on any distribution
    Crio,
}

/// Which runtime is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Runtime {
    /// containerd, by hosts.toml files
    Containerd,
    /// CRI-O (podman and skopeo too), by a drop-in for registries.conf
    Crio,
    /// Each runtime that has its configuration on the node
    Auto,
}

/// The directory of drop-ins for registries.conf, the same on every distribution.
pub(super) const CRIO_CONF_DIR: &str = "/etc/containers/registries.conf.d";
/// The directory of CRI-O's own configuration. No other program has it.
pub(super) const CRIO_DIR: &str = "/etc/crio";

impl Preset {
    /// The directory that containerd's `config_path` names.
    pub(super) fn certs_dir(self) -> &'static str {
        match self {
            Self::Kubeadm | Self::Eks | Self::Crio => "/etc/containerd/certs.d",
            Self::Gke => "/etc/containerd/hosts.d",
            Self::K3s => "/var/lib/rancher/k3s/agent/etc/containerd/certs.d",
            Self::Rke2 => "/var/lib/rancher/rke2/agent/etc/containerd/certs.d",
            Self::Talos => "/etc/cri/conf.d/hosts",
        }
    }

    /// The file in which `config_path` is set.
    pub(super) fn containerd_config(self) -> &'static str {
        match self {
            Self::Kubeadm | Self::Eks | Self::Gke | Self::Crio => "/etc/containerd/config.toml",
            Self::K3s => "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
            Self::Rke2 => "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
            Self::Talos => "/etc/cri/conf.d/cri.toml",
        }
    }

    fn runtime(self) -> Runtime {
        match self {
            Self::Crio => Runtime::Crio,
            _ => Runtime::Containerd,
        }
    }
}

/// The runtimes to set up on a node.
#[derive(Debug)]
pub(super) struct Targets {
    /// containerd's certs.d.
    pub(super) containerd: Option<PathBuf>,
    /// The directory of CRI-O's drop-ins.
    pub(super) crio: Option<PathBuf>,
}

/// The runtimes that `runtime` means on this node; `None` is the preset's runtime.
///
/// # Errors
/// `auto` finds neither runtime.
pub(super) fn targets(
    preset: Preset,
    runtime: Option<Runtime>,
    root: &Root,
    certs_dir: &Path,
    crio_conf_dir: &Path,
) -> Result<Targets> {
    let runtime = runtime.unwrap_or_else(|| preset.runtime());
    let (containerd, crio) = match runtime {
        Runtime::Containerd => (true, false),
        Runtime::Crio => (false, true),
        Runtime::Auto => {
            let config = Path::new(preset.containerd_config());
            (
                root.exists(certs_dir)? || root.exists(config)?,
                root.exists(Path::new(CRIO_DIR))?,
            )
        }
    };
    if !containerd && !crio {
        bail!(
            "no runtime was found: neither {} nor {} nor {CRIO_DIR} exists on the node; name the runtime with --runtime",
            certs_dir.display(),
            preset.containerd_config()
        );
    }
    Ok(Targets {
        containerd: containerd.then(|| certs_dir.to_owned()),
        crio: crio.then(|| crio_conf_dir.to_owned()),
    })
}
