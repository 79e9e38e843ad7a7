//! The cluster: members, the certificate, versions, the object store.

use std::time::Duration;

use larder_shared::admin::{Check, Finding};

use super::WITHIN;
use crate::{
    clock::unix_now,
    cluster::{
        members::lookup,
        object_store::View,
        peers::PeerFailure,
        tls::{self, Validity},
    },
    config::{MemberFiles, Members, PeerTls},
    metrics::{LackingWhy, MemberState},
    pull::Pull,
};

/// A certificate should have been renewed this many days before its end, or a fifth of its lifetime if that is less.
const RENEWED_BEFORE: u64 = 14;

pub(super) async fn look(pull: &Pull) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(object_store(pull));
    let config = pull.config.load_full();
    let Some(peers) = &config.cluster.peers else {
        return findings;
    };
    if let Members::Dns { name, port } = &peers.members
        && let Err(why) = lookup(name, *port).await
    {
        findings.push(Finding::error(
            Check::Dns,
            format!("{name}, which lists the members, cannot be looked up: {why}"),
            "look whether the headless Service is there and the name is whole; with hostNetwork the pod needs dnsPolicy: ClusterFirstWithHostNet",
        ));
    }
    if let PeerTls::Mutual(files) = &peers.tls {
        findings.push(certificate(files).await);
    }
    findings.extend(members(pull).await);
    findings.extend(copies(pull));
    findings
}

/// Greets every member, this node too, at the address under which the others know it.
async fn members(pull: &Pull) -> Vec<Finding> {
    let list = pull.cluster.members.list();
    let own = list.iter().any(|member| member.own);
    let greetings = list.iter().map(|member| async move {
        let greeted = pull.cluster.peers.greet(member.address, WITHIN).await;
        (member, greeted)
    });
    let greeted = futures_util::future::join_all(greetings).await;
    let (mut silent, mut refusing, mut distrusted, mut versions) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (member, greeted) in &greeted {
        let address = member.address;
        let shown = if member.own {
            format!("{address} (this node)")
        } else {
            address.to_string()
        };
        if member.state == MemberState::Distrusted {
            distrusted.push(shown.clone());
        }
        match greeted {
            Ok(version) => versions.push((shown, version.clone())),
            Err(PeerFailure::Refused(_)) => refusing.push(shown),
            Err(failure) => silent.push(format!("{shown}: {failure}")),
        }
    }
    let mut findings = Vec::new();
    if !own {
        findings.push(Finding::warning(
            Check::Members,
            "this node is not among the members, so that it fetches for itself what others could share",
            "set `advertise` in [cluster], or LARDER_ADVERTISE, to the address under which the others know it (in a pod: its IP and the peer port)",
        ));
    }
    if !silent.is_empty() {
        findings.push(Finding::warning(
            Check::Members,
            format!(
                "{} of {} members do not answer: {}",
                silent.len(),
                list.len(),
                silent.join("; ")
            ),
            "look whether larder runs there, whether a NetworkPolicy or a firewall lets members reach the peer port, and at the certificates",
        ));
    }
    if !refusing.is_empty() {
        findings.push(Finding::warning(
            Check::Members,
            format!("these members refuse this node: {}", refusing.join(", ")),
            "look whether they have the same CA and name in [cluster] tls",
        ));
    }
    if !distrusted.is_empty() {
        findings.push(Finding::error(
            Check::Members,
            format!("these members gave wrong bytes and are not asked for a while: {}", distrusted.join(", ")),
            "run `larder verify` and `larder doctor` there: a disk may have rotted, or it may have been tampered with",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            Check::Members,
            format!("{} members, and all answer", list.len()),
        ));
    }
    findings.push(skew(&versions));
    findings
}

/// Whether enough members hold the blobs for which this node decides.
fn copies(pull: &Pull) -> Option<Finding> {
    let wanted = pull.copies.wanted();
    // A node outside of the list of members decides about no copies. The check of members reports that.
    if wanted < 2 || pull.cluster.members.view().own.is_none() {
        return None;
    }
    let lacking = pull.copies.lacking();
    Some(judge_copies(wanted, pull.copies.is_held_back(), &lacking))
}

fn judge_copies(wanted: usize, held_back: bool, lacking: &[(LackingWhy, usize)]) -> Finding {
    if held_back {
        return Finding::warning(
            Check::Copies,
            "more than a third of the members is missing, and no copies are made until they are back",
            "look at the members that do not answer; a list in [cluster] members must not name members that are gone for good",
        );
    }
    let of = |why| {
        lacking
            .iter()
            .filter(|(known, _)| *known == why)
            .map(|(_, n)| n)
            .sum::<usize>()
    };
    let (declined, members) = (of(LackingWhy::Declined), of(LackingWhy::Members));
    if declined > 0 {
        return Finding::warning(
            Check::Copies,
            format!(
                "fewer than {wanted} members hold {declined} blobs that are used, and no other member takes them"
            ),
            "make room on the members: larger disks, [store] max_size; or set a smaller [cluster] copies",
        );
    }
    if members > 0 {
        return Finding::warning(
            Check::Copies,
            format!(
                "fewer than {wanted} members hold {members} blobs that are used, and no other member lives"
            ),
            "start more members, or set a smaller [cluster] copies",
        );
    }
    Finding::ok(
        Check::Copies,
        format!(
            "{wanted} members hold what is used, or it is on its way, as far as this node decides"
        ),
    )
}

/// Members of different versions work together, but only for the time of a roll-out.
fn skew(versions: &[(String, Option<String>)]) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    let others: Vec<String> = versions
        .iter()
        .filter(|(_, version)| version.as_deref() != Some(ours))
        .map(|(member, version)| {
            let version = version.as_deref().unwrap_or("one that does not tell it");
            format!("{member} is of version {version}")
        })
        .collect();
    if others.is_empty() {
        return Finding::ok(
            Check::Version,
            format!("every member that answers is of version {ours}"),
        );
    }
    Finding::warning(
        Check::Version,
        format!("this node is of version {ours}; {}", others.join(", ")),
        "let the roll-out end (kubectl rollout status ds/larder), or look why those nodes keep another version",
    )
}

async fn certificate(files: &MemberFiles) -> Finding {
    let (read, place) = (files.clone(), files.cert.display().to_string());
    let validity = tokio::task::spawn_blocking(move || tls::validity(&read)).await;
    let fix = "renew it (cert-manager: look at the Certificate and its events); the files are read again by themselves";
    match validity {
        Ok(Ok(validity)) => expiry(&place, validity, unix_now(), fix),
        Ok(Err(error)) => Finding::error(Check::Certificate, error.to_string(), fix),
        Err(error) => Finding::error(Check::Certificate, error.to_string(), fix),
    }
}

/// Renewal is usually due after two thirds of the lifetime, so it has failed if less than a fifth is left.
fn expiry(place: &str, validity: Validity, now: u64, fix: &str) -> Finding {
    let left = validity.until.saturating_sub(now);
    let lifetime = validity.until.saturating_sub(validity.from);
    let days = |seconds: u64| seconds / 86_400;
    let text = match (days(left), left / 3600) {
        (0, hours) => format!("{hours} hours"),
        (days, _) => format!("{days} days"),
    };
    if now < validity.from || left == 0 {
        return Finding::error(
            Check::Certificate,
            format!("{place} is not valid now: members do not speak to this one"),
            fix,
        );
    }
    if left < (lifetime / 5).min(RENEWED_BEFORE * 86_400) {
        return Finding::warning(Check::Certificate, format!("{place} ends in {text}"), fix);
    }
    Finding::ok(Check::Certificate, format!("{place} is good for {text}"))
}

/// A write that failed once and succeeded later is no longer reported after this time.
const OF_LATE: Duration = Duration::from_mins(15);

fn object_store(pull: &Pull) -> Option<Finding> {
    let store = pull.cluster.store.as_ref()?;
    let view = store.view();
    let url = pull
        .config
        .load()
        .cluster
        .object_store
        .as_ref()
        .map(|named| named.url.clone())
        .unwrap_or_default();
    Some(judge_object_store(&url, &view))
}

fn judge_object_store(url: &str, view: &View) -> Finding {
    let last = view.last_error.as_deref().unwrap_or("no reason is known");
    let fix = "look at the bucket, its region and endpoint, and at the credentials; larder tries again by itself";
    let of_late = view.failed_ago.is_some_and(|ago| ago < OF_LATE);
    if let Some(resting) = view.resting {
        Finding::error(
            Check::ObjectStore,
            format!(
                "{url} fails and is left alone for {} s more: {last}",
                resting.as_secs().max(1)
            ),
            fix,
        )
    } else if view.dropped > 0 || of_late {
        Finding::warning(
            Check::ObjectStore,
            format!(
                "{url}: {} attempts to write failed and {} things were given up: {last}",
                view.failed, view.dropped
            ),
            fix,
        )
    } else {
        Finding::ok(
            Check::ObjectStore,
            format!("{url}: {} written, {} wait", view.written, view.queue),
        )
    }
}

#[cfg(test)]
mod tests {
    use larder_shared::admin::Severity;

    use super::*;

    #[test]
    fn a_write_that_succeeded_later_is_not_held_against_the_store_for_ever() {
        let minute = Duration::from_mins(1);
        for (failed, dropped, ago, severity) in [
            (0, 0, None, Severity::Ok),
            (3, 0, Some(minute), Severity::Warning),
            (3, 0, Some(minute * 20), Severity::Ok),
            (3, 1, Some(minute * 20), Severity::Warning),
        ] {
            let view = View {
                failed,
                dropped,
                failed_ago: ago,
                ..View::default()
            };
            let found = judge_object_store("file:///d", &view);
            assert_eq!(found.severity, severity, "{found:?}");
        }
    }

    #[test]
    fn what_lacks_copies_is_a_finding_unless_they_come_or_it_is_private() {
        use LackingWhy::{Coming, Declined, Members, Private};
        for (held_back, why, severity) in [
            (false, Coming, Severity::Ok),
            (false, Private, Severity::Ok),
            (false, Declined, Severity::Warning),
            (false, Members, Severity::Warning),
            (true, Coming, Severity::Warning),
        ] {
            let found = judge_copies(2, held_back, &[(why, 3)]);
            assert_eq!(found.severity, severity, "{found:?}");
        }
    }

    #[test]
    fn a_certificate_should_have_been_renewed_before_its_last_fifth() {
        const DAY: u64 = 86_400;
        for (lifetime, age, severity) in [
            (90, 10, Severity::Ok),
            (90, 60, Severity::Ok),
            (90, 80, Severity::Warning),
            (90, 90, Severity::Error),
            (3650, 3600, Severity::Ok),
            (3650, 3640, Severity::Warning),
            (1, 0, Severity::Ok),
        ] {
            let validity = Validity {
                from: DAY,
                until: DAY + lifetime * DAY,
            };
            let found = expiry("c", validity, DAY + age * DAY, "m");
            assert_eq!(found.severity, severity, "{age} of {lifetime} days");
        }
    }

    #[test]
    fn a_member_without_a_version_is_of_another_version() {
        let ours = Some(env!("CARGO_PKG_VERSION").to_owned());
        let member = |version: Option<String>| ("10.0.0.1:7422".to_owned(), version);
        assert_eq!(skew(&[member(ours)]).severity, Severity::Ok);
        assert_eq!(skew(&[member(None)]).severity, Severity::Warning);
        assert_eq!(
            skew(&[member(Some("0.0.1".into()))]).severity,
            Severity::Warning
        );
    }
}
