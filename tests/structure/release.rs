//! `scripts/release`, in a clone of the files that it changes.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::project;

const FILES: [&str; 6] = [
    "scripts/lib.sh",
    "scripts/release",
    "CHANGELOG.md",
    "Cargo.toml",
    "deploy/larder/Chart.yaml",
    "deploy/manifests/kustomization.yaml",
];

fn git(dir: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    let who = ["-c", "user.name=a", "-c", "user.email=a@example.com"];
    let output = git
        .current_dir(dir)
        .args(who)
        .args(arguments)
        .output()
        .expect("git");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A repository that holds a copy of these files.
fn repository() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for file in FILES {
        let to = dir.path().join(file);
        fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
        fs::copy(project(file), to).expect("a copy");
    }
    git(dir.path(), &["init", "--quiet"]);
    commit(dir.path());
    dir
}

fn commit(dir: &Path) {
    git(dir, &["add", "--all"]);
    git(dir, &["commit", "--quiet", "--message", "as it is"]);
}

fn release(dir: &Path, arguments: &[&str]) -> (bool, String) {
    let script = dir.join("scripts/release");
    let output: Output = Command::new(script)
        .args(arguments)
        .output()
        .expect("a shell");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.success(),
        text(&output.stdout) + &text(&output.stderr),
    )
}

#[test]
fn a_dry_run_shows_the_section_the_versions_and_the_tag_and_changes_nothing() {
    let dir = repository();
    let head = git(dir.path(), &["rev-parse", "HEAD"]);
    let (done, text) = release(dir.path(), &["--dry-run", "99.1.0"]);
    assert!(done, "{text}");
    for wanted in [
        "+## [99.1.0] - 2",
        "+version = \"99.1.0\"",
        "+version: 99.1.0",
        "+appVersion: \"99.1.0\"",
        "+    newTag: 99.1.0",
        "tag it v99.1.0",
        "### Added",
        "nothing was changed",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    // One version each: no dependency's version changes.
    assert_eq!(text.matches("+version = ").count(), 1, "{text}");
    assert_eq!(git(dir.path(), &["status", "--porcelain"]), "");
    assert_eq!(git(dir.path(), &["rev-parse", "HEAD"]), head);
    assert_eq!(git(dir.path(), &["tag"]), "");
}

#[test]
fn what_is_no_release_is_refused() {
    let dir = repository();
    let refused = |arguments: &[&str], why: &str| {
        let (done, text) = release(dir.path(), arguments);
        assert!(!done && text.contains(why), "{arguments:?}: {text}");
    };
    refused(&[], "MAJOR.MINOR.PATCH");
    refused(&["1.0"], "MAJOR.MINOR.PATCH");
    refused(&["0.0.1"], "is older than");
    refused(&["--colour", "99.0.0"], "unknown argument");
    git(dir.path(), &["tag", "v99.0.0"]);
    refused(&["99.0.0"], "there already");
    let changelog = dir.path().join("CHANGELOG.md");
    let text = fs::read_to_string(&changelog).expect("CHANGELOG.md");
    fs::write(
        &changelog,
        text.replace(
            "## [Unreleased]",
            "## [Unreleased]\n\n## [0.0.1] - 2026-01-01",
        ),
    )
    .expect("a file");
    refused(&["99.1.0"], "commit or stash");
    commit(dir.path());
    refused(&["99.1.0"], "nothing below [Unreleased]");
    let (done, help) = release(dir.path(), &["--help"]);
    assert!(done && help.contains("--dry-run VERSION"), "{help}");
}
