//! The command line: one executable, `larder COMMAND`.
//!
//! Exit codes: 0 fine, 1 failed, 2 usage, 3 found something wrong.

mod ask;
mod config_file;
pub mod install;
mod serve;
mod show;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// A node-local image larder: pull once, keep, serve.
#[derive(Debug, Parser)]
#[command(
    name = "larder",
    version,
    about,
    max_term_width = 120,
    arg_required_else_help = true
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
    Status(ask::StatusArgs),
    /// Show the other members of the cluster and how they fare.
    Peers(ask::StatusArgs),
    /// Say what a pull of an image would do, and why, without transferring the image.
    Explain(ask::ImageArgs),
    /// Keep an image: its content is never evicted.
    Pin(ask::ImageArgs),
    /// Let a pinned image go again.
    Unpin(ask::ImageArgs),
    /// Take an image, or everything of one registry, out of the node tier.
    Evict(ask::EvictArgs),
    /// Bring the node tier within its bounds now.
    Gc(ask::StatusArgs),
    /// Hash everything in the node tier again.
    Verify(ask::StatusArgs),
    /// Make the container runtime pull through larder.
    Install(install::InstallArgs),
    /// Put the container runtime's files back as they were.
    Uninstall(install::UninstallArgs),
    /// Check or show the configuration.
    #[command(subcommand)]
    Config(config_file::ConfigCommand),
}

/// Where the running larder is found.
#[derive(Clone, Debug, clap::Args)]
pub struct SocketArgs {
    /// The admin socket of the running larder.
    #[arg(long, env = "LARDER_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The configuration file, which may name the socket.
    #[arg(long, env = "LARDER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Failed.
const FAILED: u8 = 1;

/// Found something wrong.
const FOUND: u8 = 3;

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::serve(args),
        Command::Status(args) => ask::status(&args),
        Command::Peers(args) => ask::peers(&args),
        Command::Explain(args) => ask::explain(&args),
        Command::Pin(args) => ask::pin(&args, true),
        Command::Unpin(args) => ask::pin(&args, false),
        Command::Evict(args) => ask::evict(&args),
        Command::Gc(args) => ask::gc(&args),
        Command::Verify(args) => ask::verify(&args),
        Command::Install(args) => install::install(&args, &mut std::io::stdout().lock()),
        Command::Uninstall(args) => install::uninstall(&args, &mut std::io::stdout().lock()),
        Command::Config(command) => config_file::run(command),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            show::complain(&format!("{error:#}"));
            ExitCode::from(FAILED)
        }
    }
}
