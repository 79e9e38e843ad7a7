//! Which callers of this node may read some content, whatever credential they show. This is for content that leaves
//! larder without a request.

use larder_shared::{Digest, Reference, RegistryName, Repository};

use super::Pull;
use crate::{
    access::{Place, Verdict},
    config::Sharing,
};

/// The callers that may read it, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OpenTo {
    /// Everyone: the registry last served it to an anonymous client.
    Everyone,
    /// Every client of this node: the node's own credentials open it, and the operator shares them.
    Node,
    /// Some callers are known not to have the right.
    Some,
    /// Nothing is known.
    Unknown,
}

impl Pull {
    /// Which callers may read all of `subjects` in a repository, as far as is known without asking its registry.
    pub async fn open_to(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        subjects: &[Digest],
    ) -> OpenTo {
        let known = self.known_place(registry.clone(), repository.clone());
        let Ok(place) = known.await else {
            return OpenTo::Some;
        };
        let public = place.record.public_since().is_some();
        if public && self.reads_all(&place, subjects) == Some(true) {
            return OpenTo::Everyone;
        }
        let upstream = self.config.load().upstream(registry.as_str());
        if upstream.access == Sharing::Shared && upstream.credentials.is_some() {
            let key = (registry.clone(), repository.clone());
            let identity = match self.credentials.known_as(&upstream) {
                Some(known_as) => Some(self.key.known(&known_as)),
                None => self.shared.get(&key).await,
            };
            let shared = identity.map(|identity| Place { identity, ..place });
            return match shared.and_then(|shared| self.reads_all(&shared, subjects)) {
                Some(true) => OpenTo::Node,
                Some(false) => OpenTo::Some,
                None => OpenTo::Unknown,
            };
        }
        if public || place.record.refused_since().is_some() {
            OpenTo::Some
        } else {
            OpenTo::Unknown
        }
    }

    /// Whether this caller may read all of `subjects`, also in an outage. `None` if its registry has not said.
    fn reads_all(&self, place: &Place, subjects: &[Digest]) -> Option<bool> {
        let mut all = Some(true);
        for subject in subjects {
            let subject = Reference::Digest(*subject);
            match self.access.verdict_on(place, Some(&subject)) {
                Verdict::Allowed | Verdict::Ask { bridged: true } => {}
                Verdict::Ask { bridged: false } => all = None,
                Verdict::Refused => return Some(false),
            }
        }
        all
    }
}
