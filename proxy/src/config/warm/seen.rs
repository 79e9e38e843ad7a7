//! Key `seen` of a source: images that the members' container runtimes pulled or use.

use std::time::Duration;

use super::number;
use crate::config::error::ConfigError;
use crate::config::name::canonical_pattern;
use crate::config::said::Section;
use crate::config::value::{self, Pattern};

/// The most nodes that `on` may ask for.
const MOST_NODES: usize = 10_000;

/// Images that the runtimes have, chosen by when they were pulled and on how many nodes they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromSeen {
    /// Pulled within this time, or in use.
    pub within: Duration,
    /// On at least so many nodes.
    pub on: usize,
    /// Patterns over REGISTRY/NAME; if empty, every image.
    pub only: Vec<Pattern>,
    pub skip: Vec<Pattern>,
}

impl FromSeen {
    /// Whether images of this REGISTRY/NAME are chosen.
    pub fn wants(&self, repository: &str) -> bool {
        let fits = |patterns: &[Pattern]| patterns.iter().any(|one| one.matches(repository));
        (self.only.is_empty() || fits(&self.only)) && !fits(&self.skip)
    }
}

pub(super) fn from_seen(said: &mut Section<'_, '_>) -> Result<FromSeen, ConfigError> {
    let within = said.text("seen", within)?;
    let on = said.quantity("on", |text| number(text, MOST_NODES))?;
    Ok(FromSeen {
        within: said.needed("seen", within)?,
        on: on.unwrap_or(1),
        only: said.texts("match", repositories)?.unwrap_or_default(),
        skip: said.texts("skip", repositories)?.unwrap_or_default(),
    })
}

fn within(text: &str) -> Result<Duration, String> {
    match value::time(text)? {
        time if time.is_zero() => {
            Err("nothing was pulled within no time: write \"24h\"".to_owned())
        }
        time => Ok(time),
    }
}

fn repositories(text: &str) -> Result<Pattern, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "*.-_:/[]".contains(c);
    match text.split_once('/') {
        Some((registry, name)) if !registry.is_empty() && !name.is_empty() && text.chars().all(fits) => {
            let registry = canonical_pattern(registry);
            Ok(Pattern::new(format!("{registry}/{name}")))
        }
        _ => Err(
            "a pattern is REGISTRY/NAME in which `*` stands for anything, such as \"ghcr.io/team/*\"; without a tag"
                .to_owned(),
        ),
    }
}
