//! A description of the machine on which the figures were measured.

use std::fs;
use std::process::Command;

use nix::sys::utsname::uname;

use crate::bench::Bench;

/// Name and value of everything that may influence the figures.
pub fn describe(bench: &Bench) -> Vec<(&'static str, String)> {
    let plan = &bench.plan;
    let larder = std::env::var("LARDER_BIN").unwrap_or_else(|_| "larder".to_owned());
    let larder_version = match std::env::var("LARDER_REVISION") {
        Ok(revision) => format!("{} ({revision})", version(&larder, "--version")),
        Err(_) => version(&larder, "--version"),
    };
    let kind = if plan.quick { "quick" } else { "full" };
    vec![
        ("processor", format!("{} x {}", cores(), processor())),
        ("memory", memory()),
        ("system", format!("{}, kernel {}", distribution(), kernel())),
        ("file system", file_system(bench.dir.path())),
        (
            "congestion control",
            sysctl("net/ipv4/tcp_congestion_control"),
        ),
        ("tcp_wmem, tcp_rmem", {
            let [wmem, rmem] = ["net/ipv4/tcp_wmem", "net/ipv4/tcp_rmem"].map(sysctl);
            format!("{wmem}; {rmem}")
        }),
        ("processor time by", bench.accounting.as_str().to_owned()),
        ("larder", larder_version),
        ("nginx", version("nginx", "-v")),
        ("docker-registry", version("docker-registry", "--version")),
        ("load at the start", load()),
        (
            "run",
            format!(
                "{kind}: blob of {} MB, {} interleaved rounds, medians",
                plan.blob / 1_000_000,
                plan.rounds
            ),
        ),
    ]
}

/// The load averages of 1, 5 and 15 minutes.
pub fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    field(&info, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn memory() -> String {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    field(&info, "MemTotal").unwrap_or_else(unknown)
}

fn field(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim_start_matches([' ', '\t', ':']).to_owned())
}

fn distribution() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(unknown, |name| name.trim_matches('"').to_owned())
}

fn kernel() -> String {
    uname().map_or_else(
        |_| unknown(),
        |uname| uname.release().to_string_lossy().into_owned(),
    )
}

/// The kind of file system that `path` is on: that of the longest mount point before it.
fn file_system(path: &std::path::Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let found = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        path.starts_with(point).then_some((point.len(), kind))
    });
    let longest = found.max_by_key(|(length, _)| *length);
    longest.map_or_else(unknown, |(_, kind)| kind.to_owned())
}

/// A kernel setting, by its path below `/proc/sys`.
pub fn sysctl(name: &str) -> String {
    let value = fs::read_to_string(format!("/proc/sys/{name}"));
    value.map_or_else(|_| unknown(), |value| value.trim().replace('\t', " "))
}

fn version(program: &str, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output();
    let Ok(output) = output else {
        return unknown();
    };
    // nginx says it on standard error.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

fn unknown() -> String {
    "unknown".to_owned()
}
