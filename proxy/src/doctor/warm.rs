//! Warm sets: whether nodes can belong to them, and whether their images arrive.

use larder_shared::{
    admin::{Check, Finding},
    warm::{ImageState, SetStatus},
};

use crate::{pull::Pull, warm::Warm};

/// What this node knows of its own labels.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Labels {
    Known,
    /// The configuration has neither labels nor a file of labels.
    None,
    /// The file cannot be read.
    Unread(String),
}

/// A finding for each set; empty if no set is configured.
pub(super) async fn look(pull: &Pull, warm: &Warm) -> Vec<Finding> {
    let config = pull.config.load_full();
    let labels = match warm.label_trouble() {
        Some(why) => Labels::Unread(why),
        None if config.warm.labels.is_empty() && config.warm.labels_file.is_none() => Labels::None,
        None => Labels::Known,
    };
    let sets = warm.names().into_iter();
    let sets = sets.map(|name| async move { warm.cluster_status(&name).await });
    let sets = futures_util::future::join_all(sets).await;
    let found = sets.iter().flatten().map(|set| judge(set, &labels));
    found.collect()
}

fn judge(set: &SetStatus, labels: &Labels) -> Finding {
    let name = &set.name;
    let warning = |found: String, fix: &str| Finding::warning(Check::Warm, found, fix);
    if !set.labels.is_empty() {
        let wanted = words(set);
        match labels {
            Labels::Unread(why) => {
                return warning(
                    format!(
                        "set {name} is for nodes with {wanted}, and this node's labels cannot be read: {why}"
                    ),
                    "look at what writes [warm] labels_file; with the chart's warm.nodeLabels, at the log of the pod's container \
                     node-labels, and delete the pod once the API server answers it",
                );
            }
            Labels::None => {
                return warning(
                    format!(
                        "set {name} is for nodes with {wanted}, and larder knows no labels of this node"
                    ),
                    "set [warm] labels or labels_file; with the chart, warm.nodeLabels=true",
                );
            }
            Labels::Known => {}
        }
        let silent = set.nodes.iter().skip(1);
        let all_answer = silent.clone().all(|node| node.error.is_none());
        if all_answer && !set.nodes.iter().any(|node| node.matches) {
            let nodes = set.nodes.len();
            return warning(
                format!(
                    "no node has {wanted}, of {nodes} that answer, so no node fetches the images of set {name}"
                ),
                "correct `nodes` of the set, or the labels; kubectl get nodes --show-labels",
            );
        }
    }
    if !set.matches {
        return Finding::ok(Check::Warm, format!("set {name} is for other nodes"));
    }
    let mut images = set.images.iter();
    if let Some(failed) = images.find(|image| image.state == ImageState::Failed) {
        let why = failed.error.as_deref().unwrap_or("no reason given");
        return warning(
            format!("set {name}: {} does not come: {why}", failed.image),
            "correct what this names; larder tries again at each refresh. larder warm NAME has all images",
        );
    }
    let no_room = set.images.iter();
    let no_room = no_room.filter(|image| image.state == ImageState::NoRoom);
    match no_room.count() {
        0 => {}
        count => {
            return warning(
                format!(
                    "set {name}: there is no room for {count} of its {} images",
                    set.images.len()
                ),
                "raise [warm] max_size or [store] max_size, or choose fewer images",
            );
        }
    }
    if let Some(source) = set.sources.iter().find(|source| source.error.is_some()) {
        let why = source.error.as_deref().unwrap_or_default();
        return warning(
            format!("set {name}: {}: {why}", source.source),
            "what was known before stays in use; docs/lists.md has the rights that a list needs",
        );
    }
    let here = set.images.iter();
    let here = here.filter(|image| image.state == ImageState::Here).count();
    Finding::ok(
        Check::Warm,
        format!("set {name}: {here} of {} images are here", set.images.len()),
    )
}

/// `pool=labs, zone=a|b`
fn words(set: &SetStatus) -> String {
    let labels = set.labels.iter();
    let labels = labels.map(|(key, value)| format!("{key}={value}"));
    labels.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use larder_shared::{
        admin::Severity,
        warm::{ImageStatus, NodeStatus, SourceStatus},
    };

    use super::*;

    fn node(matches: bool, error: Option<&str>) -> NodeStatus {
        NodeStatus {
            name: "this node".to_owned(),
            matches,
            missing: None,
            error: error.map(str::to_owned),
        }
    }

    fn image(state: ImageState) -> ImageStatus {
        ImageStatus {
            image: "r.io/a:1".to_owned(),
            digest: String::new(),
            tags: Vec::new(),
            state,
            bytes: None,
            present_bytes: None,
            why: String::new(),
            error: None,
        }
    }

    fn set(labels: &[(&str, &str)], nodes: Vec<NodeStatus>, states: &[ImageState]) -> SetStatus {
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        SetStatus {
            name: "labs".to_owned(),
            labels: labels.collect(),
            matches: nodes[0].matches,
            nodes,
            images: states.iter().map(|state| image(*state)).collect(),
            ..SetStatus::default()
        }
    }

    #[test]
    fn each_reason_why_images_do_not_come_is_found() {
        use ImageState::{Coming, Failed, Here, NoRoom};
        let pool: &[(&str, &str)] = &[("pool", "labs")];
        let unread = Labels::Unread("/labels: gone".to_owned());
        let yes = || vec![node(true, None)];
        let no = || vec![node(false, None), node(false, None)];
        let silent = || vec![node(false, None), node(false, Some("gone"))];
        let elsewhere = || vec![node(false, None), node(true, None)];
        let mut old = set(&[], yes(), &[Here]);
        old.sources = vec![SourceStatus {
            source: "r.io/a".to_owned(),
            listed_at: None,
            listed_by: None,
            error: Some("the registry limits requests".to_owned()),
            failing_since: None,
            tags: Vec::new(),
        }];
        let rows = [
            (
                set(&[], yes(), &[Here, Coming]),
                &Labels::None,
                "1 of 2 images",
            ),
            (
                set(pool, no(), &[]),
                &unread,
                "cannot be read: /labels: gone",
            ),
            (set(pool, no(), &[]), &Labels::None, "knows no labels"),
            (
                set(pool, no(), &[]),
                &Labels::Known,
                "no node has pool=labs, of 2",
            ),
            // A node that does not answer may belong to the set.
            (set(pool, silent(), &[]), &Labels::Known, "for other nodes"),
            (
                set(pool, elsewhere(), &[]),
                &Labels::Known,
                "for other nodes",
            ),
            (
                set(pool, yes(), &[NoRoom, Here]),
                &Labels::Known,
                "no room for 1 of its 2",
            ),
            (
                set(pool, yes(), &[NoRoom, Failed]),
                &Labels::Known,
                "r.io/a:1 does not come",
            ),
            (old, &Labels::None, "r.io/a: the registry limits requests"),
        ];
        for (set, labels, words) in rows {
            let found = judge(&set, labels);
            assert!(found.found.contains(words), "{words}: {found:?}");
            let well = words.contains("images") || words.contains("other nodes");
            assert_eq!(found.severity == Severity::Ok, well, "{found:?}");
            assert_eq!(found.fix.is_empty(), well, "{found:?}");
        }
    }
}
