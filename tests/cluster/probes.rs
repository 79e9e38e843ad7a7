//! Members of one cluster probe a registry that asked for a long silence in turn, not each for itself (P15).

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use larder_tests::fake::{FakeRegistry, Fault, Gate, Kind, Match};
use larder_tests::http::Response;
use larder_tests::image::build;
use larder_tests::machine::Machine;
use larder_tests::members::{Cluster, Door};

use super::{REPOSITORY, beside, doors, layers};

/// A silence is kept for so long before the first probe.
const MINUTE: Duration = Duration::from_mins(1);

/// Where another member probes, it is asked so much later how that went.
const PUT_OFF: Duration = Duration::from_secs(10);

const MEMBERS: usize = 3;

async fn ask(door: &Door) -> Response {
    let answer = door.answer(door.call("HEAD", "manifests/v1")).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200);
    answer
}

fn is_stale(answer: &Response) -> bool {
    answer.header("warning").is_some()
}

fn asked(fake: &FakeRegistry) -> usize {
    fake.count(|seen| seen.kind == Kind::Manifest)
}

/// All members are asked at once. Panics unless one probe goes, and everyone else has an answer while it waits. Gives that of
/// the probe.
async fn one_probe(fake: &FakeRegistry, doors: &[Door]) -> Response {
    fake.reset_counts();
    let gate = Gate::new(0);
    let held = fake.fault(Match::manifest(), Fault::Hold(gate.clone()));
    let mut answers: FuturesUnordered<_> = doors.iter().map(ask).collect();
    let (mut told, ()) = tokio::join!(answers.next(), gate.reached(1));
    for _ in 1..doors.len() {
        let answer = match told.take() {
            Some(answer) => answer,
            None => answers.next().await.expect("one more"),
        };
        assert!(is_stale(&answer), "{answer:?}");
    }
    assert_eq!(asked(fake), 1, "one probe in all");
    held.lift();
    gate.open();
    answers.next().await.expect("the probe")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_probe_a_silent_registry_in_turn() {
    let _machine = beside().await;
    let (machine, fake) = (Machine::new(), FakeRegistry::start().await);
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[1]));
    let environment = machine.environment();
    let environment = environment
        .each_ref()
        .map(|(name, value)| (*name, value.to_str().expect("a path of ours")));
    let plan = Cluster::of(MEMBERS)
        .upstream(&fake)
        .config("[tags]\ntimeout = \"4s\"\n")
        .environment(&environment);
    let cluster = plan.start().await;
    let doors = doors(&cluster, &fake, REPOSITORY);
    for door in &doors {
        door.pull("v1", &image).await.expect("an image");
        assert!(!is_stale(&ask(door).await));
    }
    let down = Fault::Status {
        code: 503,
        headers: vec![("Retry-After".to_owned(), "3600".to_owned())],
        body: "".into(),
    };
    let armed = fake.fault(Match::any(), down);
    fake.reset_counts();
    for door in &doors {
        assert!(is_stale(&ask(door).await));
    }
    assert_eq!(asked(&fake), MEMBERS, "each was told once");
    machine.pass(MINUTE);
    let probe = one_probe(&fake, &doors).await;
    assert!(is_stale(&probe));
    // A member that waits for a turn asks for it again and again, and gets none before the pause is over.
    machine.pass(PUT_OFF);
    for door in &doors {
        assert!(is_stale(&ask(door).await));
    }
    assert_eq!(asked(&fake), 1);
    armed.lift();
    machine.pass(2 * MINUTE);
    let probe = one_probe(&fake, &doors).await;
    assert!(!is_stale(&probe));
    // The others hear that it is over when they ask for their turn. The member that probed tells the keepers beside its own
    // answer, so they may have to ask again. All that they wait is less than the pause before another turn.
    let mut tries = 0;
    for door in &doors {
        machine.pass(PUT_OFF);
        while is_stale(&ask(door).await) {
            tries += 1;
            assert!(tries < 8, "it is not told that the silence is over");
            tokio::time::sleep(Duration::from_millis(100)).await;
            machine.pass(PUT_OFF);
        }
    }
}
