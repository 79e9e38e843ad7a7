//! Whether this node can mount layers that are not whole here yet, judged by what the kernel and the holder report.

use std::path::PathBuf;

use larder_shared::admin::Finding;

use super::{Version, error, ok, version};

/// From this version on, the kernel can resend the FUSE requests that a process had read when it died.
const RESENDS: Version = (6, 9);

/// What the checks are decided by.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The kernel's release.
    pub(super) kernel: Option<String>,
    /// Where layers can be mounted, or why they cannot.
    pub(super) mounts: Option<Result<PathBuf, String>>,
    /// The names and values, in seconds, of the limits after which the kernel aborts a FUSE request.
    pub(super) limits: Vec<(&'static str, u64)>,
}

pub(super) fn look(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &facts.mounts {
        Some(Ok(at)) => findings.push(ok(format!(
            "layers can be mounted before they are here, at {}",
            at.display()
        ))),
        Some(Err(why)) => findings.push(error(
            format!("no layer can be mounted before it is here, so images are pulled as ever: {why}"),
            "run `larder hold` on the node (`larder install --hold` prints a unit for systemd), and name its socket in [streaming] holder; docs/holder.md",
        )),
        // The directory of ready files is not open yet. Another finding reports that.
        None => {}
    }
    let release = facts.kernel.as_deref().unwrap_or_default();
    if version(release).is_some_and(|version| version < RESENDS) {
        findings.push(error(
            format!("the kernel is {release}: before 6.9, containers that read a layer which is not here hang when larder is restarted"),
            "a kernel of 6.12 or newer, or [streaming] mode = \"ready\"",
        ));
    }
    for (name, seconds) in &facts.limits {
        if *seconds > 0 {
            findings.push(error(
                format!("{name} is {seconds} s: the kernel takes all layers away that are mounted and not here when one read waits longer"),
                "sysctl -w fs.fuse.default_request_timeout=0 fs.fuse.max_request_timeout=0, and the same in /etc/sysctl.d",
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use larder_shared::admin::Severity;

    use super::*;

    #[test]
    fn each_thing_that_is_missing_is_a_finding_of_its_own() {
        let right = Facts {
            kernel: Some("6.12.48".to_owned()),
            mounts: Some(Ok("/run/larder-hold/files".into())),
            limits: vec![("fs.fuse.default_request_timeout", 0)],
        };
        let wrong = |facts: &Facts| -> Vec<String> {
            let findings = look(facts).into_iter();
            let wrong = findings.filter(|one| one.severity == Severity::Error);
            wrong.map(|one| one.found).collect()
        };
        assert_eq!(wrong(&right), [] as [&str; 0]);
        for (facts, words) in [
            (
                Facts {
                    kernel: Some("6.8.0-31-generic".to_owned()),
                    ..right.clone()
                },
                "before 6.9",
            ),
            (
                Facts {
                    mounts: Some(Err("no such socket".to_owned())),
                    ..right.clone()
                },
                "no such socket",
            ),
            (
                Facts {
                    limits: vec![("fs.fuse.max_request_timeout", 30)],
                    ..right
                },
                "fs.fuse.max_request_timeout is 30 s",
            ),
        ] {
            let found = wrong(&facts);
            assert!(
                found.len() == 1 && found[0].contains(words),
                "{words}: {found:?}"
            );
        }
    }
}
