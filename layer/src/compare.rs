//! Whether an index from elsewhere describes the layer as the layer's own index does: a pure decision.

use crate::format::Span;
use crate::{Index, Refused};

/// The first thing in which an index differs from the layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Difference {
    #[error("the layer cannot have an index: {0}")]
    Refused(Refused),
    #[error("it is of a layer with another digest or length")]
    Layer,
    #[error("the tar of the layer has another diffID or length")]
    DiffId,
    #[error("it says something else of the layer's files")]
    Tree,
    #[error("it says something else of span {0}")]
    Span(usize),
}

/// Compares all but the windows, which may be compressed in several ways. With a wrong window, a span cannot be
/// decoded.
pub fn difference(theirs: &Index, built: Result<&Index, &Refused>) -> Option<Difference> {
    let ours = match built {
        Ok(ours) => ours,
        Err(refused) => return Some(Difference::Refused(*refused)),
    };
    let layer = |index: &Index| (index.layer(), index.layer_length(), index.compression());
    let tar = |index: &Index| (index.diff_id(), index.tar_length());
    if layer(theirs) != layer(ours) {
        return Some(Difference::Layer);
    }
    if tar(theirs) != tar(ours) {
        return Some(Difference::DiffId);
    }
    if theirs.tree() != ours.tree() || theirs.implied() != ours.implied() {
        return Some(Difference::Tree);
    }
    let count = theirs.spans().len().max(ours.spans().len());
    let span = |index: &Index, number: usize| index.spans().get(number).map(without_window);
    (0..count)
        .find(|number| span(theirs, *number) != span(ours, *number))
        .map(Difference::Span)
}

fn without_window(span: &Span) -> Span {
    Span {
        window_at: 0,
        window_length: 0,
        ..*span
    }
}
