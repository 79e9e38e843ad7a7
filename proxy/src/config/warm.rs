//! `[warm]`: sets of images that larder fetches before a client asks, and keeps.

mod seen;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use larder_shared::name::{ImageName, in_registry};
use larder_shared::warm::{ListBy, TagPattern};
use larder_shared::{RegistryName, Repository, Tag};

pub use self::seen::FromSeen;
use super::error::ConfigError;
use super::said::Section;
use super::value::{self, Amount};

/// `[warm]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warm {
    /// How often larder asks the registries for new tags.
    pub refresh: Duration,
    /// The path under which the status of sets is served, such as `/warm`.
    pub path: String,
    /// Whether `[telemetry] expose` serves it too.
    pub expose: bool,
    /// The most that all sets may hold; a percentage is of `[store] max_size`.
    pub max_size: Amount,
    /// The most bytes a second that warming reads.
    pub max_rate: Option<u64>,
    /// How many images are fetched at once.
    pub at_once: usize,
    /// This node's labels, which the sets' `nodes` select.
    pub labels: BTreeMap<String, String>,
    /// A file with further labels, in the form of the downward API.
    pub labels_file: Option<PathBuf>,
    /// The sets by name, in the order of the file.
    pub sets: Vec<(String, WarmSet)>,
}

/// `[warm.sets."NAME"]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmSet {
    /// Labels that a node must have.
    pub nodes: BTreeMap<String, String>,
    /// Where the images come from.
    pub from: Vec<WarmSource>,
    /// `os/architecture[/variant]`; if empty, the node's own.
    pub platforms: Vec<String>,
    /// How long an image that has left the set is held.
    pub keep: Duration,
    /// The most that this set may hold; a percentage is of `[store] max_size`.
    pub max_size: Option<Amount>,
}

/// One source of images: an entry of `from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WarmSource {
    Repository(FromRepository),
    /// Key `images`.
    Images(Vec<ImageName>),
    /// Key `seen`.
    Seen(FromSeen),
}

/// Images of one repository, chosen by their tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromRepository {
    pub registry: RegistryName,
    pub repository: Repository,
    pub list: ListBy,
    /// Always in the set, and fetched first.
    pub tags: Vec<Tag>,
    pub newest: Vec<Newest>,
    pub skip: Vec<TagPattern>,
    /// The longest time since the push, if the registry's list tells when that was.
    pub max_age: Option<Duration>,
}

impl FromRepository {
    /// Whether larder has to ask for the repository's list.
    pub fn needs_list(&self) -> bool {
        self.list != ListBy::Off && !self.newest.is_empty()
    }
}

/// The newest images that have a matching tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// Key `match`.
    pub pattern: TagPattern,
    /// How many images, regardless of their number of tags.
    pub count: usize,
}

impl Default for Warm {
    fn default() -> Self {
        Self {
            refresh: Duration::from_mins(5),
            path: "/warm".to_owned(),
            expose: false,
            max_size: Amount::Percent(50),
            max_rate: None,
            at_once: 1,
            labels: BTreeMap::new(),
            labels_file: None,
            sets: Vec::new(),
        }
    }
}

impl Warm {
    /// The set of this name.
    pub fn set(&self, name: &str) -> Option<&WarmSet> {
        let mut sets = self.sets.iter();
        sets.find_map(|(of, set)| (of == name).then_some(set))
    }
}

impl WarmSet {
    /// Whether a node with these labels warms the set.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.nodes.iter().all(|(key, wanted)| {
            let value = labels.get(key);
            value.is_some_and(|value| wanted == "*" || wanted.split('|').any(|one| one == value))
        })
    }
}

/// A shorter time would be a load on the registry.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);

/// The most images that may be fetched at once.
const MOST_AT_ONCE: usize = 16;

/// The most images that one pattern may choose.
const MOST_NEWEST: usize = 1000;

pub(super) fn warm(mut said: Section<'_, '_>) -> Result<Warm, ConfigError> {
    let default = Warm::default();
    let refresh = said
        .quantity("refresh", refresh)?
        .unwrap_or(default.refresh);
    let path = said.text("path", status_path)?.unwrap_or(default.path);
    let expose = said.flag("expose")?.unwrap_or(default.expose);
    let max_size = said.quantity("max_size", Amount::parse_positive)?;
    let max_rate = said.text("max_rate", value::rate)?;
    let at_once = said.quantity("at_once", at_once)?;
    let labels = match said.table("labels")? {
        Some(table) => table.words()?.into_iter().collect(),
        None => default.labels,
    };
    let labels_file = said.text("labels_file", value::absolute_path)?;
    let mut sets = Vec::new();
    if let Some(table) = said.table("sets")? {
        for (name, section) in table.titled("[warm.sets]").entries_as_written()? {
            if !is_set_name(&name) {
                return Err(section.misnamed(
                    "a set's name is a part of a path: letters, digits, `.`, `_` and `-`, 63 at the most",
                ));
            }
            sets.push((name, set(section)?));
        }
    }
    said.finish()?;
    Ok(Warm {
        refresh,
        path,
        expose,
        max_size: max_size.unwrap_or(default.max_size),
        max_rate,
        at_once: at_once.unwrap_or(default.at_once),
        labels,
        labels_file,
        sets,
    })
}

fn set(mut said: Section<'_, '_>) -> Result<WarmSet, ConfigError> {
    let nodes = match said.table("nodes")? {
        Some(table) => table.words()?.into_iter().collect(),
        None => BTreeMap::new(),
    };
    let sections = said.sections("from")?;
    let mut from = Vec::new();
    for section in sections {
        from.push(source(section)?);
    }
    if from.is_empty() {
        return Err(said.wrong(
            "from",
            "a set needs a source: from = [{ repository = \"REGISTRY/NAME\", tags = [\"TAG\"] }]",
        ));
    }
    let set = WarmSet {
        nodes,
        from,
        platforms: said.texts("platforms", platform)?.unwrap_or_default(),
        keep: said
            .quantity("keep", value::time)?
            .unwrap_or(Duration::from_hours(1)),
        max_size: said.quantity("max_size", Amount::parse_positive)?,
    };
    said.finish()?;
    Ok(set)
}

/// The keys that name the kind of a source.
const KINDS: [&str; 3] = ["repository", "images", "seen"];

fn source(mut said: Section<'_, '_>) -> Result<WarmSource, ConfigError> {
    let kinds: Vec<_> = KINDS.into_iter().filter(|key| said.says(key)).collect();
    if let [_, second, ..] = kinds[..] {
        let why = format!("`{}` names another source: write two entries", kinds[0]);
        return Err(said.wrong(second, why));
    }
    let source = if said.says("images") {
        let images = said.texts("images", image)?.unwrap_or_default();
        if images.is_empty() {
            return Err(said.wrong("images", "the list is empty: name an image"));
        }
        WarmSource::Images(images)
    } else if said.says("seen") {
        WarmSource::Seen(seen::from_seen(&mut said)?)
    } else {
        return from_repository(said).map(WarmSource::Repository);
    };
    said.finish()?;
    Ok(source)
}

fn from_repository(mut said: Section<'_, '_>) -> Result<FromRepository, ConfigError> {
    let named = said.text("repository", repository)?;
    let list = said.choice("list", &LIST_BY)?.unwrap_or_default();
    let tag = |text: &str| text.parse::<Tag>().map_err(|error| error.to_string());
    let tags = said.texts("tags", tag)?.unwrap_or_default();
    let mut newest = Vec::new();
    for mut rule in said.sections("newest")? {
        let pattern = rule.text("match", pattern)?;
        let count = rule.quantity("count", count)?;
        newest.push(Newest {
            pattern: rule.needed("match", pattern)?,
            count: rule.needed("count", count)?,
        });
        rule.finish()?;
    }
    let skip = said.texts("skip", pattern)?.unwrap_or_default();
    let max_age = said.quantity("max_age", value::lifetime)?.flatten();
    let nothing = tags.is_empty() && newest.is_empty();
    let named = if nothing && named.is_some() {
        Err(said.wrong(
            "repository",
            "nothing of it is chosen: add `tags`, or newest = [{ match = \"v#.#.#\", count = 2 }]",
        ))
    } else if list == ListBy::Off && !newest.is_empty() {
        Err(said.wrong(
            "newest",
            "it needs a list, and `list` is \"off\": leave one of the two out",
        ))
    } else {
        said.needed("repository", named)
    };
    // A misspelt key is reported before a missing one.
    said.finish()?;
    let (registry, repository) = named?;
    Ok(FromRepository {
        registry,
        repository,
        list,
        tags,
        newest,
        skip,
        max_age,
    })
}

/// The words of `list`.
pub(super) const LIST_BY: [(&str, ListBy); 5] = [
    ("auto", ListBy::Auto),
    ("gar", ListBy::Gar),
    ("ecr", ListBy::Ecr),
    ("acr", ListBy::Acr),
    ("off", ListBy::Off),
];

fn refresh(text: &str) -> Result<Duration, String> {
    match value::time(text)? {
        time if time < SHORTEST_REFRESH => {
            Err("a registry is not asked that often: write \"5m\"".to_owned())
        }
        time => Ok(time),
    }
}

/// Helm charts write numbers with a decimal point.
fn number(text: &str, most: usize) -> Result<usize, String> {
    let text = text.strip_suffix(".0").unwrap_or(text);
    let number = text.parse().ok().filter(|n| (1..=most).contains(n));
    number.ok_or_else(|| format!("write a number from 1 to {most}"))
}

fn at_once(text: &str) -> Result<usize, String> {
    number(text, MOST_AT_ONCE)
}

fn count(text: &str) -> Result<usize, String> {
    number(text, MOST_NEWEST)
}

fn is_set_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    name.len() <= 63 && name.bytes().all(plain) && name.starts_with(|c: char| c.is_alphanumeric())
}

/// Paths that the telemetry port serves already.
const TAKEN: [&str; 4] = ["/metrics", "/livez", "/readyz", "/image"];

fn status_path(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let parts = |text: &str| text[1..].split('/').all(|part| !part.is_empty());
    if !text.starts_with('/') || !text.bytes().all(plain) || !parts(text) {
        return Err("a path is written \"/warm\", without a `/` at its end".to_owned());
    }
    if TAKEN.contains(&text) {
        return Err("larder serves something else there: choose another path".to_owned());
    }
    Ok(text.to_owned())
}

fn platform(text: &str) -> Result<String, String> {
    let parts = text.split('/').count();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if (2..=3).contains(&parts) && text.chars().all(plain) && !text.split('/').any(str::is_empty) {
        return Ok(text.to_owned());
    }
    Err("a platform is os/architecture[/variant], such as \"linux/amd64\"".to_owned())
}

fn pattern(text: &str) -> Result<TagPattern, String> {
    text.parse()
        .map_err(|error: larder_shared::warm::PatternError| error.to_string())
}

fn image(text: &str) -> Result<ImageName, String> {
    text.parse()
        .map_err(|error| format!("{error}; an image is written \"docker.io/library/alpine:3\""))
}

fn repository(text: &str) -> Result<(RegistryName, Repository), String> {
    let written = || "a repository is REGISTRY/NAME without a tag, such as \"ghcr.io/team/app\"";
    let (registry, path) = text.split_once('/').ok_or_else(written)?;
    if !RegistryName::is_plausible(registry) || path.contains(['@', ':']) {
        return Err(written().to_owned());
    }
    let registry: RegistryName = registry.parse().map_err(|_| written())?;
    let repository = in_registry(&registry, path).map_err(|_| written())?;
    Ok((registry, repository))
}
