//! Output that only a terminal gets, and no pipe: colours, tables of its width, progress bars.

use std::process::Command;

use larder_tests::fake::{Fault, Match};
use larder_tests::image::{self, LayerSpec};
use larder_tests::node::larder_program;

use crate::{Kitchen, REGISTRY};

/// What a terminal of so many columns shows for a command.
async fn on_terminal(
    kitchen: &Kitchen,
    columns: u32,
    arguments: &str,
    environment: &str,
) -> String {
    let program = larder_program();
    let script = format!(
        "stty cols {columns} rows 24; {environment} {} {arguments}",
        program.display()
    );
    let mut command = Command::new("script");
    command
        .args(["-qec", &script, "/dev/null"])
        .env("LARDER_SOCKET", kitchen.node.socket())
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(std::process::Stdio::null());
    let run = move || command.output().expect("script, of bsdutils");
    let output = tokio::task::spawn_blocking(run).await.expect("it runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const ESCAPE: char = '\u{1b}';

#[tokio::test]
async fn colours_are_for_terminals_that_want_them() {
    let kitchen = Kitchen::new().await;
    let text = on_terminal(&kitchen, 100, "status", "").await;
    assert!(text.contains(ESCAPE), "{text:?}");
    let plain = on_terminal(&kitchen, 100, "status", "NO_COLOR=1").await;
    assert!(!plain.contains(ESCAPE), "{plain:?}");
    let piped = kitchen.text(&["status"]).await;
    assert!(!piped.contains(ESCAPE), "{piped:?}");
}

#[tokio::test]
async fn a_table_fits_the_terminal() {
    let kitchen = Kitchen::new().await;
    let repository = "an-organisation-with-a-long-name/and-a-repository-whose-name-is-longer";
    let app = kitchen.put(repository, "a-tag-of-some-length", 1);
    kitchen
        .client_pulls(repository, "a-tag-of-some-length", &app)
        .await;
    for columns in [80, 100, 200] {
        let text = on_terminal(&kitchen, columns, "images", "NO_COLOR=1").await;
        let widest = text
            .lines()
            .map(|line| line.trim_end().chars().count())
            .max();
        assert!(
            widest.is_some_and(|widest| widest <= columns as usize),
            "{columns}: {text}"
        );
        assert!(text.contains("2.0 MiB"), "{text}");
    }
    let piped = kitchen.text(&["images"]).await;
    assert_eq!(
        piped.lines().count(),
        2,
        "a pipe gets a line for each: {piped}"
    );
    assert!(piped.contains(repository));
}

#[tokio::test]
async fn a_pull_shows_a_bar_with_rate_and_remaining_time() {
    let kitchen = Kitchen::new().await;
    let layers = [LayerSpec::new(1, 3_000_000)];
    image::build(&kitchen.fake, "team/app", "v1", &layers);
    kitchen
        .fake
        .fault(Match::blob(), Fault::ThrottleBytesPerSecond(1_500_000));
    let name = format!("{REGISTRY}/team/app:v1");
    let shown = on_terminal(&kitchen, 100, &format!("pull {name}"), "").await;
    for part in ["/s", " left", "MiB/2.8", "==>"] {
        assert!(shown.contains(part), "{part}: {shown:?}");
    }
    let last = shown.lines().last().unwrap_or_default();
    assert!(
        last.contains("4 blobs") || last.contains("3 blobs"),
        "{last:?}"
    );
}

/// larder hashes every blob again, which takes a moment.
#[tokio::test]
async fn a_verification_shows_a_bar_too() {
    let kitchen = Kitchen::new().await;
    let layers = [1, 2, 3].map(|seed| LayerSpec::new(seed, 100_000_000));
    image::build(&kitchen.fake, "team/app", "v1", &layers);
    let name = format!("{REGISTRY}/team/app:v1");
    kitchen.text(&["pull", &name]).await;
    let shown = on_terminal(&kitchen, 100, "verify", "").await;
    // The bar's progress between two looks depends on the machine.
    for part in ["verify  ", " B/s", " left"] {
        assert!(shown.contains(part), "{part}: {shown:?}");
    }
    let last = shown.lines().last().unwrap_or_default();
    assert!(last.contains("5 blobs, 286.1 MiB: 0 damaged"), "{last:?}");
}

#[tokio::test]
async fn so_does_a_look_at_the_bounds() {
    let kitchen = Kitchen::new().await;
    let shown = on_terminal(&kitchen, 100, "gc", "").await;
    for part in ["gc  ", " B/s", " left"] {
        assert!(shown.contains(part), "{part}: {shown:?}");
    }
    let last = shown.lines().last().unwrap_or_default();
    assert!(last.contains("evicted: 0 blobs, 0 B"), "{last:?}");
}

/// Without a terminal the command prints a line now and then, and standard output holds only the outcome.
#[tokio::test]
async fn a_long_pull_says_a_line_now_and_then() {
    let kitchen = Kitchen::new().await;
    let layers = [LayerSpec::new(1, 3_500_000)];
    image::build(&kitchen.fake, "team/app", "v1", &layers);
    kitchen
        .fake
        .fault(Match::blob(), Fault::ThrottleBytesPerSecond(500_000));
    let name = format!("{REGISTRY}/team/app:v1");
    let pulled = kitchen.run(&["pull", &name]).await.success();
    let told = crate::stderr(&pulled);
    let line = told.lines().next().unwrap_or_default();
    assert!(line.starts_with(&format!("pull {name}: ")), "{told}");
    assert!(
        line.contains("of 3.3 MiB (") && line.contains("/s, ") && line.ends_with(" left"),
        "{line}"
    );
    assert_eq!(crate::stdout(&pulled).lines().count(), 1);
}

/// A reader that has seen enough closes the pipe, which is no failure.
#[tokio::test]
async fn a_closed_pipe_is_no_failure() {
    let kitchen = Kitchen::new().await;
    let script = format!(
        "{} status | head -c 1; exit ${{PIPESTATUS[0]}}",
        larder_program().display()
    );
    let run = Command::new("bash")
        .args(["-c", &script])
        .env("LARDER_SOCKET", kitchen.node.socket())
        .output()
        .expect("bash");
    assert!(run.status.success(), "{run:?}");
    assert!(run.stderr.is_empty(), "{run:?}");
}

/// A pipe without a reader.
fn closed() -> std::io::PipeWriter {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer
}

/// A command finishes its work even if the reader of its output leaves.
#[tokio::test]
async fn a_closed_pipe_stops_no_work() {
    let kitchen = Kitchen::new().await;
    let images = [
        kitchen.put("team/one", "v1", 1),
        kitchen.put("team/two", "v1", 10),
    ];
    let names = ["one", "two"].map(|name| format!("{REGISTRY}/team/{name}:v1"));
    let mut command = Command::new(larder_program());
    command
        .arg("pull")
        .args(&names)
        .env("LARDER_SOCKET", kitchen.node.socket())
        .stdout(closed());
    let run = move || command.status().expect("it runs");
    let pulled = tokio::task::spawn_blocking(run).await.expect("it ends");
    assert!(pulled.success());
    for image in images {
        assert!(kitchen.committed(&image.manifest_digest));
    }

    let dir = tempfile::tempdir().expect("a directory");
    let certs = dir.path().join("certs.d");
    std::fs::create_dir(&certs).expect("a directory");
    let run = |command: &str, more: &[&str]| {
        let run = Command::new(larder_program())
            .args([command, "--runtime", "containerd", "--containerd-certs-dir"])
            .arg(&certs)
            .args(more)
            .stdout(closed())
            .stderr(closed())
            .status();
        assert!(run.expect("it runs").success(), "{command}");
    };
    let registries = ["a.example.com", "b.example.com", "c.example.com"];
    let flags = registries.map(|name| format!("--registry={name}"));
    run("install", &flags.each_ref().map(String::as_str));
    for name in registries {
        assert!(certs.join(name).join("hosts.toml").is_file(), "{name}");
    }
    run("uninstall", &[]);
    for name in registries {
        assert!(!certs.join(name).exists(), "{name}");
    }
}

#[tokio::test]
async fn output_that_is_lost_is_a_failure() {
    let kitchen = Kitchen::new().await;
    kitchen.put("team/app", "v1", 1);
    let dir = tempfile::tempdir().expect("a directory");
    let certs = format!("--containerd-certs-dir={}", dir.path().display());
    for arguments in [
        &["images", "--json"][..],
        &["status"],
        &["config", "show"],
        &["completions", "bash"],
        &["pull", &format!("{REGISTRY}/team/app:v1")],
        &["install", "--runtime=containerd", &certs],
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let mut command = Command::new(larder_program());
        command
            .args(arguments)
            .env("LARDER_SOCKET", kitchen.node.socket())
            .stdout(full.expect("Linux"));
        let run = move || command.output().expect("it runs");
        let run = tokio::task::spawn_blocking(run).await.expect("it ends");
        let told = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(1), "{arguments:?}: {told}");
        assert!(
            told.contains("the output could not be written: No space left"),
            "{arguments:?}: {told}"
        );
    }
}
