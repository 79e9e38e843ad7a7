//! The command line: one executable, `larder COMMAND`.
//!
//! Exit codes: 0 success, 1 failure, 2 wrong usage, 3 a check that found something wrong.

mod act;
mod blobs;
mod bypassed;
mod completions;
mod config_file;
mod doctor;
mod explain;
mod hold;
mod hook;
mod images;
pub mod install;
mod kubernetes;
mod layers;
mod log;
mod node_files;
mod node_labels;
mod peers;
mod progress;
mod pull;
mod runtime;
mod serve;
mod show;
mod socket;
mod status;
mod table;
mod trace;
mod upstreams;
mod warm;
mod watch;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use self::show::Telling;

/// A node-local registry mirror and image cache.
#[derive(Debug, Parser)]
#[command(
    name = "larder",
    version,
    about,
    max_term_width = 120,
    arg_required_else_help = true,
    after_help = "\
Exit codes: 0 success, 1 failure, 2 wrong usage, 3 a check found something wrong.
Commands other than serve, runtime, hold, install, uninstall, hook, node-labels, config and completions connect to the running
larder's admin socket.
In a cluster: kubectl exec ds/larder -- larder status"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Serve(serve::ServeArgs),
    /// Show the state of this node.
    Status(status::StatusArgs),
    /// Say what a pull of an image would do, and why, without transferring the image.
    Explain(explain::ExplainArgs),
    /// Check this node, and say how to fix what is wrong.
    Doctor(doctor::DoctorArgs),
    /// List the images in the node tier: size, how much is cached, last use.
    Images(images::ImagesArgs),
    /// List the blobs in the node tier: size, last use, repositories.
    Blobs(blobs::BlobsArgs),
    /// List the layers that the container runtime can mount as they lie: size, state, references.
    Layers(layers::LayersArgs),
    /// Pull images into the node tier before a pod needs them.
    Pull(pull::PullArgs),
    /// Show the warm sets: which images they hold, and which are missing.
    Warm(warm::WarmArgs),
    /// Pin an image: larder never evicts its content.
    #[command(after_help = "\
Examples:
  larder pin registry.k8s.io/pause:3.10
  larder pull --pin registry.k8s.io/pause:3.10    if it is not cached yet

The command pins the blobs of the image that are in the node tier. A blob that several images share stays pinned for
all of them. Pinned content counts towards max_size.")]
    Pin(act::ImageArgs),
    /// Unpin an image: larder may evict its content again.
    #[command(after_help = "\
Examples:
  larder unpin registry.k8s.io/pause:3.10

The image stays in the node tier until its ttl ends or the node tier needs the space.")]
    Unpin(act::ImageArgs),
    /// Remove an image, or all content of one registry, from the node tier.
    Evict(act::EvictArgs),
    /// Evict now what exceeds the bounds of the node tier.
    #[command(after_help = "\
Examples:
  larder gc

larder does this by itself after every commit and every few seconds. The command prints what it evicted.")]
    Gc(act::TierArgs),
    /// Verify the digest of every blob in the node tier.
    #[command(after_help = "\
Examples:
  larder verify                          as fast as the disk reads
  larder verify --json | jq -r '.rotten[]'

larder removes damaged blobs from the tier and fetches them again at the next request. Exit code 3: a blob was damaged.")]
    Verify(act::TierArgs),
    /// Show the members of the cluster and their state.
    Peers(peers::PeersArgs),
    /// Show the registries that this node uses, their state, and whether they can be reached.
    Upstreams(upstreams::UpstreamsArgs),
    /// Show or change the log filter of the running larder.
    Log(log::LogArgs),
    /// Watch the container runtime: write down what it holds and uses, for the daemon to read.
    Runtime(watch::RuntimeArgs),
    /// Hold the mounts of streamed layers while the daemon comes and goes.
    Hold(hold::HoldArgs),
    /// Configure the container runtime to pull through larder.
    Install(install::InstallArgs),
    /// Restore the container runtime's files.
    Uninstall(install::UninstallArgs),
    /// Wait for the nodes of the chart's hooks, and say why which of them are not done.
    Hook(hook::HookArgs),
    /// Write this node's labels, as Kubernetes has them, to a file for warm sets.
    NodeLabels(node_labels::NodeLabelsArgs),
    /// Check or show the configuration.
    #[command(subcommand)]
    Config(config_file::ConfigCommand),
    /// Print the completion script for a shell.
    Completions(completions::CompletionsArgs),
}

/// The command failed.
const FAILED: u8 = 1;

/// A check found something wrong.
const FOUND: u8 = 3;

/// Runs work on the node's files. The work continues if the reader of the output closes the pipe.
fn told(
    work: impl FnOnce(&mut dyn Write, &mut dyn Write) -> anyhow::Result<u8>,
) -> anyhow::Result<u8> {
    let mut out = Telling::to(io::stdout());
    let code = work(&mut out, &mut Telling::to(io::stderr()))?;
    out.end()?;
    Ok(code)
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::serve(args),
        Command::Status(args) => status::status(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Images(args) => images::images(&args),
        Command::Blobs(args) => blobs::blobs(&args),
        Command::Layers(args) => layers::layers(&args),
        Command::Pull(args) => pull::pull(&args),
        Command::Warm(args) => warm::warm(&args),
        Command::Pin(args) => act::pin(&args, true),
        Command::Unpin(args) => act::pin(&args, false),
        Command::Evict(args) => act::evict(&args),
        Command::Hook(args) => hook::hook(&args),
        Command::NodeLabels(args) => node_labels::node_labels(&args),
        Command::Gc(args) => act::gc(&args),
        Command::Verify(args) => act::verify(&args),
        Command::Peers(args) => peers::peers(&args),
        Command::Upstreams(args) => upstreams::upstreams(&args),
        Command::Log(args) => log::log(&args),
        Command::Runtime(args) => watch::runtime(args),
        Command::Hold(args) => hold::hold(args),
        Command::Install(args) => told(|out, complaints| install::install(&args, out, complaints)),
        Command::Uninstall(args) => {
            told(|out, complaints| install::uninstall(&args, out, complaints))
        }
        Command::Config(command) => config_file::run(command),
        Command::Completions(args) => completions::completions(&args),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            show::complain(&format!("{error:#}"));
            ExitCode::from(FAILED)
        }
    }
}
