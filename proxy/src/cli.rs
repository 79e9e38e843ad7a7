//! The command line: one executable, `larder COMMAND`.
//!
//! Exit codes: 0 fine, 1 failed, 2 usage, 3 found something wrong.

mod act;
mod blobs;
mod completions;
mod config_file;
mod doctor;
mod explain;
mod images;
pub mod install;
mod log;
mod node_files;
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

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use self::show::Telling;

/// A node-local image larder: pull once, keep, serve.
#[derive(Debug, Parser)]
#[command(
    name = "larder",
    version,
    about,
    max_term_width = 120,
    arg_required_else_help = true,
    after_help = "\
Exit codes: 0 fine, 1 failed, 2 usage, 3 found something wrong.
Commands other than serve, install, uninstall, config and completions ask the running larder on its admin socket. In a
cluster: kubectl exec ds/larder -- larder status"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Serve(serve::ServeArgs),
    /// Show this node at a glance.
    Status(status::StatusArgs),
    /// Say what a pull of an image would do, and why, without transferring the image.
    Explain(explain::ExplainArgs),
    /// Find out what is wrong with this node and how to mend it.
    Doctor(doctor::DoctorArgs),
    /// Show the images that are here: how big, how much of them, last used.
    Images(images::ImagesArgs),
    /// Show the blobs that are here: how big, last used, whose they are.
    Blobs(blobs::BlobsArgs),
    /// Bring images into the node tier before anybody asks for them.
    Pull(pull::PullArgs),
    /// Keep an image: its content is never evicted.
    #[command(after_help = "\
Examples:
  larder pin registry.k8s.io/pause:3.10
  larder pull --pin registry.k8s.io/pause:3.10    where it is not here yet

What is here of the image is pinned, for whoever else it belongs to. Pinned content counts within the bounds.")]
    Pin(act::ImageArgs),
    /// Let a pinned image go again.
    #[command(after_help = "\
Examples:
  larder unpin registry.k8s.io/pause:3.10

It stays until the bounds of the node tier or its ttl want its room.")]
    Unpin(act::ImageArgs),
    /// Take an image, or everything of one registry, out of the node tier.
    Evict(act::EvictArgs),
    /// Bring the node tier within its bounds now.
    #[command(after_help = "\
Examples:
  larder gc

This is done by itself after every commit and every few seconds; the command says what it did.")]
    Gc(act::TierArgs),
    /// Hash everything in the node tier again.
    #[command(after_help = "\
Examples:
  larder verify                          as fast as the disk reads
  larder verify --json | jq -r '.rotten[]'

What is damaged is taken out of the tier, and fetched again when it is asked for. Exit code 3: something was.")]
    Verify(act::TierArgs),
    /// Show the other members of the cluster and how they fare.
    Peers(peers::PeersArgs),
    /// Show the registries behind this node, how they fare, and whether they can be reached.
    Upstreams(upstreams::UpstreamsArgs),
    /// Show what the running larder logs, or change it.
    Log(log::LogArgs),
    /// Make the container runtime pull through larder.
    Install(install::InstallArgs),
    /// Put the container runtime's files back as they were.
    Uninstall(install::UninstallArgs),
    /// Check or show the configuration.
    #[command(subcommand)]
    Config(config_file::ConfigCommand),
    /// Print the completions of a shell.
    Completions(completions::CompletionsArgs),
}

/// Failed.
const FAILED: u8 = 1;

/// Found something wrong.
const FOUND: u8 = 3;

/// Work on the node's files, which is not left half done because nobody reads of it any more.
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
        Command::Pull(args) => pull::pull(&args),
        Command::Pin(args) => act::pin(&args, true),
        Command::Unpin(args) => act::pin(&args, false),
        Command::Evict(args) => act::evict(&args),
        Command::Gc(args) => act::gc(&args),
        Command::Verify(args) => act::verify(&args),
        Command::Peers(args) => peers::peers(&args),
        Command::Upstreams(args) => upstreams::upstreams(&args),
        Command::Log(args) => log::log(&args),
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
