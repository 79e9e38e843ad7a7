//! The other members of the cluster as larders that ask the same registries.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use larder_shared::Digest;

use crate::{
    cluster::{Cluster, probes::Turn},
    upstream::{Others, Say},
};

#[derive(Debug)]
pub(super) struct ProbeTurns(pub(super) Arc<Cluster>);

impl Others for ProbeTurns {
    fn may_probe(&self, silence: Digest, silenced: Duration) -> BoxFuture<'_, Say> {
        Box::pin(async move {
            match self.0.may_probe(&silence, silenced).await {
                Turn::Go => Say::Go,
                Turn::Wait => Say::Wait,
                Turn::Over => Say::Over,
            }
        })
    }

    fn answered(&self, silence: Digest) {
        if self.0.has_others() {
            tokio::spawn(Arc::clone(&self.0).probed(silence));
        }
    }
}
