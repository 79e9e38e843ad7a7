//! `larder hold`: the holder, which keeps the mounts of streamed layers. It is the third role of the executable.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::{self, LogFormat, Telemetry},
    hold::{self, DIRECTORY, Hold},
    sys, telemetry,
};

#[derive(Clone, Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
#[command(after_help = "\
Examples:
  larder hold                              mount at /run/larder-hold/files, and hold it
  larder hold --abort-after 2m             let pods die sooner when larder is gone
  larder hold --uninstall                  take the files away, when nothing new is to use them
  larder hold --uninstall --force          take them from the containers that use them, too

It mounts files that the daemon serves, and keeps the connection open while the daemon is restarted or replaced. It makes
no socket but AF_UNIX (the kernel refuses it all others), starts no program, and reads neither a request nor the daemon's
configuration. It needs root, CAP_SYS_ADMIN and /dev/fuse. A second one takes over from the first, which then ends.
docs/holder.md says what happens when either of the two dies.")]
pub struct HoldArgs {
    /// The files are mounted in `files` below this directory, which the container runtime has to see
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    directory: PathBuf,
    /// The socket for the daemon [default: `socket` in the directory]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// When no daemon has been there for so long while requests wait, they fail: `5m`; `0` for never
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = config::time)]
    abort_after: Duration,
    /// A user that may connect as the daemon, besides root and the own one
    #[arg(long, value_name = "UID")]
    daemon_uid: Option<u32>,
    /// The container runtime has the mount namespace of this process: do not ask for a shared mount
    #[arg(long)]
    seen_here: bool,
    /// Ask the holder that runs to take the files away and to end when no container uses them any more
    #[arg(long, conflicts_with_all = ["abort_after", "daemon_uid", "seen_here"])]
    uninstall: bool,
    /// With --uninstall: also if containers use them. What they have not read yet is an error from then on
    #[arg(long, requires = "uninstall")]
    force: bool,
    /// What to log: a level, or targets with levels
    #[arg(
        long,
        env = "LARDER_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    log: String,
    /// Log JSON, one object a line
    #[arg(long)]
    log_json: bool,
}

pub fn hold(args: HoldArgs) -> anyhow::Result<u8> {
    // Before anything else, while the process has one thread.
    sys::leave_unix_sockets_alone().context(
        "cannot give up the network: this kernel has no seccomp filters, or larder has none for this processor",
    )?;
    telemetry::init(&Telemetry {
        log: args.log,
        log_format: if args.log_json {
            LogFormat::Json
        } else {
            LogFormat::Text
        },
        ..Telemetry::default()
    });
    let socket = args.socket.unwrap_or_else(|| args.directory.join("socket"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the async runtime cannot start")?;
    runtime.block_on(async {
        if args.uninstall {
            let words = hold::uninstall(&socket, args.force).await;
            let words = words.map_err(|words| anyhow!(words))?;
            super::show::say(&words);
            return Ok(0);
        }
        let hold = Hold {
            directory: args.directory,
            socket,
            abort_after: args.abort_after,
            daemon_uid: args.daemon_uid,
            seen_here: args.seen_here,
        };
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        hold.run(stop).await.map_err(|words| anyhow!(words))?;
        Ok(0)
    })
}
