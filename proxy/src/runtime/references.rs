//! Which ready files of layers the runtime's snapshots refer to. Pure.
//!
//! containerd's erofs snapshotter takes a file from `layer_content_caches`, records its path as a label of the
//! snapshot, and looks at this path at each mount. Any label whose value ends like such a path counts: one reference
//! too many keeps a file, one too few would break containers.

use std::collections::HashMap;

use larder_shared::{Algorithm, Digest, runtime::Report};

/// The end of a ready file's name.
const END: &str = ".erofs";

/// The first containerd that is known to record the path in the snapshot's labels. Earlier ones link to the file from
/// the snapshot's directory, which no list of snapshots shows.
const FIRST: (u64, u64, u64) = (2, 4, 2);

/// How many snapshots refer to the ready file of each diffID. `None` if the report cannot tell.
pub fn references(report: &Report) -> Option<HashMap<Digest, u64>> {
    if !tells(report) {
        return None;
    }
    let mut found: HashMap<Digest, u64> = HashMap::new();
    for snapshot in &report.snapshots {
        let mut named: Vec<Digest> = snapshot.labels.values().filter_map(|v| of(v)).collect();
        named.sort_unstable();
        named.dedup();
        for diff_id in named {
            *found.entry(diff_id).or_default() += 1;
        }
    }
    Some(found)
}

/// Whether the runtime's snapshots tell which files they refer to.
pub fn tells(report: &Report) -> bool {
    report.runtime.name == "containerd"
        && version(&report.runtime.version).is_some_and(|version| version >= FIRST)
}

/// The first three numbers of `2.4.2`, `v2.4.2-1`, `2.5.0+k3s1`. A pre-release such as `2.4.2-rc.0` counts as the
/// release.
fn version(text: &str) -> Option<(u64, u64, u64)> {
    let text = text.trim_start_matches('v');
    let mut numbers = text
        .split(['.', '-', '+', '~'])
        .map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

/// The diffID of `/any/where/sha256/<xx>/<hex>.erofs`.
fn of(path: &str) -> Option<Digest> {
    let mut parts = path.rsplit('/');
    let hex = parts.next()?.strip_suffix(END)?;
    let (shard, algorithm) = (parts.next()?, parts.next()?);
    let digest = Digest::from_hex(Algorithm::Sha256, hex).ok()?;
    (algorithm == Algorithm::Sha256.as_str() && hex.starts_with(shard) && shard.len() == 2)
        .then_some(digest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(name: &str, version: &str, values: &[&[&str]]) -> Report {
        let snapshots = values.iter().map(|values| {
            let labels = values.iter().enumerate();
            let labels: HashMap<String, &str> =
                labels.map(|(n, value)| (n.to_string(), *value)).collect();
            json!({ "namespace": "k8s.io", "snapshotter": "erofs", "name": "a", "labels": labels })
        });
        let report = json!({
            "version": 1, "at": 1, "runtime": { "name": name, "version": version },
            "images": [], "users": [], "snapshots": snapshots.collect::<Vec<_>>(),
        });
        serde_json::from_value(report).unwrap()
    }

    #[test]
    fn a_label_that_ends_like_the_path_of_a_ready_file_refers_to_it() {
        let digest = Digest::sha256(b"layer");
        let hex = digest.hex();
        let path = format!("/any/where/sha256/{}/{hex}.erofs", &hex[..2]);
        let other = format!("/any/where/sha256/zz/{hex}.erofs");
        let values: &[&[&str]] = &[
            &["cache", &path],
            &[&path, &path],
            &[&other, "layer.erofs", "sha256/ab/cd.erofs", ""],
        ];
        let found = references(&report("containerd", "v2.4.2", values));
        assert_eq!(found, Some(HashMap::from([(digest, 2)])));
    }

    #[test]
    fn only_a_runtime_that_records_the_path_tells() {
        for (name, version, expected) in [
            ("containerd", "v2.4.2", true),
            ("containerd", "2.4.2", true),
            ("containerd", "2.5.0-rc.1", true),
            ("containerd", "v2.10.0+k3s1", true),
            ("containerd", "3.0.0", true),
            ("containerd", "2.4.1", false),
            ("containerd", "v2.4.0-beta.0", false),
            ("containerd", "1.7.29", false),
            ("containerd", "2.4", false),
            ("containerd", "unknown", false),
            ("cri-o", "2.4.2", false),
        ] {
            let report = report(name, version, &[]);
            assert_eq!(references(&report).is_some(), expected, "{name} {version}");
        }
    }
}
