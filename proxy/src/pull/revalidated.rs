//! What was found out about tags, counted.

use std::sync::Arc;

use super::{Manifest, Pull, PullError};
use crate::{metrics::Revalidated, store::TagRecord, tags::Word, upstream::Failure};

impl Pull {
    /// The registry was asked what a tag points to, which is known as `record`.
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
            // The manifest itself will tell.
            Word::NoDigest => None,
        };
        if let Some(told) = told {
            self.metrics.access.revalidated(told);
        }
    }

    /// A tag's manifest was fetched without asking first what the tag points to.
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
