//! `larder config check|show|schema`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::show::say;
use crate::config::Config;

#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read a file and say whether it can be used.
    Check(FileArgs),
    /// Print every setting as the file has it, or its default. What flags and LARDER_* of `larder serve` change is not in it.
    Show(FileArgs),
    /// Print the JSON schema of the file, for editors and for checking values of the chart.
    Schema,
}

#[derive(Clone, Debug, Args)]
pub struct FileArgs {
    /// The configuration file.
    #[arg(long, env = "LARDER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

pub fn run(command: ConfigCommand) -> anyhow::Result<u8> {
    match command {
        ConfigCommand::Check(args) => {
            Config::load(args.config.as_deref())?;
            say("the configuration can be used");
        }
        ConfigCommand::Schema => say(&serde_json::to_string_pretty(&Config::schema())?),
        ConfigCommand::Show(args) => say(&Config::load(args.config.as_deref())?.to_toml()),
    }
    Ok(0)
}
