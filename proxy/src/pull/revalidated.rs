//! Counts what checks of tags found out.

use std::sync::Arc;

use super::{Manifest, Pull, PullError};
use crate::{metrics::Revalidated, store::TagRecord, tags::Word, upstream::Failure};

impl Pull {
    /// Counts the registry's answer about a tag. `record`: what was known of the tag before.
    pub(super) fn count_word(&self, record: Option<&TagRecord>, word: &Word) {
        let told = match word {
            Word::Descriptor(descriptor) => {
                let same = record
                    .as_ref()
                    .is_some_and(|r| r.digest == descriptor.digest);
                Some(if same {
                    Revalidated::Unchanged
                } else {
                    Revalidated::Changed
                })
            }
            Word::Failed(failure) => Some(found_out(failure)),
            // The manifest that is fetched next will tell.
            Word::NoDigest => None,
        };
        if let Some(told) = told {
            self.metrics.access.revalidated(told);
        }
    }

    /// Counts the fetch of a tag's manifest where no question about the tag came first.
    pub(super) fn count_fetched(
        &self,
        record: Option<&TagRecord>,
        fetched: &Result<Arc<Manifest>, PullError>,
    ) {
        let outcome = match fetched {
            Ok(manifest) if record.is_some_and(|r| r.digest == manifest.digest) => {
                Revalidated::Unchanged
            }
            Ok(_) => Revalidated::Changed,
            Err(PullError::Upstream(failure)) => found_out(failure),
            Err(_) => Revalidated::Invalid,
        };
        self.metrics.access.revalidated(outcome);
    }
}

/// What a failure says about a tag.
fn found_out(failure: &Failure) -> Revalidated {
    match failure {
        Failure::NotFound(_) => Revalidated::NotFound,
        Failure::Refused(_) => Revalidated::Refused,
        Failure::Limited { .. } => Revalidated::Limited,
        Failure::Unreachable { .. } => Revalidated::Unreachable,
        Failure::Forbidden(_) | Failure::Invalid { .. } | Failure::Unsatisfiable { .. } => {
            Revalidated::Invalid
        }
    }
}
