//! `larder node-labels`: writes down this node's labels as Kubernetes has them, for `[warm] labels_file`.
//!
//! The chart's init container runs it, so that the daemon itself needs neither the API nor a token.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use serde_json::Value;

use super::kubernetes::Api;
use super::show::{complain, say};

/// The time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Write this node's labels to a file, for `nodes` of warm sets
///
/// Asks the Kubernetes API once for this node, with the pod's service account, which needs the right to get nodes.
#[derive(Args, Debug, Clone)]
#[command(after_help = "\
Examples:
  larder node-labels --node worker-3 --file /run/larder-node/labels

The chart runs this command in an init container if its value warm.nodeLabels is true.")]
pub struct NodeLabelsArgs {
    /// The file to write, one key=\"value\" a line
    #[arg(long, value_name = "FILE", default_value = "/run/larder-node/labels")]
    pub file: PathBuf,

    /// The node's name
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node: String,

    /// End with exit code 0 also where the labels could not be read: larder starts without them, and doctor says so
    #[arg(long)]
    pub optional: bool,

    /// How long the API may take
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub timeout: u64,

    /// The Kubernetes API [default: the one of this pod's cluster]
    #[arg(long, value_name = "URL")]
    pub api: Option<String>,

    /// The directory with ca.crt, token and namespace
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount"
    )]
    pub service_account: PathBuf,
}

/// # Errors
/// The labels could not be read or written, and they are not optional.
pub fn node_labels(args: &NodeLabelsArgs) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match runtime.block_on(run(args)) {
        Ok(count) => {
            say(&format!(
                "{count} labels of {} are in {}",
                args.node,
                args.file.display()
            ));
            Ok(0)
        }
        Err(error) if args.optional => {
            complain(&format!(
                "{error:#}; larder starts without this node's labels"
            ));
            Ok(0)
        }
        Err(error) => Err(error),
    }
}

async fn run(args: &NodeLabelsArgs) -> Result<usize> {
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let api = Api::new(args.api.as_deref(), &args.service_account)?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let asked = tokio::time::timeout(left, api.node(&args.node)).await;
        let why = match asked {
            Ok(Ok(Some(node))) => {
                let text = text(&node);
                write(&args.file, &text)
                    .with_context(|| format!("{} cannot be written", args.file.display()))?;
                return Ok(text.lines().count());
            }
            Ok(Ok(None)) => anyhow!("Kubernetes has no node {}", args.node),
            Ok(Err(error)) => error,
            Err(_) => anyhow!("no answer of the API within {} s", args.timeout),
        };
        // New rights need a moment to take effect, and so does an API server that restarts.
        if Instant::now() + PAUSE >= deadline {
            return Err(why.context("this node's labels cannot be read from the API"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The labels in the form of the downward API.
fn text(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object();
    let mut lines: Vec<String> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={:?}\n", value.as_str()?)))
        .collect();
    lines.sort();
    lines.concat()
}

/// Replaces the file at once, so that the daemon reads the old file or the new one.
fn write(file: &Path, text: &str) -> std::io::Result<()> {
    let aside = file.with_extension("new");
    fs::write(&aside, text)?;
    fs::rename(aside, file)
}
