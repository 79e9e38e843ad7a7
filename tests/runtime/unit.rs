//! The systemd unit that `larder install --watch` prints.

use std::process::Command;

use larder_tests::node::larder_program;

#[test]
fn install_prints_a_unit_that_runs_this_program_and_changes_nothing() {
    let output = Command::new(larder_program())
        .args(["install", "--watch", "--preset", "rke2"])
        .output()
        .expect("larder starts");
    let unit = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let words: Vec<&str> = start.expect("a command").split(' ').collect();
    let program = std::fs::canonicalize(larder_program()).expect("a path");
    assert_eq!(words[0], program.to_str().expect("UTF-8"));
    assert_eq!(
        words[1..4],
        ["runtime", "--socket", "/run/k3s/containerd/containerd.sock"]
    );
    // larder accepts the command that the unit runs.
    let help = Command::new(words[0])
        .args(&words[1..])
        .arg("--help")
        .output();
    assert!(help.expect("larder starts").status.success());
    for line in [
        "RestrictAddressFamilies=AF_UNIX",
        "CapabilityBoundingSet=",
        "PrivateNetwork=yes",
    ] {
        assert!(unit.lines().any(|one| one == line), "{line}: {unit}");
    }
    for other in [&["--dry-run"][..], &["--registry", "ghcr.io"]] {
        let refused = Command::new(larder_program())
            .args(["install", "--watch"])
            .args(other)
            .output()
            .expect("larder starts");
        assert_eq!(refused.status.code(), Some(2), "{other:?}");
    }
}
