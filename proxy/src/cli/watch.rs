//! `larder runtime`: the watcher. It is the second role of the executable.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::{self, LogFormat, Telemetry},
    sys, telemetry,
    watch::Watch,
};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  larder runtime                                      containerd at its usual place
  larder runtime --socket /run/k3s/containerd/containerd.sock
  larder runtime --socket /run/crio/crio.sock         CRI-O
  larder runtime --once --file /tmp/runtime.json      ask once, and look at what the daemon would read

The runtime's socket gives root on the node. So this process holds it, and no process that the network can reach: it
makes no socket but AF_UNIX (the kernel refuses it all others), starts no program, and only asks. The daemon reads the
file, and nothing goes the other way. Run it as root without capabilities. docs/runtime.md has the file's format, and
what each message means.")]
pub struct RuntimeArgs {
    /// The runtime's socket: of containerd or, by the CRI, of CRI-O
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/containerd/containerd.sock"
    )]
    socket: PathBuf,
    /// The file to write; the daemon reads it
    #[arg(long, value_name = "FILE", default_value = "/run/larder/runtime.json")]
    file: PathBuf,
    /// How often to ask, besides after containerd's events: `30s`, `5m`
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = every)]
    every: Duration,
    /// Ask once, write the file and end; exit code 1 if that failed
    #[arg(long)]
    once: bool,
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

fn every(text: &str) -> Result<Duration, String> {
    match config::time(text)? {
        time if time < Duration::from_secs(1) => {
            Err("once a second at most: write \"1s\"".to_owned())
        }
        time => Ok(time),
    }
}

pub fn runtime(args: RuntimeArgs) -> anyhow::Result<u8> {
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
    let watch = Watch {
        socket: args.socket,
        file: args.file,
        every: args.every,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the async runtime cannot start")?;
    runtime.block_on(async {
        if args.once {
            watch.once().await.map_err(|words| anyhow!(words))?;
            return Ok(0);
        }
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            () = watch.run() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(0)
    })
}
