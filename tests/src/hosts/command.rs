//! Short runs of `ip` and `tc`.

use std::process::{Command, Stdio};

/// Runs `ip` and gives its output; panics with that if it fails.
pub(super) fn ip(arguments: &[&str]) -> String {
    run("ip", arguments).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs `ip` and gives its output, or why it failed.
pub(super) fn try_ip(arguments: &[&str]) -> Result<String, String> {
    run("ip", arguments)
}

/// Runs `tc` in a namespace; panics with its output if it fails.
pub(super) fn tc(namespace: &str, arguments: &[&str]) {
    let all = [&["-n", namespace], arguments].concat();
    run("tc", &all).unwrap_or_else(|error| panic!("{error}"));
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let shown = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}; scripts/test installs it", shown()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{}: {}: {words}", shown(), output.status))
}
