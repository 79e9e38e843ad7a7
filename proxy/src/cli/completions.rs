//! `larder completions SHELL`

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, show::say};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source <(larder completions bash)
  larder completions zsh > \"${fpath[1]}/_larder\"
  larder completions fish > ~/.config/fish/completions/larder.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub fn completions(args: &CompletionsArgs) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "larder", &mut script);
    say(String::from_utf8(script)?.trim_end());
    Ok(0)
}
