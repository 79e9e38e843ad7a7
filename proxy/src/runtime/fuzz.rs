//! The watcher's file, with any content. See [`crate::fuzz`].

use std::collections::HashSet;

use super::{
    closure::{self, Manifests},
    file::{self, Found},
};

/// Without manifests, no digest is in use that the report does not name.
pub fn report(bytes: &[u8]) {
    let Found::Report(report) = file::parse(bytes) else {
        return;
    };
    let used = closure::in_use(&report, &Manifests::new(), |_| None);
    let mut named: HashSet<_> = report.users.iter().filter_map(|user| user.digest).collect();
    for image in &report.images {
        named.extend(&image.digests);
        named.extend(&image.layers);
        named.extend(
            [image.target]
                .iter()
                .chain(&image.manifest)
                .chain(&image.config),
        );
    }
    let by_name = |digest: &&larder_shared::Digest| {
        let text = digest.to_string();
        report.users.iter().any(|user| user.image.contains(&text))
    };
    assert!(used.difference(&named).all(|digest| by_name(&digest)));
    if report.users.is_empty() {
        assert!(used.is_empty());
    }
}
