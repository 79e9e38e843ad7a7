//! Indexes of layers, as far as members believe each other: proofs under the cluster's key.

use larder_layer::{Envelope, envelope::Proof};

use super::Pull;
use crate::sys;

/// What a proof in an envelope is about, so that it proves nothing else. docs/index-format.md has it.
const KIND: &str = "index of a layer, 1";

impl Pull {
    /// The proof that a member of this cluster made an index. `None`: the cluster has no key.
    pub fn sign_index(&self, envelope: &Envelope) -> Option<Proof> {
        self.key.prove(KIND, &envelope.signed())
    }

    /// Whether a member of this cluster made an index. Without a key nobody has.
    pub fn is_signed(&self, envelope: &Envelope) -> bool {
        let proof = envelope.proof.as_ref();
        proof.is_some_and(|proof| self.key.is_proof(KIND, &envelope.signed(), proof))
    }

    /// What this node calls itself as the maker of an index.
    pub fn index_maker(&self) -> String {
        let own = self.cluster.members.view().own_address();
        let own = own.map_or_else(|| "-".to_owned(), |own| own.to_string());
        format!("{own} {}", sys::net::own_name())
    }
}
