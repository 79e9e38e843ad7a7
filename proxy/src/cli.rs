//! The command line: one executable, `larder COMMAND`.
//!
//! Exit codes: 0 fine, 1 failed, 2 usage, 3 found something wrong.

mod act;
mod config_file;
mod explain;
pub mod install;
mod log;
mod serve;
mod show;
mod socket;
mod status;

use std::process::ExitCode;

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
    Status(status::StatusArgs),
    /// Show the other members of the cluster and how they fare.
    Peers(status::StatusArgs),
    /// Say what a pull of an image would do, and why, without transferring the image.
    Explain(explain::ExplainArgs),
    /// Keep an image: its content is never evicted.
    Pin(act::ImageArgs),
    /// Let a pinned image go again.
    Unpin(act::ImageArgs),
    /// Take an image, or everything of one registry, out of the node tier.
    Evict(act::EvictArgs),
    /// Bring the node tier within its bounds now.
    Gc(act::TierArgs),
    /// Hash everything in the node tier again.
    Verify(act::TierArgs),
    /// Show what the running larder logs, or change it.
    Log(log::LogArgs),
    /// Make the container runtime pull through larder.
    Install(install::InstallArgs),
    /// Put the container runtime's files back as they were.
    Uninstall(install::UninstallArgs),
    /// Check or show the configuration.
    #[command(subcommand)]
    Config(config_file::ConfigCommand),
}

/// Failed.
const FAILED: u8 = 1;

/// Found something wrong.
const FOUND: u8 = 3;

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::serve(args),
        Command::Status(args) => status::status(&args),
        Command::Peers(args) => status::peers(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Pin(args) => act::pin(&args, true),
        Command::Unpin(args) => act::pin(&args, false),
        Command::Evict(args) => act::evict(&args),
        Command::Gc(args) => act::gc(&args),
        Command::Verify(args) => act::verify(&args),
        Command::Log(args) => log::log(&args),
        Command::Install(args) => {
            install::install(&args, &mut std::io::stdout(), &mut std::io::stderr())
        }
        Command::Uninstall(args) => {
            install::uninstall(&args, &mut std::io::stdout(), &mut std::io::stderr())
        }
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
