use super::*;
use crate::scenario::{Order, Relays, small};

fn run(scenario: &Scenario) -> Outcome {
    Swarm::new(scenario).run()
}

fn close(is: f64, wanted: f64, by: f64) {
    assert!((is - wanted).abs() <= by, "{is} and not {wanted}");
}

/// Holds for every outcome in which no node dies.
fn conserved(outcome: &Outcome) {
    assert_eq!(outcome.times.len(), outcome.nodes);
    let sent: f64 = outcome.sent.iter().sum();
    let received: f64 = outcome.received.iter().sum();
    close(sent + outcome.upstream, received, 1e-3);
    assert!(outcome.peak <= 1.0 + 1e-6, "a link gave {}", outcome.peak);
}

#[test]
fn one_node_alone_takes_its_links_time() {
    let outcome = run(&small(1));
    conserved(&outcome);
    close(outcome.times[0], f64::from(64 << 20) / 125e6, 0.005);
    close(outcome.upstream, 1.0, 1e-6);
}

#[test]
fn the_rate_of_a_connection_counts() {
    let mut scenario = small(1);
    scenario.connection = 5e6;
    close(run(&scenario).times[0], f64::from(64 << 20) / 40e6, 0.01);
}

#[test]
fn latency_is_paid_for_each_round_of_requests() {
    let mut scenario = small(1);
    scenario.upstream = f64::INFINITY;
    scenario.down = 1e12;
    scenario.upstream_hop = 0.050;
    // 16 runs in 8 streams: two rounds.
    close(run(&scenario).times[0], 0.2, 0.01);
}

#[test]
fn two_nodes_by_hand() {
    // One run. Its root gets the upstream's rate, and the other node gets each byte one step later.
    let mut scenario = small(2);
    scenario.layers = vec![4 << 20];
    scenario.upstream_hop = 0.010;
    scenario.hop = 0.001;
    let outcome = run(&scenario);
    conserved(&outcome);
    let alone = f64::from(4 << 20) / 125e6 + 0.020;
    // The other node asks the root, which then asks the upstream, one hop later, unless it has done so.
    for time in &outcome.times {
        close(*time, alone, 0.006);
    }
    close(outcome.upstream, 1.0, 1e-6);
    let mut sent = outcome.sent;
    sent.sort_by(f64::total_cmp);
    close(sent[0], 0.0, 1e-6);
    close(sent[1], 1.0, 1e-6);
}

#[test]
fn two_nodes_of_which_one_begins_later() {
    // When the second node begins, it already has its own share, which it fetched for the first. The rest comes at the
    // link's rate.
    let mut scenario = small(2);
    scenario.spread = 10.0;
    let outcome = run(&scenario);
    conserved(&outcome);
    close(outcome.upstream, 1.0, 1e-6);
    let (mut times, mut sent) = (outcome.times, outcome.sent);
    times.sort_by(f64::total_cmp);
    sent.sort_by(f64::total_cmp);
    close(sent[0] + sent[1], 1.0, 1e-6);
    let link = f64::from(64 << 20) / 125e6;
    close(times[1], link, 0.01);
    let first_sent = if (times[0] - link * sent[0]).abs() < 0.01 {
        sent[0]
    } else {
        sent[1]
    };
    close(times[0], link * first_sent, 0.01);
}

#[test]
fn everyone_gets_the_image_and_the_upstream_gives_it_once() {
    for nodes in [3, 8, 60] {
        for order in [
            Order::Turn,
            Order::Sequential,
            Order::Shuffled,
            Order::OwnFirst,
        ] {
            let mut scenario = small(nodes);
            scenario.layers = vec![30 << 20, 5, 9 << 20, 20 << 20];
            scenario.order = order;
            let outcome = run(&scenario);
            conserved(&outcome);
            close(outcome.upstream, 1.0, 1e-3);
            for received in &outcome.received {
                close(*received, 1.0, 1e-3);
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same() {
    let mut scenario = small(20);
    scenario.dying = 0.2;
    scenario.spread = 1.0;
    let (one, other) = (run(&scenario), run(&scenario));
    assert_eq!(one.times, other.times);
    assert_eq!(one.sent, other.sent);
}

#[test]
fn the_dead_and_the_new_keep_nobody_from_its_image() {
    for relays in [Relays::Exactly(0), Relays::Exactly(4)] {
        for seed in 0..4 {
            let mut scenario = small(30);
            scenario.dying = 0.3;
            scenario.joining = 0.2;
            scenario.refresh = 0.2;
            scenario.relays = relays;
            scenario.seed = seed;
            let outcome = run(&scenario);
            assert_eq!(outcome.lived, 21);
            assert_eq!(outcome.times.len(), 21);
            assert!(outcome.upstream >= 0.9, "{}", outcome.upstream);
        }
    }
}

#[test]
fn images_that_nobody_else_pulls_cost_the_upstream_once_each() {
    let mut scenario = small(12);
    scenario.images = 5;
    let outcome = run(&scenario);
    conserved(&outcome);
    assert!(outcome.images > 1);
    close(outcome.upstream, outcome.images as f64, 1e-3);
}
