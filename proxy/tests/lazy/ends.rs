//! How a connection ends, and what keeps a holder from starting.

use std::{
    fs,
    process::{Command, Stdio},
};

use nix::mount::MsFlags;

use crate::{
    daemon::told,
    reading::read,
    setup::{Setup, until},
};

#[test]
fn readers_that_wait_too_long_for_a_daemon_fail_and_can_die() {
    let setup = Setup::new();
    let holder = setup.holder(&["--abort-after", "1s"]);
    let daemon = setup.daemon(0);
    setup.say("wait");
    // The reader is its own process. The daemon has taken its request, so the kernel does not let it die.
    let mut reader = Command::new("cat")
        .arg(setup.made(1))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("cat");
    until("its request is taken", || {
        told(setup.said(), daemon.pid()).contains("read ")
    });
    let before = setup.connection();
    reader.kill().expect("it runs");
    daemon.kill();
    reader.wait().expect("it ends");
    holder.says("waited too long");
    setup.unsay("wait");
    // The next mount works.
    until("mounted anew", || {
        setup.connection().is_some_and(|now| Some(now) != before)
    });
    let _daemon = setup.daemon(0);
    read(&setup.made(1), 1).expect("the new mount");
}

#[test]
fn without_requests_that_wait_nothing_is_aborted() {
    let setup = Setup::new();
    let holder = setup.holder(&["--abort-after", "1ms"]);
    // INIT, the first request of all, waits for the first daemon.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let daemon = setup.daemon(0);
    read(&setup.made(1), 1).expect("a file");
    let before = setup.connection();
    daemon.kill();
    holder.says("a daemon has gone");
    // The holder checks every second, so it does before the next daemon comes.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let _daemon = setup.daemon(0);
    assert!(!holder.log().contains("too long"), "{}", holder.log());
    assert_eq!(setup.connection(), before);
    read(&setup.made(1), 1).expect("a file");
}

#[test]
fn a_mount_that_the_runtime_would_not_see_is_refused_with_the_fix() {
    let setup = Setup::new();
    setup.spread(MsFlags::MS_PRIVATE);
    let output = setup.hold(&[]).output().expect("larder");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in ["private", "Bidirectional", "--make-rshared", "--seen-here"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(setup.mounted(), 0);
    let _holder = setup.holder(&["--seen-here"]);
    assert_eq!(setup.mounted(), 1);
}

/// The unit that `larder install --hold` prints runs this program, in the machine's own mount namespace.
#[test]
fn the_unit_runs_what_holds() {
    let larder = env!("CARGO_BIN_EXE_larder");
    let output = Command::new(larder).args(["install", "--hold"]).output();
    let output = output.expect("larder");
    let unit = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && output.stderr.is_empty());
    let program = fs::canonicalize(larder).expect("a path");
    let start = format!("ExecStart={} hold", program.display());
    assert!(unit.lines().any(|line| line == start), "{unit}");
    // Each of these settings would make a mount namespace, in which the mounts would stay.
    let settings = unit.lines().filter_map(|line| line.split_once('='));
    for (setting, value) in settings {
        let apart = [
            "Protect",
            "Private",
            "ReadOnly",
            "Temporary",
            "Bind",
            "Root",
        ];
        let apart = apart.iter().any(|word| setting.starts_with(word));
        assert!(!apart || value == "no", "{setting}={value}");
    }
    let both = Command::new(larder)
        .args(["install", "--hold", "--watch"])
        .output();
    assert_eq!(both.expect("larder").status.code(), Some(2));
}

#[test]
fn what_another_has_mounted_stays() {
    let setup = Setup::new();
    fs::create_dir(setup.files()).expect("a directory");
    let none = None::<&str>;
    nix::mount::mount(
        Some("other"),
        &setup.files(),
        Some("tmpfs"),
        MsFlags::empty(),
        none,
    )
    .expect("a tmpfs");
    let output = setup.hold(&[]).output().expect("larder");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is not larder's"), "{said}");
    assert_eq!(setup.mounted(), 1);
}

#[test]
fn an_uninstalled_holder_ends_when_nobody_uses_its_files() {
    let setup = Setup::new();
    let holder = setup.holder(&[]);
    let daemon = setup.daemon(0);
    let asked = setup.hold(&["--uninstall"]).output().expect("larder");
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(asked.status.success(), "{asked:?}");
    assert!(said.contains("ends"), "{said}");
    assert!(holder.ended().success());
    assert_eq!(setup.mounted(), 0);
    setup.until_told(&daemon, "absent false");
    // No holder is left to ask.
    let asked = setup.hold(&["--uninstall"]).output().expect("larder");
    assert_eq!(asked.status.code(), Some(1));
}
