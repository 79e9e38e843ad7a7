//! `larder doctor`: what is wrong with this node, and how to fix it.
//!
//! The daemon runs its own checks ([`crate::doctor`]). This command adds the checks from outside: whether the daemon
//! and its ports answer, and what containerd's files do with them. In a pod it reads these files where they are mounted.

mod node;
mod ports;
mod streaming;

use std::path::PathBuf;

use http::Method;
use larder_shared::admin::{Check, Diagnosis, Finding, Layers, Severity, Status};

use super::{
    FOUND,
    node_files::NodeFiles,
    show::say,
    socket::{SocketArgs, ask, read},
};

/// Check this node, and say how to fix what is wrong.
///
/// Changes nothing and shows no secret. Connects to every registry in the configuration and to every member. Exit code
/// 0: no check failed; 3: there are errors or warnings.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  larder doctor
  kubectl exec ds/larder -- larder doctor
  larder doctor --json | jq '.findings[] | select(.severity != \"ok\")'")]
pub struct DoctorArgs {
    /// Show the checks that passed, too
    #[arg(long, short)]
    all: bool,
    #[command(flatten)]
    files: NodeFiles,
    /// containerd's configuration [default: /etc/containerd/config.toml, if it exists here]
    #[arg(long, env = "LARDER_CONTAINERD_CONFIG", value_name = "FILE")]
    containerd_config: Option<PathBuf>,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Whether a file of containerd's names the larder at this port of this node; `None` if the files cannot be seen.
pub fn names_larder(files: &NodeFiles, port: u16) -> Option<bool> {
    node::names_larder(files, port)
}

pub fn doctor(args: &DoctorArgs) -> anyhow::Result<u8> {
    let diagnosis = diagnose(args)?;
    let wrong = diagnosis.wrong();
    let code = if wrong.is_empty() { 0 } else { FOUND };
    if args.socket.json {
        say(&serde_json::to_string(&diagnosis)?);
        return Ok(code);
    }
    for finding in &wrong {
        let word = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Ok => "ok",
        };
        say(&format!("{word:<8} {}: {}", finding.check, finding.found));
        for line in finding.fix.lines() {
            say(&format!("         {line}"));
        }
    }
    let well = diagnosis
        .findings
        .iter()
        .filter(|f| f.severity == Severity::Ok);
    if args.all {
        for finding in well.clone() {
            say(&format!("ok       {}: {}", finding.check, finding.found));
        }
    }
    say(&match wrong.len() {
        0 => format!("nothing is wrong: {} checks passed", well.count()),
        found => format!("{found} findings, {} checks passed", well.count()),
    });
    Ok(code)
}

fn diagnose(args: &DoctorArgs) -> anyhow::Result<Diagnosis> {
    let status = ask(&args.socket, Method::GET, "/status").and_then(|text| read::<Status>(&text));
    let mut outside = Vec::new();
    let hosts = node::look(args, status.as_ref().ok(), &mut outside);
    if let Ok(status) = &status {
        outside.extend(ports::look(status, &hosts)?);
        // A daemon that does not answer this request offers no layers.
        let layers = ask(&args.socket, Method::GET, "/layers");
        let layers = layers.and_then(|text| read::<Layers>(&text));
        outside.extend(streaming::look(args, layers.ok().as_ref()));
    }
    // Asked even if the rest failed: the daemon's checks are bounded, and may explain why other requests get no answer.
    let inside = ask(&args.socket, Method::GET, "/doctor");
    let inside = inside.and_then(|text| read::<Diagnosis>(&text));
    let mut findings = Vec::new();
    match &status {
        Ok(status) => {
            findings.push(Finding::ok(
                Check::Daemon,
                format!("larder {} answers", status.version),
            ));
            findings.extend(version(status));
        }
        Err(error) => {
            let fix = if inside.is_ok() {
                "it runs: see its own checks below, and its log"
            } else {
                "start it (systemctl start larder; in Kubernetes look at the DaemonSet's pod on this node), or give its socket with --socket PATH"
            };
            findings.push(Finding::error(Check::Daemon, format!("{error:#}"), fix));
        }
    }
    findings.extend(outside);
    match inside {
        Ok(diagnosis) => findings.extend(diagnosis.findings),
        Err(error) if status.is_ok() => findings.push(Finding::error(
            Check::Daemon,
            format!("the daemon did not return its own checks: {error:#}"),
            "use the larder command of the daemon's version",
        )),
        // The error above already says that the daemon does not answer.
        Err(_) => {}
    }
    Ok(Diagnosis { findings })
}

fn version(status: &Status) -> Option<Finding> {
    let ours = env!("CARGO_PKG_VERSION");
    (status.version != ours).then(|| {
        Finding::warning(
            Check::Version,
            format!(
                "this command has version {ours}, the daemon has version {}",
                status.version
            ),
            "restart the daemon if it was just upgraded, or run the command where the daemon runs",
        )
    })
}
