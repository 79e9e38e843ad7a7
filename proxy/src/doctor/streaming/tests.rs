use larder_shared::{
    admin::Severity,
    runtime::{Software, VERSION},
};

use super::*;

fn plugin(kind: &str, id: &str, trouble: Option<&str>) -> Plugin {
    Plugin {
        kind: kind.to_owned(),
        id: id.to_owned(),
        trouble: trouble.map(str::to_owned),
    }
}

fn report() -> Report {
    Report {
        version: VERSION,
        at: 1,
        boot: None,
        runtime: Software {
            name: "containerd".to_owned(),
            version: "v2.4.2".to_owned(),
        },
        snapshotter: Some("erofs".to_owned()),
        images: Vec::new(),
        users: Vec::new(),
        snapshots: Vec::new(),
        plugins: vec![
            plugin(SNAPSHOTTER, "erofs", None),
            plugin(DIFFER, "walking", None),
            plugin(
                DIFFER,
                "erofs",
                Some("mkfs.erofs does not support tar mode"),
            ),
            plugin(TRANSFER, "local", None),
        ],
        content: Vec::new(),
    }
}

/// The findings that are not ok: severity, and both sentences as one text.
fn wrong(kernel: &str, erofs: bool, report: Option<&Report>) -> Vec<(Severity, String)> {
    let facts = Facts {
        kernel: Some(kernel.to_owned()),
        erofs: Some(erofs),
        report,
    };
    let findings = prerequisites(&facts).into_iter();
    let wrong = findings.filter(|one| one.severity != Severity::Ok);
    wrong
        .map(|one| (one.severity, format!("{} | {}", one.found, one.fix)))
        .collect()
}

/// The findings, and the severity and a part of the text that the one finding has to have.
type Case = (Vec<(Severity, String)>, Severity, &'static str);

#[test]
fn each_thing_that_is_missing_is_a_finding_of_its_own() {
    const NEW: &str = "6.12.48+deb13-amd64";
    assert_eq!(wrong(NEW, true, Some(&report())), []);
    let broken = |change: &dyn Fn(&mut Report)| {
        let mut report = report();
        change(&mut report);
        wrong(NEW, true, Some(&report))
    };
    let incompatible = "enable_fsverity is incompatible with layer_content_caches; use dm-verity";
    let no_differ = "failed to get instance for diff plugin \"erofs\"";
    let no_mkfs = "failed to check mkfs.erofs availability: not found";
    let set = |kind: &'static str, id: &'static str, trouble: &'static str| {
        move |report: &mut Report| {
            report
                .plugins
                .retain(|one| one.kind != kind || one.id != id);
            report.plugins.push(plugin(kind, id, Some(trouble)));
        }
    };
    let cases: [Case; 11] = [
        (
            wrong("6.1.0-18-amd64", true, Some(&report())),
            Severity::Error,
            "6.1.0-18-amd64",
        ),
        (
            wrong("6.8.0-45-generic", true, Some(&report())),
            Severity::Warning,
            "loop device",
        ),
        (
            wrong(NEW, false, Some(&report())),
            Severity::Error,
            "modprobe erofs",
        ),
        (wrong(NEW, true, None), Severity::Warning, "larder runtime"),
        (
            broken(&|report| report.runtime.version = "2.3.9".to_owned()),
            Severity::Error,
            "2.4.2 or newer",
        ),
        (
            broken(&|report| report.runtime.name = "cri-o".to_owned()),
            Severity::Error,
            "cri-o",
        ),
        (
            broken(&set(SNAPSHOTTER, "erofs", incompatible)),
            Severity::Error,
            "remove enable_fsverity",
        ),
        (
            broken(&|report| report.plugins.retain(|one| one.kind != SNAPSHOTTER)),
            Severity::Error,
            "larder install --streaming",
        ),
        (
            broken(&set(TRANSFER, "local", no_differ)),
            Severity::Error,
            "\"walking\"",
        ),
        (
            broken(&set(DIFFER, "erofs", no_mkfs)),
            Severity::Error,
            "install erofs-utils",
        ),
        (
            broken(&|report| report.snapshotter = Some("overlayfs".to_owned())),
            Severity::Error,
            "snapshotter overlayfs",
        ),
    ];
    for (found, severity, words) in cases {
        assert_eq!(found.len(), 1, "{words}: {found:?}");
        assert_eq!(found[0].0, severity, "{words}");
        assert!(found[0].1.contains(words), "{words}: {}", found[0].1);
    }
}

#[test]
fn a_wrong_index_is_a_finding_that_names_its_maker() {
    let wrong = WrongIndex {
        layer: larder_shared::Digest::sha256(b"layer"),
        seal: String::new(),
        maker: "10.0.0.7:7422 node-7".to_owned(),
        why: "it says something else of span 3".to_owned(),
        at: 1,
    };
    for (joined, key, wrong, expected) in [
        (false, false, &[][..], vec![Severity::Ok]),
        (true, true, &[], vec![Severity::Ok]),
        (true, false, &[], vec![Severity::Warning]),
        (
            true,
            true,
            std::slice::from_ref(&wrong),
            vec![Severity::Error],
        ),
    ] {
        let found = indexes(joined, key, wrong);
        let severities: Vec<_> = found.iter().map(|one| one.severity).collect();
        assert_eq!(severities, expected, "{found:?}");
    }
    let found = indexes(true, true, &[wrong]);
    assert!(found[0].found.contains("10.0.0.7:7422 node-7"));
}

#[test]
fn what_is_not_known_is_no_finding() {
    let mut report = report();
    report.snapshotter = None;
    assert_eq!(wrong("", true, Some(&report)), []);
    assert!(has_erofs("nodev\tproc\n\text4\n\terofs\n") && !has_erofs("nodev\terofsx\n"));
    for (text, wanted) in [
        ("v2.4.0-beta.0", Some((2, 4))),
        ("1.7.28~ds1", Some((1, 7))),
        ("2.4", Some((2, 4))),
        ("2", None),
        ("v", None),
    ] {
        assert_eq!(version(text), wanted, "{text}");
    }
}
