//! `larder config check|show|schema`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::show::say;
use crate::config::Config;

#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check whether a file is a valid configuration.
    Check(FileArgs),
    /// Print every setting, from the file or by default, without the flags and LARDER_* of `larder serve`.
    Show(FileArgs),
    /// Print the JSON schema of the file, for editors and for checks of the chart's values.
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
            say("the configuration is valid");
        }
        ConfigCommand::Schema => say(&serde_json::to_string_pretty(&Config::schema())?),
        ConfigCommand::Show(args) => say(&Config::load(args.config.as_deref())?.to_toml()),
    }
    Ok(0)
}
