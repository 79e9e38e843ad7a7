//! Registries: their names and endpoints, the node's credentials for them, and how far this node's clock is off theirs.

use std::time::Duration;

use larder_shared::{
    RegistryName, Repository,
    admin::{Check, Finding},
};

use super::WITHIN;
use crate::{
    config::{Cloud, Config, Credentials, Upstream},
    pull::Pull,
    upstream::{Failure, Knock, Knocked, Limit},
};

/// In seconds. Tokens and certificates tolerate about a minute.
const CLOCK: u64 = 30;

/// A source of credentials is asked by repository. This name stands for any repository of the registry.
const ANY_REPOSITORY: &str = "larder/doctor";

/// The findings of one registry, and what the checks of names and of the clock need.
pub(super) struct Looked {
    pub(super) findings: Vec<Finding>,
    names: Vec<(String, bool)>,
    ahead: Vec<i64>,
}

pub(super) async fn look(pull: &Pull) -> Vec<Finding> {
    let config = pull.config.load_full();
    let each = config.upstreams.iter().filter_map(|(name, upstream)| {
        let registry: RegistryName = name.parse().ok()?;
        Some(look_at(pull, registry, upstream))
    });
    let looked = futures_util::future::join_all(each).await;
    let mut findings = Vec::new();
    let (mut names, mut ahead) = (Vec::new(), Vec::new());
    for one in looked {
        findings.extend(one.findings);
        names.extend(one.names);
        ahead.extend(one.ahead);
    }
    findings.extend(others(pull, &config));
    if findings.is_empty() {
        findings.push(Finding::ok(
            Check::Upstream,
            "no registry is configured by name: each is asked at its own, and none was avoided",
        ));
    }
    findings.push(dns(&names));
    findings.push(clock(&ahead));
    findings
}

pub(super) async fn look_at(pull: &Pull, registry: RegistryName, upstream: &Upstream) -> Looked {
    let (knocks, credentials) = tokio::join!(
        pull.upstreams.knock(&registry),
        credentials(pull, &registry, upstream),
    );
    let mut names = Vec::new();
    let mut findings = Vec::new();
    for knock in &knocks {
        let unreachable = matches!(knock.outcome, Knocked::Failed(Failure::Unreachable { .. }));
        let known = !unreachable || resolves(&knock.host).await;
        names.push((knock.host.clone(), known));
        findings.push(endpoint(&registry, knock, known));
    }
    findings.extend(credentials);
    Looked {
        findings,
        names,
        ahead: knocks.iter().filter_map(|k| k.ahead_seconds).collect(),
    }
}

fn endpoint(registry: &RegistryName, knock: &Knock, known: bool) -> Finding {
    let (place, kind) = (&knock.at, if knock.origin { "origin" } else { "mirror" });
    let bad = |found: String, fix: &str| {
        // If a mirror fails, the endpoints behind it still serve.
        if knock.origin {
            Finding::error(Check::Upstream, found, fix)
        } else {
            Finding::warning(Check::Upstream, found, fix)
        }
    };
    match &knock.outcome {
        Knocked::Answered => Finding::ok(
            Check::Upstream,
            format!("{registry}: the {kind} {place} answers"),
        ),
        Knocked::Silent(silent) => Finding::warning(
            Check::Upstream,
            format!(
                "{registry}: the {kind} {place} {}; it is left alone for {} s more, and a probe may go in {} s",
                silent.why,
                silent.left.as_secs().max(1),
                silent.probe_in.as_secs()
            ),
            fix_of_limit(silent.why),
        ),
        Knocked::NoRegistry(status) => bad(
            format!(
                "{registry}: the {kind} {place} answers {status} where a registry's API begins (/v2/)"
            ),
            "look at the URL in [upstreams] endpoints: host, port, and a path where the mirror wants one",
        ),
        Knocked::Failed(Failure::Unreachable { .. }) if !known => bad(
            format!("{registry}: the {kind} {place} cannot be reached: its name is not known"),
            "see the finding `dns`",
        ),
        Knocked::Failed(Failure::Limited { why, .. }) => Finding::warning(
            Check::Upstream,
            format!("{registry}: the {kind} {place} {why}"),
            fix_of_limit(*why),
        ),
        Knocked::Failed(failure @ Failure::Forbidden(_)) => bad(
            format!("{registry}: the {kind} {place}: {failure}"),
            "name the address in [upstreams] endpoints if larder is to connect there",
        ),
        Knocked::Failed(failure) => bad(
            format!("{registry}: the {kind}: {failure}"),
            "look at host and port, at firewalls and HTTPS_PROXY, and for TLS at `ca` in [upstreams]",
        ),
    }
}

/// What to do about a registry that has limited larder's requests.
fn fix_of_limit(why: Limit) -> &'static str {
    match why {
        Limit::Quota => {
            "give pods or [upstreams] credentials with a quota of their own, or set [tags] fresh_for so that fewer questions are asked"
        }
        Limit::Unavailable => {
            "look at the registry: it says itself that it is not available; a probe finds out when it is back"
        }
    }
}

/// Registries that were used without being in the configuration, and that are in trouble.
fn others(pull: &Pull, config: &Config) -> Vec<Finding> {
    let configured: Vec<String> = config
        .upstreams
        .values()
        .flat_map(|upstream| &upstream.endpoints)
        .map(|endpoint| crate::client::origin(&endpoint.url))
        .collect();
    pull.upstreams
        .unwell()
        .into_iter()
        .filter(|view| !configured.contains(&view.url))
        .map(|view| {
            Finding::warning(
                Check::Upstream,
                format!("{}: {}", view.url, view.words()),
                "if it is reached by way of a mirror or a proxy from here, say so in [upstreams] or HTTPS_PROXY",
            )
        })
        .collect()
}

/// Whether an upstream's credentials can be read, and whether its origin accepts them. No finding shows a secret.
async fn credentials(pull: &Pull, registry: &RegistryName, upstream: &Upstream) -> Vec<Finding> {
    let Some(source) = &upstream.credentials else {
        return Vec::new();
    };
    let name = registry.as_str();
    let cloud = matches!(source, Credentials::Cloud(_));
    // A cloud's last refusal may be out of date: the identity is tried again below.
    let known = if cloud {
        Vec::new()
    } else {
        pull.credentials.findings(name, upstream).await
    };
    let mut findings: Vec<Finding> = known
        .into_iter()
        .map(|line| {
            Finding::error(
                Check::Credentials,
                format!("{registry}: {line}"),
                "fix what that line names; it is read again at the next pull",
            )
        })
        .collect();
    if findings.is_empty() {
        let tried = tokio::time::timeout(WITHIN, try_out(pull, registry, upstream)).await;
        findings.push(tried.unwrap_or_else(|_| {
            Finding::warning(
                Check::Credentials,
                format!(
                    "{registry}: {}: no verdict within {} s",
                    described(pull, name, upstream),
                    WITHIN.as_secs()
                ),
                if cloud {
                    "a server of the cloud is slow: ask again, `larder upstreams` says which one once it has failed"
                } else {
                    "run the helper or plugin by hand, and see the finding `upstream`"
                },
            )
        }));
    }
    findings
}

async fn try_out(pull: &Pull, registry: &RegistryName, upstream: &Upstream) -> Finding {
    let Ok(repository) = ANY_REPOSITORY.parse::<Repository>() else {
        return Finding::ok(Check::Credentials, registry.to_string());
    };
    let credentials = &pull.credentials;
    credentials.hurry(registry.as_str(), upstream);
    let found = credentials.lookup(registry, &repository, upstream).await;
    let what = described(pull, registry.as_str(), upstream);
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            let error = match &upstream.credentials {
                Some(Credentials::Cloud(_)) => format!("{what}: {error}"),
                _ => error.to_string(),
            };
            return Finding::error(
                Check::Credentials,
                format!("{registry}: {error}"),
                "fix what that line names; it is asked again at the next pull",
            );
        }
    };
    let Some(first) = found.into_iter().next() else {
        return Finding::ok(
            Check::Credentials,
            format!(
                "{registry}: {what} has nothing for the registry as a whole; `larder explain REF` tells for an image"
            ),
        );
    };
    let refused = match &upstream.credentials {
        Some(Credentials::Cloud(identity)) => refused_identity(identity.cloud),
        _ => "they have expired, were revoked or are another registry's: put new ones there",
    };
    let identity = pull.key.found(first);
    match pull.upstreams.introduce(registry, &identity).await {
        Ok(()) => Finding::ok(Check::Credentials, format!("{registry}: {what}: accepted")),
        Err(Failure::Refused(refusal)) => Finding::error(
            Check::Credentials,
            format!("{registry}: {what}: {} refuses them", refusal.at),
            refused,
        ),
        // Whether the origin can be reached is another finding.
        Err(failure) => Finding::ok(
            Check::Credentials,
            format!("{registry}: {what}: there, but could not be tried: {failure}"),
        ),
    }
}

/// What to do where a registry refuses an identity to which its cloud has given a token.
fn refused_identity(cloud: Cloud) -> &'static str {
    match cloud {
        Cloud::Google => {
            "grant roles/artifactregistry.reader on the repository to that account; docs/identity.md has the commands"
        }
        Cloud::Aws => {
            "let the role's policy, and the repository's where it is of another account, allow ecr:BatchGetImage, ecr:GetDownloadUrlForLayer and ecr:BatchCheckLayerAvailability"
        }
        Cloud::Azure => "give the identity the role AcrPull on the registry",
    }
}

/// The source of the credentials, without its content.
fn described(pull: &Pull, registry: &str, upstream: &Upstream) -> String {
    if let Some(view) = pull.credentials.cloud(registry, upstream) {
        return view.to_string();
    }
    let Some(source) = &upstream.credentials else {
        return String::new();
    };
    match source {
        Credentials::Cloud(identity) => format!("the {} identity", identity.cloud.as_str()),
        Credentials::DockerConfig { path } => format!("credentials of {}", path.display()),
        Credentials::Files { username, .. } => {
            format!("the pair of {} and its password file", username.display())
        }
        Credentials::Helper { name } => format!("credentials of docker-credential-{name}"),
        Credentials::Kubelet { config, .. } => {
            format!(
                "credentials of the kubelet's plugins in {}",
                config.display()
            )
        }
    }
}

async fn resolves(host: &str) -> bool {
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let found = tokio::time::timeout(Duration::from_secs(2), async move {
        tokio::net::lookup_host((host, 0))
            .await
            .is_ok_and(|mut found| found.next().is_some())
    });
    found.await.unwrap_or(false)
}

fn dns(names: &[(String, bool)]) -> Finding {
    let mut unknown: Vec<&str> = names
        .iter()
        .filter(|(_, known)| !known)
        .map(|(name, _)| name.as_str())
        .collect();
    unknown.sort_unstable();
    unknown.dedup();
    if unknown.is_empty() {
        return Finding::ok(Check::Dns, "no name of a configured registry is unknown");
    }
    Finding::error(
        Check::Dns,
        format!("no address is known for {}", unknown.join(", ")),
        "look at /etc/resolv.conf as larder has it; a pod with hostNetwork needs dnsPolicy: ClusterFirstWithHostNet for names of the cluster",
    )
}

/// One registry's clock may be wrong itself. If every clock disagrees, this node's is wrong.
fn clock(ahead: &[i64]) -> Finding {
    let Some(least) = ahead
        .iter()
        .copied()
        .min_by_key(|ahead| ahead.unsigned_abs())
    else {
        return Finding::ok(Check::Clock, "no registry that was asked told the time");
    };
    if least.unsigned_abs() <= CLOCK {
        return Finding::ok(
            Check::Clock,
            format!("{} s from what registries say", least.unsigned_abs()),
        );
    }
    let way = if least > 0 { "ahead of" } else { "behind" };
    Finding::warning(
        Check::Clock,
        format!(
            "this node's clock is {} s {way} every registry that told the time ({})",
            least.unsigned_abs(),
            ahead.len()
        ),
        "start the node's time synchronisation (chronyc tracking, timedatectl): tokens and certificates fail otherwise",
    )
}

#[cfg(test)]
mod tests {
    use larder_shared::admin::Severity;

    use super::*;

    #[test]
    fn one_registry_that_agrees_is_enough_for_the_clock() {
        for (ahead, severity) in [
            (&[][..], Severity::Ok),
            (&[0, 300], Severity::Ok),
            (&[-20], Severity::Ok),
            (&[31], Severity::Warning),
            (&[-3600, -3601], Severity::Warning),
        ] {
            assert_eq!(clock(ahead).severity, severity, "{ahead:?}");
        }
    }
}
