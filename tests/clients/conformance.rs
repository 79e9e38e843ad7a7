//! The conformance suite of the OCI's distribution specification reads through larder.
//!
//! larder takes no pushes, and the suite checks only the bytes that it has pushed itself. So the suite pushes straight
//! into the registry that larder mirrors; it pulls, lists and asks for referrers through larder.

mod front;

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use larder_tests::fake::FakeRegistry;
use larder_tests::node::Node;
use larder_tests::real::run;

use self::front::Front;

const SUITE: Duration = Duration::from_mins(3);

/// The suite's program, which `scripts/test` builds.
fn program() -> Result<PathBuf> {
    let cached = || env::home_dir().map(|home| home.join(".cache/larder/conformance/bin"));
    let dir = env::var_os("LARDER_CONFORMANCE").map(PathBuf::from);
    let program = dir
        .or_else(cached)
        .context("no home directory")?
        .join("conformance");
    ensure!(
        program.is_file(),
        "no {}: scripts/test builds it; LARDER_CONFORMANCE may name another directory",
        program.display()
    );
    Ok(program)
}

/// The suite's report, in JUnit's format.
struct Report(String);

impl Report {
    /// Runs the suite.
    async fn of(dir: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let mut suite = tokio::process::Command::new(program()?);
        suite
            .current_dir(dir)
            .env("OCI_RESULTS_DIR", dir)
            .env("OCI_TLS", "disabled")
            .envs(settings.iter().copied());
        let output = run(&mut suite, SUITE).await?;
        let report = std::fs::read_to_string(dir.join("junit.xml"));
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Self(report.with_context(said)?))
    }

    /// Each test with its outcome: passed, failure, skipped, disabled or error.
    fn outcomes(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.0.split("<testcase").skip(1).map(|case| {
            let attribute = |name: &str| {
                let (_, rest) = case.split_once(&format!(" {name}=\""))?;
                Some(rest.split_once('"')?.0)
            };
            let [name, outcome] = ["name", "status"].map(|name| attribute(name).unwrap_or("?"));
            (name, outcome, case)
        })
    }

    /// Fails if a test failed, or if no test of one of these parts has passed.
    fn conforms(&self, parts: &[&str]) -> Result<()> {
        let wrong = self.outcomes().filter_map(|(name, outcome, case)| {
            let fine = matches!(outcome, "passed" | "skipped" | "disabled");
            let said = case
                .split_once("<system-out>")
                .map_or(case, |(_, said)| said);
            let said = said.split("</system-out>").next().unwrap_or_default();
            (!fine).then(|| format!("{name}: {said}"))
        });
        let wrong: Vec<_> = wrong.collect();
        ensure!(wrong.is_empty(), "{wrong:#?}");
        for part in parts {
            let mut outcomes = self.outcomes();
            let passed =
                outcomes.any(|(name, outcome, _)| name.contains(part) && outcome == "passed");
            ensure!(passed, "nothing about {part} has passed:\n{}", self.0);
        }
        Ok(())
    }
}

/// The suite's verdict on a registry behind larder. With an alias, all repository names begin with it.
async fn conforms(alias: Option<&'static str>) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let fake = Arc::new(FakeRegistry::start().await);
    let node = match alias {
        None => Node::builder().upstream(&fake),
        Some(alias) => Node::builder().config(format!(
            "[upstreams.\"{}\"]\nendpoints = [\"{}\"]\nalias = \"{alias}\"\n",
            fake.host(),
            fake.url()
        )),
    };
    let node = node.start().await;
    let front = Front::start(Arc::clone(&fake), node.addr().parse()?, alias).await?;
    // A registry knows a repository from its first push on.
    fake.put_blob("suite/one", "there");
    let name = |repository| match alias {
        None => format!("suite/{repository}"),
        Some(alias) => format!("{alias}/suite/{repository}"),
    };
    let report = Report::of(
        dir.path(),
        &[
            ("OCI_REGISTRY", &front.addr.to_string()),
            ("OCI_REPO1", &name("one")),
            ("OCI_REPO2", &name("two")),
            // larder still serves deleted content, as another promise demands.
            ("OCI_API_BLOBS_DELETE", "false"),
            ("OCI_API_MANIFESTS_DELETE", "false"),
            ("OCI_API_TAGS_DELETE", "false"),
            ("OCI_API_BLOBS_DIGEST_HEADER", "true"),
            ("OCI_API_MANIFESTS_DIGEST_HEADER", "true"),
        ],
    )
    .await?;
    report.conforms(&[
        "/ping",
        "sha256 blobs/range requests/range 500-1499",
        "sha512 blobs/range requests/range -500",
        "/blob-head",
        "/blob-get",
        "/manifest-head-by-tag",
        "/manifest-by-digest",
        "/tag-list",
        "artifacts-with-subject/referrers",
        "large-manifest",
    ])
}

#[tokio::test]
async fn what_is_pulled_and_listed_through_larder_conforms() -> Result<()> {
    conforms(None).await
}

#[tokio::test]
async fn what_is_pulled_and_listed_under_an_alias_conforms() -> Result<()> {
    conforms(Some("near")).await
}
