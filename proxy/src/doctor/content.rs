//! The container runtime's content store, which larder serves from without a copy.

use larder_shared::admin::{Check, Finding};

use crate::store::AdoptedView;

/// What is wrong with the content store. No finding if the runtime lists no content.
pub(super) fn look(content: &AdoptedView) -> Option<Finding> {
    let dir = content.dir.as_ref()?.display();
    let listed = [
        content.sound,
        content.waiting,
        content.gone,
        content.wrong,
        content.unreadable,
    ];
    let listed: u64 = listed.iter().map(|sum| sum.blobs).sum();
    if listed == 0 {
        return None;
    }
    let warning = |found: String, mend: &str| Some(Finding::warning(Check::Content, found, mend));
    if content.hangs {
        return warning(
            format!("{dir} does not answer, and nothing of it is served until it does"),
            "look at the disk and at the kernel's log (dmesg)",
        );
    }
    if content.unreadable.blobs > 0 {
        return warning(
            format!(
                "{} of the {listed} blobs that the container runtime lists in {dir} cannot be read, so larder fetches its own copies",
                content.unreadable.blobs
            ),
            "run the daemon as the owner of the files, which is uid 0 (it needs no capability); or turn this off: [runtime] content = \"off\"",
        );
    }
    if content.gone.blobs == listed {
        return warning(
            format!("none of the {listed} blobs that the container runtime lists is in {dir}"),
            "name containerd's content store in [runtime] content, and mount it into the pod, read-only; or turn this off: content = \"off\"",
        );
    }
    if content.wrong.blobs > 0 {
        return warning(
            format!(
                "{} of the {listed} blobs in {dir} are not what their names say; larder does not serve them",
                content.wrong.blobs
            ),
            "look at the disk; remove these images from the runtime (`crictl rmi`) and pull them again",
        );
    }
    Some(Finding::ok(
        Check::Content,
        format!(
            "{} of the {listed} blobs in {dir} are hashed and can be served without a copy, {} bytes",
            content.sound.blobs, content.sound.bytes
        ),
    ))
}

#[cfg(test)]
mod tests {
    use larder_shared::admin::Severity;

    use super::*;
    use crate::store::Sum;

    #[test]
    fn what_cannot_be_served_is_named() {
        let some = Sum { blobs: 3, bytes: 9 };
        let none = Sum::default();
        let view = |sound, waiting, gone, wrong, unreadable, hangs| AdoptedView {
            dir: Some("/c/blobs".into()),
            sound,
            waiting,
            gone,
            wrong,
            unreadable,
            hangs,
        };
        for (view, wanted) in [
            (view(none, none, none, none, none, false), None),
            (
                view(some, some, some, none, none, false),
                Some(Severity::Ok),
            ),
            (
                view(some, none, none, none, none, true),
                Some(Severity::Warning),
            ),
            (
                view(some, none, none, none, some, false),
                Some(Severity::Warning),
            ),
            (
                view(none, none, some, none, none, false),
                Some(Severity::Warning),
            ),
            (
                view(some, none, none, some, none, false),
                Some(Severity::Warning),
            ),
            (AdoptedView::default(), None),
        ] {
            let found = look(&view).map(|finding| finding.severity);
            assert_eq!(found, wanted, "{view:?}");
        }
    }
}
