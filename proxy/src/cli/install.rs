//! `larder install` and `larder uninstall`: containerd asks larder first, or no longer does.
//!
//! Owns the `hosts.toml` files under containerd's certs.d: which are written, what was there before, and
//! how it comes back. A plan is made from what the disk holds (`plan`), shown or carried out (`act`);
//! `hosts` knows the file's text, `containerd` looks at containerd's own configuration, which is only
//! ever read.
//!
//! Order matters to whoever calls this: whatever listens on larder's port while a `hosts.toml` names it
//! is what the runtime pulls through, so uninstall before the daemon stops for good.

mod act;
mod containerd;
mod hosts;
mod plan;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;

use crate::config::{Endpoint, registry_name};

pub use self::{
    containerd::advice as containerd_advice,
    hosts::{hosts_in_order, installed},
};

/// Where containerd looks for `hosts.toml` by convention.
const CERTS_DIR: &str = "/etc/containerd/certs.d";

/// Make containerd pull images through larder
#[derive(Args, Debug, Clone)]
pub struct InstallArgs {
    /// The directory that containerd's `config_path` names
    #[arg(long, value_name = "DIR", default_value = CERTS_DIR)]
    pub containerd_certs_dir: PathBuf,

    /// A registry to pull through larder, as images name it; repeatable [default: every registry]
    #[arg(long = "registry", value_name = "NAME")]
    pub registries: Vec<String>,

    /// Where containerd reaches larder
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7420")]
    pub address: String,

    /// containerd's configuration; checked, never written
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/containerd/config.toml"
    )]
    pub containerd_config: PathBuf,

    /// Show what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Make containerd pull images from the registries again
#[derive(Args, Debug, Clone)]
pub struct UninstallArgs {
    /// The directory that `larder install` wrote to
    #[arg(long, value_name = "DIR", default_value = CERTS_DIR)]
    pub containerd_certs_dir: PathBuf,

    /// Show what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Puts larder before the other hosts in containerd's `hosts.toml` files and says on `out` what was done.
/// Gives the exit code: 0, also when containerd's own configuration deserves a warning.
///
/// # Errors
/// Nothing was touched: a bad argument, or a file that cannot be read or understood. Otherwise a write
/// that failed; every file is then either as before or as planned.
pub fn install(args: &InstallArgs, out: &mut dyn Write) -> Result<u8> {
    let dir = absolute(&args.containerd_certs_dir)?;
    let address = address(&args.address)?;
    let registries = args
        .registries
        .iter()
        .map(|name| registry_name(name).map_err(|mend| anyhow!("--registry {name:?}: {mend}")))
        .collect::<Result<Vec<_>>>()?;
    let mut plan = plan::install(&dir, &registries, &address)?;
    let warnings = containerd::check(&args.containerd_config, &dir);
    plan.warnings.splice(0..0, warnings);
    act::act(&plan, args.dry_run, out)?;
    Ok(0)
}

/// Takes larder out of the `hosts.toml` files again and says on `out` what was done. Gives the exit code:
/// 0, or 1 when a file had to be left for a person to mend.
///
/// # Errors
/// A directory that cannot be read, or a write that failed; every file is then either as before or as planned.
pub fn uninstall(args: &UninstallArgs, out: &mut dyn Write) -> Result<u8> {
    let dir = absolute(&args.containerd_certs_dir)?;
    let plan = plan::uninstall(&dir)?;
    act::act(&plan, args.dry_run, out)?;
    Ok(u8::from(plan.unfinished))
}

fn absolute(dir: &Path) -> Result<PathBuf> {
    // containerd would split it and find neither half.
    if dir.to_string_lossy().contains(':') {
        bail!(
            "--containerd-certs-dir {}: one directory, not a list",
            dir.display()
        );
    }
    std::path::absolute(dir).with_context(|| format!("--containerd-certs-dir {}", dir.display()))
}

/// The URL as a `hosts.toml` key: scheme, host and port alone.
fn address(url: &str) -> Result<String> {
    // larder's own port speaks plain HTTP, unlike what a missing scheme means for a registry.
    if !url.contains("://") && !url.contains('@') {
        bail!("--address: the scheme is missing: write \"http://{url}\"");
    }
    let endpoint = Endpoint::parse(url).map_err(|mend| anyhow!("--address: {mend}"))?;
    if endpoint.url.path() != "/" {
        bail!("--address: leave out the path, containerd adds /v2 itself");
    }
    Ok(endpoint.url.to_string().trim_end_matches('/').to_owned())
}
