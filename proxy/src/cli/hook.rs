//! `larder hook`: the command of the chart's hooks, run in their Job. A DaemonSet does the work on every node. This
//! command waits for the nodes, says why each of the others is not done, and decides whether Helm may go on.
//!
//! Asks the Kubernetes API ([`super::kubernetes`]) with the Job's service account. [`report`] judges the answers, and
//! is pure.

mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::report::{Look, Verdict};
use super::kubernetes::Api;
use super::show::say;

/// The time between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// What the nodes are asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Purpose {
    /// Get the new image and check the new configuration. Nodes that do not answer are left behind.
    Upgrade,
    /// Restore the runtime's files. Every node has to answer.
    Removal,
}

/// Wait for the nodes of the chart's hooks, and say why which of them are not done
///
/// The chart's hooks run this command in a Job, with the Job's service account. Exit code 0: Helm may go on; 1: it must
/// not, and the last lines say why, node by node.
#[derive(Args, Debug, Clone)]
#[command(after_help = "\
Examples:
  larder hook upgrade --name larder-upgrade --larder larder
  kubectl logs job/larder-removal            what the Job of a hook that failed has said")]
pub struct HookArgs {
    /// What the DaemonSet does
    pub purpose: Purpose,

    /// The hook's DaemonSet, and the Job that runs this command
    #[arg(long, value_name = "NAME")]
    pub name: String,

    /// larder's own DaemonSet
    #[arg(long, value_name = "NAME")]
    pub larder: String,

    /// The uid of this Job. The hook's DaemonSet goes when the Job goes
    #[arg(long, value_name = "UID", env = "LARDER_JOB_UID")]
    pub owner: Option<String>,

    /// The Job of a hook that may have failed before; it is deleted
    #[arg(long, value_name = "NAME")]
    pub clear: Option<String>,

    /// How long the nodes may take
    #[arg(long, value_name = "SECONDS", default_value_t = 240)]
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
/// The API did not answer in time, or refused this account.
pub fn hook(args: &HookArgs) -> Result<u8> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(args))
}

async fn run(args: &HookArgs) -> Result<u8> {
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(args.timeout);
    let api = Api::new(args.api.as_deref(), &args.service_account)?;
    let mut owned = args.owner.is_none();
    let mut cleared = args.clear.is_none();
    loop {
        let over = Instant::now() >= deadline;
        let looked = async {
            if !owned {
                own(&api, args).await?;
                owned = true;
            }
            if !cleared {
                api.delete_job(args.clear.as_deref().unwrap_or_default())
                    .await?;
                cleared = true;
            }
            look(&api, args, over).await
        };
        let looked = looked.await;
        match looked {
            Ok(look) => match report::verdict(&look, args.purpose, over) {
                Verdict::Wait => {}
                Verdict::GoOn => {
                    say_all(&report::lines(&look, args.purpose, &args.larder, true));
                    return Ok(0);
                }
                Verdict::Stop => {
                    say_all(&report::lines(&look, args.purpose, &args.larder, false));
                    return Ok(super::FAILED);
                }
            },
            // New rights need a moment to take effect, and so does an API server that restarts.
            Err(error) if over => {
                return Err(error.context("what the nodes do cannot be read from the API"));
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn say_all(lines: &[String]) {
    for line in lines {
        say(line);
    }
}

/// Makes the Job the owner of the DaemonSet, so that Kubernetes deletes the DaemonSet with the Job.
async fn own(api: &Api, args: &HookArgs) -> Result<()> {
    let owner = json!([{
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": args.name,
        "uid": args.owner,
    }]);
    let patch = json!({"metadata": {"ownerReferences": owner}});
    api.patch_daemon_set(&args.name, &patch).await
}

async fn look(api: &Api, args: &HookArgs, over: bool) -> Result<Look> {
    let set = api.daemon_set(&args.name).await?;
    let set = set.with_context(|| format!("there is no DaemonSet {}", args.name))?;
    let mut look = Look::of(&set);
    if look.lacks_pods() {
        look.refusal = refusal(&api.events(&args.name).await?);
        let larder = api.daemon_set(&args.larder).await?.unwrap_or_default();
        let pods = larder["status"]["currentNumberScheduled"].as_u64();
        look.larder_runs = pods.unwrap_or(0) > 0;
    }
    if over && !look.is_done() {
        let labels = set["spec"]["selector"]["matchLabels"].as_object();
        let labels = labels.into_iter().flatten().map(|(name, value)| {
            let value = value.as_str().unwrap_or_default();
            format!("{name}={value}")
        });
        let labels: Vec<String> = labels.collect();
        look.name_others(&api.pods(&labels.join(",")).await?);
    }
    Ok(look)
}

/// Why the API server refuses to create the DaemonSet's pods, if it does.
fn refusal(events: &[Value]) -> Option<String> {
    let failed = events
        .iter()
        .filter(|event| event["reason"] == "FailedCreate");
    let mut messages = failed.filter_map(|event| event["message"].as_str());
    messages.next_back().map(str::to_owned)
}
