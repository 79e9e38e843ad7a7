//! docs/metrics.md has a row for every metric, with every type, label and label value, and no other row.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

use larder_shared::Role;

use super::*;

/// Creates the series of every label value of every metric.
fn all_of(metrics: &Metrics) {
    let upstreams = [
        UpstreamLabel::None,
        UpstreamLabel::Other,
        UpstreamLabel::Named("docker.io".into()),
    ];
    for tier in Tier::ALL.iter().copied() {
        for outcome in Outcome::ALL.iter().copied() {
            for upstream in upstreams.clone() {
                let served = Served {
                    tier,
                    upstream,
                    outcome,
                };
                metrics.clients.served(&served, 1, 1);
            }
            let answered = Answered { tier, outcome };
            let first_byte = &metrics.clients.first_byte_seconds;
            first_byte.get_or_create(&answered).observe(0.1);
        }
    }
    let [_, upstreams @ ..] = upstreams;
    for upstream in upstreams {
        for outcome in Asked::ALL.iter().copied() {
            let upstream = upstream.clone();
            let asked = UpstreamAsked { upstream, outcome };
            drop(metrics.upstreams.asked.get_or_create(&asked));
        }
        for state in EndpointState::ALL.iter().copied() {
            let upstream = upstream.clone();
            let labels = Endpoints { upstream, state };
            drop(metrics.upstreams.endpoints.get_or_create(&labels));
        }
        for source in Source::ALL.iter().copied() {
            metrics.fills.receiving(source, upstream.clone()).add(1);
        }
    }
    let named = OfUpstream {
        upstream: UpstreamLabel::Named("docker.io".into()),
    };
    drop(metrics.upstreams.credentials_findings.get_or_create(&named));
    let hour = Instant::now() + Duration::from_hours(1);
    metrics.upstreams.hub_limit.set(100, hour);
    metrics.upstreams.hub_remaining.set(99, hour);
    metrics.runtime.report_age.set(5, hour);
    for state in MemberState::ALL.iter().copied() {
        drop(metrics.peers.members.get_or_create(&InState { state }));
    }
    for role in Role::ALL.map(RoleLabel) {
        for outcome in PeerAskedOutcome::ALL.iter().copied() {
            let asked = PeerAsked { role, outcome };
            drop(metrics.peers.asked.get_or_create(&asked));
        }
        for outcome in Outcome::ALL.iter().copied() {
            metrics.peers.served(&PeerServed { role, outcome }, 1);
        }
    }
    let set = || "labs".to_owned();
    for state in ["here", "coming", "waiting", "no-room", "failed"] {
        let labels = WarmImages { set: set(), state };
        drop(metrics.warm.images.get_or_create(&labels));
    }
    drop(metrics.warm.bytes.get_or_create(&OfSet { set: set() }));
    drop(metrics.warm.listed.get_or_create(&OfSet { set: set() }));
    for certificate in Certificate::ALL.iter().copied() {
        let labels = Certificates { certificate };
        drop(metrics.peers.certificates.get_or_create(&labels));
    }
    for operation in ObjectOperation::ALL.iter().copied() {
        for outcome in ObjectOutcome::ALL.iter().copied() {
            metrics.object_store.count(operation, outcome);
        }
    }
}

/// The labels of a sample: `{a="b",c="d"}`.
fn labels(sample: &str) -> Vec<(&str, &str)> {
    let inside = sample
        .split_once('{')
        .and_then(|(_, rest)| rest.strip_suffix('}'));
    let pairs = inside.unwrap_or_default().split("\",");
    pairs
        .filter_map(|pair| pair.split_once("=\""))
        .map(|(name, value)| (name, value.trim_end_matches('"')))
        .collect()
}

/// The rows of docs/metrics.md for a page in the text format of Prometheus.
fn table(page: &str) -> String {
    let mut rows = String::new();
    let mut samples: BTreeMap<&str, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    let mut types = Vec::new();
    let mut helps = BTreeMap::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            helps.insert(name, help);
        } else if let Some(typed) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            types.push(typed);
        } else {
            let (sample, _) = line.rsplit_once(' ').expect("a value");
            let (name, _) = types.last().expect("a type before the sample");
            assert!(sample.starts_with(name), "{sample} is not of {name}");
            let seen = samples.entry(name).or_default();
            for (label, value) in labels(sample) {
                seen.entry(label).or_default().insert(value);
            }
        }
    }
    for (name, kind) in types {
        let of_name = samples.get(name).expect("a sample for each name");
        let shown: Vec<String> = of_name
            .iter()
            .filter(|(label, _)| **label != "le")
            .map(|(label, values)| {
                let mut words: Vec<&str> = values.iter().copied().collect();
                match *label {
                    // The values of these labels are not the code's.
                    "upstream" => words.iter_mut().for_each(|word| {
                        if *word == "docker.io" {
                            *word = "*name*";
                        }
                    }),
                    "set" => words = vec!["*name*"],
                    "version" => words = vec!["*version*"],
                    _ => {}
                }
                words.sort_unstable();
                format!("`{label}`: {}", words.join(", "))
            })
            .collect();
        let shown = shown.join("; ");
        let help = helps.get(name).expect("a help");
        // Writing to a String cannot fail.
        let _ = writeln!(rows, "| `{name}` | {kind} | {shown} | {help} |");
    }
    rows
}

#[test]
fn the_documented_table_is_what_is_shown() {
    let metrics = Metrics::new();
    all_of(&metrics);
    let rows = table(&metrics.render_classic());
    let documented = include_str!("../../../docs/metrics.md");
    let documented: String = documented
        .lines()
        .filter(|line| line.starts_with("| `larder_") || line.starts_with("| `process_"))
        .flat_map(|line| [line, "\n"])
        .collect();
    assert_eq!(
        documented, rows,
        "docs/metrics.md is out of step; its table should be:\n{rows}"
    );
}

#[test]
fn an_unknown_quota_is_not_shown() {
    let metrics = Metrics::new();
    assert!(!metrics.render().contains("ratelimit"));
    let now = Instant::now();
    let left = &metrics.upstreams.hub_remaining;
    left.set(0, now + Duration::from_hours(1));
    assert!(
        metrics
            .render()
            .contains("\nlarder_dockerhub_ratelimit_remaining 0\n")
    );
    // The registry's window has ended.
    left.set(0, now);
    assert_eq!(left.get(), None);
    assert!(!metrics.render().contains("ratelimit"));
}

#[test]
fn what_has_one_label_begins_at_zero() {
    let page = Metrics::new().render();
    for sample in [
        "larder_revalidations_total{outcome=\"unreachable\"} 0",
        "larder_store_evicted_blobs_total{reason=\"room\"} 0",
        "larder_upstream_tokens_total{outcome=\"refused\"} 0",
    ] {
        assert!(page.contains(sample), "{sample}: {page}");
    }
}
