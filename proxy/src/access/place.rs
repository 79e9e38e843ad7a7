//! A place: a registry and a repository, together with the caller that asks for it.

use std::{sync::Arc, time::Duration};

use larder_shared::{RegistryName, Repository};

use crate::{
    identity::{Fingerprint, Identity},
    store::RepositoryRecord,
    trace::Trace,
    upstream::{Ask, Subject, Want},
};

/// A registry and a repository, together with the caller that asks for it, and the record of the repository.
#[derive(Clone, Debug)]
pub struct Place {
    pub registry: RegistryName,
    pub repository: Repository,
    pub record: Arc<RepositoryRecord>,
    pub identity: Identity,
    /// The request that this place belongs to.
    pub trace: Trace,
    /// How long upstream may take to answer a question, if less than usual.
    pub patience: Option<Duration>,
}

impl Place {
    /// A question about this repository by this caller.
    pub fn ask(&self, subject: Subject, want: Want) -> Ask {
        let ask = Ask::new(&self.registry, &self.repository, subject, want)
            .by(self.identity.clone())
            .traced(&self.trace);
        Ask {
            within: self.patience,
            ..ask
        }
    }

    /// The time limit of a question that has `usual` without impatience.
    pub fn within(&self, usual: Duration) -> Duration {
        self.patience.map_or(usual, |patience| patience.min(usual))
    }

    /// The same place, with less patience.
    #[must_use]
    pub fn hurried(&self, patience: Duration) -> Self {
        Self {
            patience: Some(self.within(patience)),
            ..self.clone()
        }
    }

    /// The key of a right: the repository and the caller.
    pub(super) fn key(&self) -> Key {
        self.key_of(&self.identity)
    }

    pub(super) fn key_of(&self, identity: &Identity) -> Key {
        let fingerprint = identity.fingerprint();
        (self.registry.clone(), self.repository.clone(), fingerprint)
    }
}

/// A repository, and the caller that asks for it.
pub(super) type Key = (RegistryName, Repository, Fingerprint);
