//! `larder log`: the log filter of the running larder.

use http::Method;
use larder_shared::admin::LogFilter;

use super::{
    show::say,
    socket::{SocketArgs, ask, encoded, read},
};

/// Show the log filter in force, or set a new one. A new filter holds until the next one, a change of `[telemetry] log`,
/// or a restart.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  larder log                                            the filter in force
  larder log debug
  larder log info,larder::upstream=debug,access=off     by target")]
pub struct LogArgs {
    /// A level, or targets with levels: `debug`, `info,larder::upstream=debug`, `info,access=off`
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
    #[command(flatten)]
    socket: SocketArgs,
}

pub fn log(args: &LogArgs) -> anyhow::Result<u8> {
    let text = match &args.filter {
        Some(filter) => {
            let path = format!("/log?filter={}", encoded(filter));
            ask(&args.socket, Method::POST, &path)?
        }
        None => ask(&args.socket, Method::GET, "/log")?,
    };
    if args.socket.json {
        say(&text);
    } else {
        let in_force: LogFilter = read(&text)?;
        say(&in_force.filter);
    }
    Ok(0)
}
