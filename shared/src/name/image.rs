//! Images as a person writes them.

use std::{fmt, str::FromStr};

use super::{NameError, Reference, RegistryName, Repository, Tag};
use crate::digest::Digest;

/// An image as a person writes it: `[registry/]repository[:tag][@digest]`, read by Docker's rules (no registry means
/// docker.io, a single component means `library/…`, no tag means `latest`, and a digest takes precedence over the tag).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageName {
    pub registry: RegistryName,
    pub repository: Repository,
    pub reference: Reference,
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (registry, path) = match rest.split_once('/') {
            Some((first, path)) if RegistryName::is_plausible(first) => (first.parse()?, path),
            _ => (RegistryName::docker_hub(), rest),
        };
        let (path, tag) = match path.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag.parse::<Tag>()?)),
            None => (path, None),
        };
        let repository = in_registry(&registry, path)?;
        let reference = match (digest, tag) {
            (Some(digest), _) => Reference::Digest(digest),
            (None, Some(tag)) => Reference::Tag(tag),
            (None, None) => Reference::Tag(Tag("latest".to_owned())),
        };
        Ok(Self {
            registry,
            repository,
            reference,
        })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.reference {
            Reference::Tag(_) => ':',
            Reference::Digest(_) => '@',
        };
        // Without a dot or a port, the registry would read as a part of the repository's name.
        let port = if RegistryName::is_plausible(self.registry.as_str()) {
            ""
        } else {
            ":443"
        };
        write!(
            f,
            "{}{port}/{}{mark}{}",
            self.registry, self.repository, self.reference
        )
    }
}

/// The repository that `path` names within `registry`: Docker Hub's official images are below `library/`.
pub fn in_registry(registry: &RegistryName, path: &str) -> Result<Repository, NameError> {
    if registry.is_docker_hub() && !path.contains('/') {
        format!("library/{path}").parse()
    } else {
        path.parse()
    }
}
