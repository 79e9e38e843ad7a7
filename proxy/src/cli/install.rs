//! `larder install` and `larder uninstall`: make the container runtime ask larder first, and undo that.
//!
//! Owns the files that make a runtime ask larder: which ones it writes, what was there before, and how that is
//! restored. Paths are the node's. `root` knows where they are: on the node itself, or mounted in a container. A plan
//! is made from the files on disk (`certs` for containerd, `crio` for CRI-O), then shown or carried out (`act`). The
//! runtimes' own configuration is only read (`containerd`, `reload`). The one exception is a drop-in that makes
//! containerd mount ready files, written only on request (`streaming`).
//!
//! While a file names larder's port, the runtime pulls through any program that listens there. So run `larder
//! uninstall` before the daemon stops for good.

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
mod reload;
mod root;
mod streaming;
#[cfg(test)]
mod tests;
mod unit;

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

pub(super) use self::streaming::said as containerd_said;
pub use self::{
    containerd::advice_below as containerd_advice,
    hosts::{hosts_in_order, installed},
    streaming::{Said, Unpack},
};

/// The name that stands for every registry.
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

    /// In a container, the directory where the node's root is mounted; all other paths are the node's. Only
    /// the directories named by the other options must be mounted below it
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub node_root: PathBuf,

    /// The directory that containerd's `config_path` names [default: the preset's]
    #[arg(long, value_name = "DIR")]
    pub containerd_certs_dir: Option<PathBuf>,

    /// The directory of the drop-ins that CRI-O reads
    #[arg(long, value_name = "DIR", default_value = CRIO_CONF_DIR)]
    pub crio_conf_dir: PathBuf,

    /// Send CRI-O a SIGHUP so that it reads its files again, unless it started after they last changed. In a
    /// container this needs the node's processes (hostPID)
    #[arg(long)]
    pub crio_reload: bool,
}

/// Configure the container runtime to pull images through larder
#[derive(Args, Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub struct InstallArgs {
    #[command(flatten)]
    pub node: NodeArgs,

    /// A registry to pull through larder, as images name it; may be repeated. '*' means every registry. CRI-O
    /// has no entry for every registry, so there '*' means the well-known public ones. Under CRI-O, write
    /// NAME=ALIAS for a registry with a port [default: every registry]
    #[arg(long = "registry", value_name = "NAME[=ALIAS]")]
    pub registries: Vec<String>,

    /// Remove larder's lines for registries that earlier runs named and this one does not
    #[arg(long)]
    pub exact: bool,

    /// The address at which the runtime reaches larder
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7420")]
    pub address: String,

    /// containerd's configuration; checked, never written [default: the preset's]
    #[arg(long, value_name = "FILE")]
    pub containerd_config: Option<PathBuf>,

    /// At the end, check that larder answers at the address, for at most this many seconds (10 by default).
    /// larder must be running, and this command must run in the node's network
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "10"
    )]
    pub probe: Option<u16>,

    /// Print a systemd unit for the watcher (`larder runtime`) on a machine without Kubernetes, and change nothing
    #[arg(
        long,
        conflicts_with_all = ["registries", "exact", "probe", "dry_run", "crio_reload"]
    )]
    pub watch: bool,

    /// Print a systemd unit for the holder (`larder hold`) on a machine without Kubernetes, and change nothing
    #[arg(
        long,
        conflicts_with_all = ["registries", "exact", "probe", "dry_run", "crio_reload", "watch"]
    )]
    pub hold: bool,

    /// Instead write a drop-in for containerd 2.4.2 or newer, on the machine itself: containerd then mounts the layers that
    /// larder has made ready in DIR, which is `[streaming] directory`. With --dry-run it is shown
    #[arg(
        long,
        value_name = "DIR",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "/var/lib/larder-layers",
        conflicts_with_all = ["registries", "exact", "probe", "watch", "hold", "crio_reload"]
    )]
    pub streaming: Option<PathBuf>,

    /// Show what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Restore the container runtime's files
#[derive(Args, Debug, Clone)]
pub struct UninstallArgs {
    #[command(flatten)]
    pub node: NodeArgs,

    /// containerd's configuration, beside which `install --streaming` has put its drop-in [default: the preset's, or
    /// config.toml beside --containerd-certs-dir]
    #[arg(long, value_name = "FILE")]
    pub containerd_config: Option<PathBuf>,

    /// Keep running afterwards until a signal ends it, as a container of a DaemonSet must
    #[arg(long, conflicts_with = "dry_run")]
    pub stay: bool,

    /// Show what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Puts larder before the other hosts that the runtime asks. Writes to `out` what it did, and to `complaints` what a
/// person should fix. Returns the exit code: 0, even with warnings.
///
/// # Errors
/// A bad argument, or a file that cannot be read or understood: then nothing was changed. Or a write that failed: then
/// every file is either as before or as planned.
pub fn install(args: &InstallArgs, out: &mut dyn Write, complaints: &mut dyn Write) -> Result<u8> {
    if args.watch || args.hold {
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let unit = if args.hold {
            unit::holder(&program)
        } else {
            unit::watcher(&program, args.node.preset, args.node.runtime)
        };
        out.write_all(unit.as_bytes())?;
        return Ok(0);
    }
    let (root, targets) = args.node.find()?;
    let config = args
        .node
        .containerd_config(args.containerd_config.as_deref());
    if let Some(directory) = &args.streaming {
        let directory = absolute("--streaming", directory)?;
        if targets.containerd.is_none() {
            bail!("--streaming is for containerd: CRI-O has nothing that mounts larder's files");
        }
        let mut plan = Plan::default();
        streaming::install(&mut plan, &root, &config, &directory)?;
        act::act(&plan, &root, args.dry_run, out, complaints)?;
        return Ok(0);
    }
    let address = address(&args.address)?;
    let registries = args
        .registries
        .iter()
        .map(|name| registry(name))
        .collect::<Result<Vec<_>>>()?;
    let mut plan = Plan::default();
    if let Some(dir) = &targets.containerd {
        plan.warnings = containerd::check(&root, &config, dir);
        let names: Vec<String> = registries.iter().map(|(name, _)| name.clone()).collect();
        certs::install(&mut plan, &root, dir, &names, &address, args.exact)?;
    }
    if let Some(dir) = &targets.crio {
        crio::install(&mut plan, &root, dir, &registries, &address, args.exact)?;
    }
    args.node
        .carry_out(plan, &root, &targets, args.dry_run, out, complaints)?;
    if let Some(seconds) = args.probe {
        let patience = Duration::from_secs(seconds.into());
        let answer = probe::probe(&address, patience)?;
        match probe::fix(&answer, &address) {
            None => writeln!(out, "larder answers at {address}")?,
            Some(fix) => writeln!(complaints, "warning: {fix}")?,
        }
    }
    Ok(0)
}

/// Removes larder from the runtime's files. Writes to `out` what it did, and to `complaints` what a person should fix.
/// Returns the exit code: 0, or 1 if a person has to check a file that was left.
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
        // Another certs.d has another configuration beside it.
        let certs = args.node.containerd_certs_dir.as_ref();
        let beside = certs.map(|certs| certs.with_file_name("config.toml"));
        let given = args.containerd_config.clone().or(beside);
        let config = args.node.containerd_config(given.as_deref());
        streaming::uninstall(&mut plan, &root, &config)?;
        looked.push(dir.display().to_string());
    }
    if let Some(dir) = &targets.crio {
        crio::uninstall(&mut plan, &root, dir)?;
        looked.push(dir.display().to_string());
    }
    if plan.is_empty() {
        let nothing = format!("larder has no lines in {}", looked.join(" or "));
        plan.notes.push(nothing);
    }
    let code = u8::from(plan.unfinished);
    args.node
        .carry_out(plan, &root, &targets, args.dry_run, out, complaints)?;
    if args.stay && code == 0 {
        out.flush()?;
        until_ended()?;
    }
    Ok(code)
}

impl NodeArgs {
    /// The node, and the runtimes on it.
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

    /// containerd's configuration on the node.
    fn containerd_config(&self, given: Option<&Path>) -> PathBuf {
        let preset = Path::new(self.preset.containerd_config());
        given.unwrap_or(preset).to_owned()
    }

    /// Carries out `plan` or shows it, and makes CRI-O read its files again.
    fn carry_out(
        &self,
        mut plan: Plan,
        root: &Root,
        targets: &Targets,
        dry_run: bool,
        out: &mut dyn Write,
        complaints: &mut dyn Write,
    ) -> Result<()> {
        let crio = targets.crio.as_deref();
        if let Some(dir) = crio
            && plan.crio_changes
            && !self.crio_reload
        {
            reload::say_when(&mut plan, root, dir)?;
        }
        act::act(&plan, root, dry_run, out, complaints)?;
        if let Some(dir) = crio
            && self.crio_reload
            && !dry_run
        {
            self::reload(&plan, root, &dir.join(crio::FILE), out, complaints)?;
        }
        Ok(())
    }
}

/// Sends CRI-O the signal, even if it was an earlier run that changed the files and ended before it sent one.
fn reload(
    plan: &Plan,
    root: &Root,
    drop_in: &Path,
    out: &mut dyn Write,
    complaints: &mut dyn Write,
) -> Result<()> {
    let signalled = reload::reload(reload::changed(root, drop_in)?);
    if signalled.told > 0 {
        writeln!(out, "CRI-O received a SIGHUP and reads its files again")?;
    } else if signalled.seen == 0 && (plan.crio_changes || root.exists(drop_in)?) {
        writeln!(
            complaints,
            "warning: no CRI-O process received a SIGHUP. In a container this needs hostPID and the right to send \
             signals; or run `systemctl reload crio` on the node"
        )?;
    }
    Ok(())
}

/// Waits for SIGTERM or SIGINT. A process with PID 1 in a container ignores both unless it handles them.
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
    // containerd would split the path at the colon, and would find neither part.
    if dir.to_string_lossy().contains(':') {
        bail!("{flag} {}: give one directory, not a list", dir.display());
    }
    std::path::absolute(dir).with_context(|| format!("{flag} {}", dir.display()))
}

/// A registry and its alias in larder's configuration, if one was given.
fn registry(said: &str) -> Result<(String, Option<String>)> {
    if said == EVERY {
        return Ok((said.to_owned(), None));
    }
    let (name, alias) = match said.split_once('=') {
        Some((name, alias)) => (name, Some(alias)),
        None => (said, None),
    };
    let refused = |fix: String| anyhow!("--registry {said:?}: {fix}");
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if alias.is_some_and(|alias| alias.is_empty() || !alias.bytes().all(plain)) {
        return Err(refused(
            "give the alias from larder's configuration: one part of a path, of a-z, 0-9, `.`, `_` and `-`".to_owned(),
        ));
    }
    let name = registry_name(name).map_err(refused)?;
    Ok((name, alias.map(str::to_owned)))
}

/// The URL in the form that the runtimes' files need: scheme, host and port.
fn address(url: &str) -> Result<String> {
    // For a registry, a missing scheme means HTTPS. larder's own port speaks plain HTTP.
    if !url.contains("://") && !url.contains('@') {
        bail!("--address: the scheme is missing: write \"http://{url}\"");
    }
    let endpoint = Endpoint::parse(url).map_err(|fix| anyhow!("--address: {fix}"))?;
    if endpoint.url.path() != "/" {
        bail!("--address: leave out the path: the runtime adds /v2 itself");
    }
    Ok(endpoint.url.to_string().trim_end_matches('/').to_owned())
}
