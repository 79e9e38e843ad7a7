//! What is wrong with this node, as far as the daemon can see it, and how to fix it (promise P24).
//!
//! Each check looks at one thing and reports what it found, also that all is well. Checks change nothing, wait for a
//! bounded time, and run side by side. The daemon cannot see containerd's files, or whether its own ports answer; the
//! command checks these ([`crate::cli`]). [`Check`] has the names of the checks, and docs/doctor.md is their table.

mod content;
mod machine;
mod members;
mod runtime;
mod streaming;
mod upstreams;
mod warm;

use std::time::Duration;

use larder_shared::{
    RegistryName,
    admin::{Check, Diagnosis, Finding},
};

use crate::{metrics::Metrics, pull::Pull, warm::Warm};

/// The most time that a check may take.
const WITHIN: Duration = Duration::from_secs(4);

/// What the checks look at.
#[derive(Clone, Copy, Debug)]
pub struct Patient<'a> {
    pub pull: &'a Pull,
    pub metrics: &'a Metrics,
    pub warm: &'a Warm,
    /// Why the configuration file on disk is not in force; `None` while it is.
    pub misread: Option<&'a str>,
}

/// Runs every check.
pub async fn diagnose(patient: Patient<'_>) -> Diagnosis {
    let (machine, streaming, upstreams, members, sets) = tokio::join!(
        machine::look(patient.pull),
        streaming::look(patient.pull),
        upstreams::look(patient.pull),
        members::look(patient.pull),
        warm::look(patient.pull, patient.warm),
    );
    let mut findings = vec![config(patient.misread), sources(patient.metrics)];
    findings.extend(runtime::look(patient.pull));
    findings.extend(machine);
    findings.extend(streaming);
    findings.extend(content::look(&patient.pull.store.adopted_view()));
    findings.extend(upstreams);
    findings.extend(members);
    findings.extend(sets);
    Diagnosis { findings }
}

/// A test connection to every endpoint of one registry, also with the node's own credentials for it.
pub async fn connect(pull: &Pull, registry: &RegistryName) -> Vec<Finding> {
    let upstream = pull.config.load().upstream(registry.as_str());
    upstreams::look_at(pull, registry.clone(), &upstream)
        .await
        .findings
}

fn config(misread: Option<&str>) -> Finding {
    match misread {
        None => Finding::ok(Check::Config, "the configuration file is in force"),
        Some(why) => Finding::error(
            Check::Config,
            format!("the configuration file cannot be used, and the one before is in force: {why}"),
            "correct that line; the file is read again by itself. `larder config check` tells whether it will do",
        ),
    }
}

/// Promise P19. A client that was turned away may be one that the operator meant to let in.
fn sources(metrics: &Metrics) -> Finding {
    let (registry, peers) = (
        metrics.clients.turned_away.get(),
        metrics.peers.turned_away.get(),
    );
    let mut found = Vec::new();
    let mut mends = Vec::new();
    if registry > 0 {
        found.push(format!(
            "{registry} requests to the registry port came from addresses that are not this node's"
        ));
        mends.push(
            "if it was this node's runtime by way of another address, add that address to [registry] allow_from; \
             else look who reaches this port",
        );
    }
    if peers > 0 {
        found.push(format!(
            "{peers} connections to the peer port showed no member's certificate"
        ));
        mends.push(
            "look whether every member has a certificate of the CA and with the name that [cluster] tls says",
        );
    }
    if found.is_empty() {
        return Finding::ok(Check::Sources, "no connection was refused");
    }
    Finding::warning(Check::Sources, found.join("; "), mends.join("; "))
}
