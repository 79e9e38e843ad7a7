//! A registry that asked for a long silence is probed after a minute, by one request for each credential (P15). The
//! time in `Retry-After` is often a constant of an error page, and the page is there for seconds.

use std::time::Duration;

use data_encoding::BASE64;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use larder_tests::fake::{FakeRegistry, Fault, Gate, Kind, Match};
use larder_tests::http::{Call, Response};
use larder_tests::image::OCI_MANIFEST;
use larder_tests::machine::Machine;
use larder_tests::node::Node;

use super::{OLD, REPOSITORY, is_stale};

/// How long a silence lasts before the first probe.
const MINUTE: Duration = Duration::from_mins(1);
/// More than the time that passes while the test looks, and less than a pause.
const A_BIT: Duration = Duration::from_secs(20);

const TAGS: usize = 5;

/// A tag's check may have to wait for the test.
const CONFIG: &str = "[tags]\ntimeout = \"4s\"\n";

/// The registry says that it is down for an hour.
fn maintenance(code: u16) -> Fault {
    Fault::Status {
        code,
        headers: vec![("Retry-After".to_owned(), "3600".to_owned())],
        body: "".into(),
    }
}

/// A node on a machine whose clock the test moves, with a few pulled tags.
struct Silenced {
    machine: Machine,
    fake: FakeRegistry,
    node: Node,
}

impl Silenced {
    async fn new() -> Self {
        let (machine, fake) = (Machine::new(), FakeRegistry::start().await);
        for tag in 0..TAGS {
            let tag = format!("t{tag}");
            fake.put_manifest(REPOSITORY, Some(&tag), OCI_MANIFEST, OLD);
        }
        let node = machine.runs(Node::builder()).upstream(&fake).config(CONFIG);
        let node = node.start().await;
        Self {
            machine,
            fake,
            node,
        }
    }

    fn get(&self, tag: usize, password: Option<&str>) -> Call {
        let (node, host) = (self.node.url(), self.fake.host());
        let url = format!("{node}/v2/{REPOSITORY}/manifests/t{tag}?ns={host}");
        let call = Call::get(url);
        match password {
            Some(password) => call.header("authorization", &basic(password)),
            None => call,
        }
    }

    async fn ask(&self, tag: usize, password: Option<&str>) -> Response {
        let answer = self.get(tag, password).send().await.expect("an answer");
        assert_eq!((answer.status, answer.text()), (200, OLD.to_owned()));
        answer
    }

    /// The registry asks for silence, in its answer to each caller that has pulled from it.
    async fn silence(&self, code: u16, passwords: &[Option<&str>]) -> larder_tests::fake::Armed {
        for password in passwords {
            for tag in 0..TAGS {
                assert!(!is_stale(&self.ask(tag, *password).await));
            }
        }
        self.fake.reset_counts();
        let armed = self.fake.fault(Match::manifest(), maintenance(code));
        for password in passwords {
            assert!(is_stale(&self.ask(0, *password).await));
        }
        assert_eq!(self.asked(), passwords.len());
        armed
    }

    /// How many requests for manifests have reached the registry.
    fn asked(&self) -> usize {
        self.fake.count(|seen| seen.kind == Kind::Manifest)
    }

    /// Clients ask for all tags at once, each with each of these passwords. Panics unless there are as many probes as
    /// passwords, and all other requests are answered while the probes wait.
    async fn probes(&self, passwords: &[Option<&str>]) -> Vec<Response> {
        let before = self.asked();
        let gate = Gate::new(0);
        let held = self
            .fake
            .fault(Match::manifest(), Fault::Hold(gate.clone()));
        let calls = passwords
            .iter()
            .flat_map(|password| (0..TAGS).map(|tag| self.get(tag, *password).send()));
        let mut answers: FuturesUnordered<_> = calls.collect();
        let (mut told, ()) = tokio::join!(answers.next(), gate.reached(passwords.len()));
        for _ in 0..passwords.len() * (TAGS - 1) {
            let answer = match told.take() {
                Some(answer) => answer,
                None => answers.next().await.expect("one more"),
            };
            assert!(is_stale(&answer.expect("an answer")));
        }
        assert_eq!(self.asked() - before, passwords.len(), "one probe each");
        held.lift();
        gate.open();
        let mut probes = Vec::new();
        while let Some(answer) = answers.next().await {
            probes.push(answer.expect("an answer"));
        }
        probes
    }

    /// larder sends the registry no request.
    async fn nothing_goes(&self, what: &str) {
        let before = self.asked();
        for tag in 0..TAGS {
            assert!(is_stale(&self.ask(tag, None).await), "{what}");
        }
        assert_eq!(self.asked(), before, "{what}");
    }
}

fn basic(password: &str) -> String {
    format!(
        "Basic {}",
        BASE64.encode(format!("user:{password}").as_bytes())
    )
}

#[tokio::test]
async fn a_long_silence_is_probed_after_a_minute_and_then_less_and_less_often() {
    for code in [503, 429] {
        let silenced = Silenced::new().await;
        let armed = silenced.silence(code, &[None]).await;
        silenced.nothing_goes("at first").await;
        silenced.machine.pass(MINUTE.saturating_sub(A_BIT));
        silenced.nothing_goes("before the minute is over").await;
        silenced.machine.pass(A_BIT);
        // Two probes confirm the silence: the pause doubles each time.
        for pause in [2, 4] {
            for probe in silenced.probes(&[None]).await {
                assert!(is_stale(&probe), "{code}");
            }
            silenced.nothing_goes("after a probe").await;
            silenced
                .machine
                .pass((pause * MINUTE).saturating_sub(A_BIT));
            silenced.nothing_goes("before the pause is over").await;
            silenced.machine.pass(A_BIT);
        }
        // The registry is back, and larder asks it again for every tag.
        armed.lift();
        for probe in silenced.probes(&[None]).await {
            assert!(!is_stale(&probe), "{code}");
        }
        for tag in 0..TAGS {
            assert!(!is_stale(&silenced.ask(tag, None).await), "{code}");
        }
    }
}

/// Each credential may have a quota of its own.
#[tokio::test]
async fn each_credential_has_a_probe_of_its_own() {
    let silenced = Silenced::new().await;
    let users = [("user", "one"), ("user", "two")];
    silenced.fake.require_bearer(REPOSITORY, &users);
    let passwords = [Some("one"), Some("two")];
    let armed = silenced.silence(429, &passwords).await;
    silenced.machine.pass(MINUTE);
    let probes = silenced.probes(&passwords).await;
    assert!(probes.iter().all(is_stale));
    armed.lift();
    silenced.machine.pass(2 * MINUTE);
    let probes = silenced.probes(&passwords).await;
    assert!(!probes.iter().any(is_stale));
}
