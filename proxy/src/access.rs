//! May this caller read this repository?
//!
//! Asked before any tier (promise P16). So far larder knows one kind of caller, the anonymous one: it may read what the
//! registry itself serves to anonymous clients. A verdict is the origin's own answer, remembered in the repository's
//! record, renewed when it is old, and outlives an outage: what was public stays served.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use larder_shared::{Range, RegistryName, Repository};

use crate::{
    coalesce::Coalesce,
    config::Config,
    store::RepositoryRecord,
    upstream::{Ask, Failure, Subject, Upstreams, Want},
};

/// What is remembered of a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The origin served it to an anonymous client not long ago.
    Public,
    /// It did, but longer ago than `access.ttl`.
    Aged,
    /// Nothing is known, or it was refused since.
    Unknown,
}

/// How long a proof may take before the registry counts as unreachable.
const PROOF_TIMEOUT: Duration = Duration::from_secs(2);

/// Verdicts over repositories.
#[derive(Debug)]
pub struct Access {
    config: Arc<ArcSwap<Config>>,
    upstreams: Arc<Upstreams>,
    proofs: Coalesce<(RegistryName, Repository, String), Result<(), Failure>>,
}

impl Access {
    pub fn new(config: Arc<ArcSwap<Config>>, upstreams: Arc<Upstreams>) -> Self {
        Self {
            config,
            upstreams,
            proofs: Coalesce::default(),
        }
    }

    pub fn standing(&self, record: &RepositoryRecord) -> Standing {
        match record.public_since() {
            Some(age) if age < self.config.load().access.ttl => Standing::Public,
            Some(_) => Standing::Aged,
            None => Standing::Unknown,
        }
    }

    /// Asks the origin whether it serves `subject` of the repository to an anonymous client, and remembers the answer.
    /// For blobs one byte is asked for, since public ECR refuses a HEAD. An aged verdict survives an unreachable origin.
    pub async fn prove(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        record: &Arc<RepositoryRecord>,
        subject: Subject,
    ) -> Result<(), Failure> {
        let key = (registry.clone(), repository.clone(), format!("{subject:?}"));
        let want = match subject {
            Subject::Blob(_) => Want::Part(Range::new(0, 1)),
            _ => Want::Head,
        };
        let mut ask = Ask::new(registry, repository, subject, want);
        if self.standing(record) == Standing::Aged {
            ask = ask.optional();
        }
        let upstreams = Arc::clone(&self.upstreams);
        let place = registry.to_string();
        let question = async move {
            match tokio::time::timeout(PROOF_TIMEOUT, upstreams.ask(&ask)).await {
                Ok(Ok(_) | Err(Failure::Unsatisfiable { .. })) => Ok(()),
                Ok(Err(failure)) => Err(failure),
                Err(_) => Err(Failure::Unreachable {
                    place,
                    why: format!("no answer within {PROOF_TIMEOUT:?}"),
                }),
            }
        };
        let proven = self.proofs.run(key, question).await.unwrap_or_else(|| {
            Err(Failure::Unreachable {
                place: registry.to_string(),
                why: "the question was lost".to_owned(),
            })
        });
        match &proven {
            Ok(()) => record.set_public(),
            Err(failure) => Self::noted(record, failure),
        }
        match proven {
            Err(Failure::Unreachable { .. } | Failure::Limited { .. })
                if self.standing(record) == Standing::Aged =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Takes note of what an anonymous request met.
    pub fn noted(record: &RepositoryRecord, failure: &Failure) {
        if matches!(failure, Failure::Refused(_)) {
            record.set_not_public();
        }
    }
}
