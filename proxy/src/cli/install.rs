//! `larder install` and `larder uninstall`: the container runtime asks larder first, or no longer does.
//!
//! Owns the files that lead a runtime to larder: which are written, what was there before, and how it
//! comes back. Paths are the node's; `root` knows where they are, on the node itself or mounted in a
//! container. A plan is made from what the disk holds (`certs` for containerd, `crio` for CRI-O), shown or
//! carried out (`act`). The runtimes' own configuration is only ever read (`containerd`, `crio`).
//!
//! Order matters to whoever calls this: whatever listens on larder's port while a file names it is what
//! the runtime pulls through, so uninstall before the daemon stops for good.

mod act;
mod block;
mod certs;
mod containerd;
mod crio;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod hosts;
mod plan;
mod preset;
mod probe;
mod root;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use self::plan::Plan;
use self::preset::{CRIO_CONF_DIR, Targets};
pub use self::preset::{Preset, Runtime};
pub(super) use self::root::Root;
use crate::config::{Endpoint, registry_name};

pub use self::{
    containerd::advice_below as containerd_advice,
    hosts::{hosts_in_order, installed},
};

/// Stands for every registry among the names.
const EVERY: &str = "*";

/// Which files of which node.
#[derive(Args, Debug, Clone)]
pub struct NodeArgs {
    /// The distribution, which sets the paths below
    #[arg(long, value_enum, default_value_t = Preset::Kubeadm)]
    pub preset: Preset,

    /// The runtime [default: the preset's]
    #[arg(long, value_enum)]
    pub runtime: Option<Runtime>,

    /// Where the node's root directory is, in a container: all other paths are the node's. Only the
    /// directories that are named here have to be mounted below it
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub node_root: PathBuf,

    /// The directory that containerd's `config_path` names [default: the preset's]
    #[arg(long, value_name = "DIR")]
    pub containerd_certs_dir: Option<PathBuf>,

    /// The directory of the drop-ins that CRI-O reads
    #[arg(long, value_name = "DIR", default_value = CRIO_CONF_DIR)]
    pub crio_conf_dir: PathBuf,

    /// If its files change, tell CRI-O by a SIGHUP to read them again. In a container this takes the node's
    /// processes (hostPID)
    #[arg(long)]
    pub crio_reload: bool,
}

/// Make the container runtime pull images through larder
#[derive(Args, Debug, Clone)]
pub struct InstallArgs {
    #[command(flatten)]
    pub node: NodeArgs,

    /// A registry to pull through larder, as images name it; repeatable. '*' stands for every registry;
    /// CRI-O has to name each, there it stands for the well-known public ones. NAME=ALIAS for a registry
    /// with a port under CRI-O [default: every registry]
    #[arg(long = "registry", value_name = "NAME[=ALIAS]")]
    pub registries: Vec<String>,

    /// Take larder out of what earlier runs wrote and this one does not name
    #[arg(long)]
    pub exact: bool,

    /// Where the runtime reaches larder
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7420")]
    pub address: String,

    /// containerd's configuration; checked, never written [default: the preset's]
    #[arg(long, value_name = "FILE")]
    pub containerd_config: Option<PathBuf>,

    /// At the end, ask whether larder answers at the address, for ten seconds at the most. It has to run by
    /// then, and this has to run in the node's network
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "10"
    )]
    pub probe: Option<u16>,

    /// Show what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Put the container runtime's files back as they were
#[derive(Args, Debug, Clone)]
pub struct UninstallArgs {
    #[command(flatten)]
    pub node: NodeArgs,

    /// Stay afterwards until ended, as the container of a DaemonSet has to
    #[arg(long, conflicts_with = "dry_run")]
    pub stay: bool,

    /// Show what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Puts larder before the other places that the runtime asks, says on `out` what was done and on
/// `complaints` what a person should mend. Gives the exit code: 0, also when there is something to mend.
///
/// # Errors
/// Nothing was touched: a bad argument, or a file that cannot be read or understood. Otherwise a write
/// that failed; every file is then either as before or as planned.
pub fn install(args: &InstallArgs, out: &mut dyn Write, complaints: &mut dyn Write) -> Result<u8> {
    let (root, targets) = args.node.find()?;
    let address = address(&args.address)?;
    let registries = args
        .registries
        .iter()
        .map(|name| registry(name))
        .collect::<Result<Vec<_>>>()?;
    let mut plan = Plan::default();
    if let Some(dir) = &targets.containerd {
        let preset = Path::new(args.node.preset.containerd_config());
        let config = args.containerd_config.as_deref().unwrap_or(preset);
        plan.warnings = containerd::check(&root, config, dir);
        let names: Vec<String> = registries.iter().map(|(name, _)| name.clone()).collect();
        certs::install(&mut plan, &root, dir, &names, &address, args.exact)?;
    }
    if let Some(dir) = &targets.crio {
        crio::install(&mut plan, &root, dir, &registries, &address, args.exact)?;
    }
    args.node
        .carry_out(plan, &root, args.dry_run, out, complaints)?;
    if let Some(seconds) = args.probe {
        let patience = Duration::from_secs(seconds.into());
        let answer = probe::probe(&address, patience)?;
        match probe::mend(&answer, &address) {
            None => writeln!(out, "larder answers at {address}")?,
            Some(mend) => writeln!(complaints, "warning: {mend}")?,
        }
    }
    Ok(0)
}

/// Takes larder out of the runtime's files again, says on `out` what was done and on `complaints` what a
/// person should mend. Gives the exit code: 0, or 1 when a person has to look at what was left.
///
/// # Errors
/// A directory that cannot be read, or a write that failed; every file is then either as before or as planned.
pub fn uninstall(
    args: &UninstallArgs,
    out: &mut dyn Write,
    complaints: &mut dyn Write,
) -> Result<u8> {
    let (root, targets) = args.node.find()?;
    let mut plan = Plan::default();
    let mut looked = Vec::new();
    if let Some(dir) = &targets.containerd {
        certs::uninstall(&mut plan, &root, dir)?;
        looked.push(dir.display().to_string());
    }
    if let Some(dir) = &targets.crio {
        crio::uninstall(&mut plan, &root, dir)?;
        looked.push(dir.display().to_string());
    }
    if plan.is_empty() {
        let nothing = format!("nothing of larder's is in {}", looked.join(" or "));
        plan.notes.push(nothing);
    }
    let code = u8::from(plan.unfinished);
    args.node
        .carry_out(plan, &root, args.dry_run, out, complaints)?;
    if args.stay && code == 0 {
        out.flush()?;
        until_ended()?;
    }
    Ok(code)
}

impl NodeArgs {
    /// The node, and what is on it.
    fn find(&self) -> Result<(Root, Targets)> {
        let root = Root::new(&self.node_root)?;
        let preset = Path::new(self.preset.certs_dir());
        let certs_dir = self.containerd_certs_dir.as_deref().unwrap_or(preset);
        let certs_dir = absolute("--containerd-certs-dir", certs_dir)?;
        let crio_conf_dir = absolute("--crio-conf-dir", &self.crio_conf_dir)?;
        let targets =
            preset::targets(self.preset, self.runtime, &root, &certs_dir, &crio_conf_dir)?;
        Ok((root, targets))
    }

    /// Does what `plan` says, or shows it, and has CRI-O read its files again.
    fn carry_out(
        &self,
        mut plan: Plan,
        root: &Root,
        dry_run: bool,
        out: &mut dyn Write,
        complaints: &mut dyn Write,
    ) -> Result<()> {
        let signal = plan.crio_changes && self.crio_reload;
        if plan.crio_changes && !signal {
            crio::say_when(&mut plan, root)?;
        }
        act::act(&plan, root, dry_run, out, complaints)?;
        if signal && !dry_run {
            match crio::reload() {
                0 => writeln!(
                    complaints,
                    "warning: no process of CRI-O took a SIGHUP: in a container this takes hostPID and leave to send \
                     signals. `systemctl reload crio` on the node does the same"
                )?,
                _ => writeln!(out, "CRI-O was told to read its files again")?,
            }
        }
        Ok(())
    }
}

/// Waits for SIGTERM or SIGINT. The first process of a container ignores both unless it waits for them.
fn until_ended() -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            Ok(())
        })
}

fn absolute(flag: &str, dir: &Path) -> Result<PathBuf> {
    // containerd would split it and find neither half.
    if dir.to_string_lossy().contains(':') {
        bail!("{flag} {}: one directory, not a list", dir.display());
    }
    std::path::absolute(dir).with_context(|| format!("{flag} {}", dir.display()))
}

/// A registry and the alias that larder has for it, if one was said.
fn registry(said: &str) -> Result<(String, Option<String>)> {
    if said == EVERY {
        return Ok((said.to_owned(), None));
    }
    let (name, alias) = match said.split_once('=') {
        Some((name, alias)) => (name, Some(alias)),
        None => (said, None),
    };
    let refused = |mend: String| anyhow!("--registry {said:?}: {mend}");
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if alias.is_some_and(|alias| alias.is_empty() || !alias.bytes().all(plain)) {
        return Err(refused(
            "the alias is the one in larder's configuration, one part of a path".to_owned(),
        ));
    }
    let name = registry_name(name).map_err(refused)?;
    Ok((name, alias.map(str::to_owned)))
}

/// The URL as the runtimes' files have it: scheme, host and port alone.
fn address(url: &str) -> Result<String> {
    // larder's own port speaks plain HTTP, unlike what a missing scheme means for a registry.
    if !url.contains("://") && !url.contains('@') {
        bail!("--address: the scheme is missing: write \"http://{url}\"");
    }
    let endpoint = Endpoint::parse(url).map_err(|mend| anyhow!("--address: {mend}"))?;
    if endpoint.url.path() != "/" {
        bail!("--address: leave out the path, the runtime adds /v2 itself");
    }
    Ok(endpoint.url.to_string().trim_end_matches('/').to_owned())
}
