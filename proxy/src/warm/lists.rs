//! How a repository's tags come to this node.

use std::sync::Arc;

use larder_shared::{
    RegistryName, Repository,
    warm::{ListBy, Listed},
};

use crate::{clock::unix_now, pull::Pull};

/// Asks registries for lists.
#[derive(Debug)]
pub struct Lists {
    pull: Arc<Pull>,
}

impl Lists {
    pub fn new(pull: Arc<Pull>) -> Self {
        Self { pull }
    }

    /// The tags of a repository, with the node's own right.
    pub async fn list(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        _by: ListBy,
    ) -> Result<Listed, String> {
        let listing = self.pull.tags_of(registry, repository).await?;
        Ok(Listed {
            listing,
            at: unix_now(),
            by: None,
        })
    }
}
