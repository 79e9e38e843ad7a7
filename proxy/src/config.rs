//! The configuration, immutable once it is read.
//!
//! Owns the one TOML file: its keys, what they mean, their defaults, and errors that name line, column and fix. A file
//! is read in two steps. `said` walks the parsed document and keeps the place of every word. `meaning` turns it into
//! the types below, checks what depends on more than one key, and refuses every key that it did not ask for.
//!
//! Leaves to others: whether the files and addresses that it names exist, and what the settings cause.
//! Nothing here reads the environment.

mod cloud;
mod cluster;
mod credentials;
mod endpoint;
mod error;
mod meaning;
mod name;
mod said;
mod schema;
mod show;
mod source;
mod streaming;
#[cfg(test)]
mod tests;
mod value;
mod warm;
mod words;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use cloud::{Cloud, CloudIdentity};
pub use cluster::{Cluster, MemberFiles, Members, ObjectStore, PEER_PORT, PeerTls, Peers};
pub use credentials::{Credentials, Sharing};
pub use endpoint::{ClientCertificate, Endpoint};
pub use error::{ConfigError, Position};
pub use name::{DOCKER_HUB, canonical, host_name, registry_name};
pub use source::SourceRule;
pub use streaming::{Mode, Never, Streaming};
pub use value::{Amount, Pattern, time};
pub use warm::{FromRepository, FromSeen, Newest, Warm, WarmSet, WarmSource};

/// A longer file is a mistake (a log, an archive), not a configuration.
const LONGEST_FILE: u64 = 1024 * 1024;

/// Everything that can be set, with the defaults filled in. `Default` is what an empty file means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// The port that the container runtime pulls from.
    pub registry: Registry,
    /// The node tier on disk.
    pub store: Store,
    /// The watcher's file about this node's container runtime, and the runtime's content store.
    pub runtime: Runtime,
    /// Layers that the runtime mounts instead of unpacking them.
    pub streaming: Streaming,
    /// How long a tag may be served without a question upstream, and what to do if the upstream cannot be asked.
    pub tags: Tags,
    /// How long a verdict about a credential holds.
    pub access: Access,
    /// The upstreams that the file names, by canonical registry name (see [`canonical`]).
    pub upstreams: BTreeMap<String, Upstream>,
    /// The other nodes, and the object store behind all of them.
    pub cluster: Cluster,
    /// Sets of images that larder fetches before a client asks.
    pub warm: Warm,
    /// Metrics, health, logs.
    pub telemetry: Telemetry,
    /// The socket on which the daemon answers the command line.
    pub admin: Admin,
}

/// `[registry]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// The address to which the runtime connects.
    pub listen: SocketAddr,
    /// The registry of a request that names no registry.
    pub default_upstream: String,
    /// Registries that may be pulled from, unless `deny` names them.
    pub allow: Vec<Pattern>,
    /// Registries that may not be pulled from.
    pub deny: Vec<Pattern>,
    /// The addresses that may connect.
    pub allow_from: Vec<SourceRule>,
    /// The names by which clients may call this node, besides its own, each in its canonical spelling.
    pub allow_hosts: Vec<String>,
}

impl Registry {
    /// Whether the operator lets this registry be used.
    pub fn allows(&self, registry: &str) -> bool {
        let named = |patterns: &[Pattern]| patterns.iter().any(|p| p.matches_registry(registry));
        named(&self.allow) && !named(&self.deny)
    }
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The directory that holds the node tier.
    pub path: PathBuf,
    /// The most bytes that the store may hold; a percentage is of the file system.
    pub max_size: Amount,
    /// The space that larder keeps free on the file system, whatever fills the rest.
    pub min_free: Amount,
    /// How long a blob stays after its last use; `None` keeps it until space is needed.
    pub ttl: Option<Duration>,
    /// Once this much of a blob is here by ranges, larder fetches the rest; `None` never does.
    pub complete_after: Option<Amount>,
}

/// `[runtime]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// The file in which the watcher reports what the runtime holds and uses; `None` when off.
    pub file: Option<PathBuf>,
    /// containerd's content store; `None` when off.
    pub content: Option<PathBuf>,
}

/// `[tags]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tags {
    /// For how long a checked tag is served without a new question; with zero, every request of the tag asks.
    pub fresh_for: Duration,
    /// How long a revalidation may take before the upstream counts as unreachable. Never zero.
    pub timeout: Duration,
    /// What to do with a cached tag while the upstream cannot be asked.
    pub when_unreachable: WhenUnreachable,
    /// What to do with a cached tag after the origin has deleted it.
    pub when_deleted: WhenDeleted,
}

/// The choice in `tags.when_unreachable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WhenUnreachable {
    /// Serve the cached manifest, with a `Warning`.
    #[default]
    Serve,
    /// Answer with the upstream's failure.
    Fail,
}

/// The choice in `tags.when_deleted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WhenDeleted {
    /// Serve the cached manifest, with a `Warning`.
    #[default]
    Serve,
    /// Drop the tag and answer 404.
    Forget,
}

/// `[access]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// How long a credential that the origin accepted needs no new proof.
    pub ttl: Duration,
    /// For how much longer it is honoured while the registry cannot be asked.
    pub grace: Duration,
}

/// `[upstreams."NAME"]`: how larder reaches one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Tried in order; the last one is the origin. Empty only if the name given to [`Config::upstream`] cannot be a
    /// registry's.
    pub endpoints: Vec<Endpoint>,
    /// Whether the file or a flag names this upstream. Only then may it lead to a loopback address.
    pub configured: bool,
    /// Whether the answer of every endpoint about access counts as the origin's; otherwise only the last one's does.
    pub proves_access: bool,
    /// A path component that names this registry in prefix addressing.
    pub alias: Option<String>,
    /// Overrides `store.ttl` for content that came from here; `Some(None)` keeps the content until space is needed.
    pub ttl: Option<Option<Duration>>,
    /// Freshness by tag; the first match counts.
    pub tags: Vec<TagRule>,
    /// Which callers may have content that the node's own credentials open; key `access`.
    pub access: Sharing,
    /// Where the node's own credentials come from, if it has any.
    pub credentials: Option<Credentials>,
}

/// One entry of an upstream's `tags`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRule {
    /// The tags to which this rule applies; key `match`.
    pub pattern: Pattern,
    /// Takes precedence over [`Tags::fresh_for`].
    pub fresh_for: Duration,
}

/// `[telemetry]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// The address of metrics, health and, on a loopback address, the status page; `None` when off.
    pub listen: Option<SocketAddr>,
    /// An additional address for metrics and health, never for the page: the pod's own. `None` when off.
    pub expose: Option<SocketAddr>,
    /// What to log, in the notation of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// The format of log lines.
    pub log_format: LogFormat,
}

/// The choice in `telemetry.log_format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// The unix socket on which the daemon answers the command line.
    pub socket: PathBuf,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7420)),
            default_upstream: DOCKER_HUB.to_owned(),
            allow: vec![Pattern::any()],
            deny: Vec::new(),
            allow_from: vec![SourceRule::Node],
            allow_hosts: Vec::new(),
        }
    }
}

/// The kubelet removes images from 85 % used on, down to 80 %. 17 % leaves it one percent for what is written between
/// two rounds of larder's eviction. With 20 %, larder would keep nothing on a disk that the kubelet left at 80 %.
const MIN_FREE: Amount = Amount::Percent(17);

impl Default for Store {
    fn default() -> Self {
        Self {
            path: PathBuf::from("/var/lib/larder"),
            max_size: Amount::Percent(80),
            min_free: MIN_FREE,
            ttl: Some(Duration::from_hours(168)),
            complete_after: None,
        }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        let root = "/var/lib/containerd/io.containerd.content.v1.content";
        Self {
            file: Some(PathBuf::from("/run/larder/runtime.json")),
            content: Some(PathBuf::from(root)),
        }
    }
}

impl Default for Tags {
    fn default() -> Self {
        Self {
            fresh_for: Duration::ZERO,
            timeout: Duration::from_secs(2),
            when_unreachable: WhenUnreachable::default(),
            when_deleted: WhenDeleted::default(),
        }
    }
}

impl Default for Access {
    fn default() -> Self {
        Self {
            ttl: Duration::from_mins(10),
            grace: Duration::from_hours(24),
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 7421))),
            expose: None,
            log: "info".to_owned(),
            log_format: LogFormat::default(),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/larder/admin.sock"),
        }
    }
}

impl Upstream {
    /// The defaults for a registry that the configuration does not name: the registry itself, over TLS.
    fn implied(registry: &str) -> Self {
        Self {
            endpoints: Endpoint::implied(registry).into_iter().collect(),
            configured: false,
            proves_access: false,
            alias: None,
            ttl: None,
            tags: Vec::new(),
            access: Sharing::default(),
            credentials: None,
        }
    }
}

impl Config {
    /// Reads a configuration from its text. `name` is the file it came from, for errors only.
    ///
    /// # Errors
    /// The first mistake found, with its place.
    pub fn parse(text: &str, name: &Path) -> Result<Self, ConfigError> {
        meaning::config(text, &name.display().to_string())
    }

    /// Reads the file at `path`, or gives the defaults if there is no path.
    ///
    /// # Errors
    /// A file that cannot be read, and everything that [`Config::parse`] refuses.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let origin = path.display().to_string();
        let unreadable = |error| ConfigError::unreadable(&origin, error);
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut bytes = Vec::new();
        file.take(LONGEST_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        if bytes.len() as u64 > LONGEST_FILE {
            return Err(ConfigError::new(
                &origin,
                "over 1 MiB long: is this the right file?",
            ));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let before = String::from_utf8_lossy(valid);
            let place = Position::of(&before, before.len());
            ConfigError::at(&origin, place, "not UTF-8: save the file as UTF-8 text")
        })?;
        Self::parse(&text, path)
    }

    /// Applies one `--upstream NAME=URL`: the URL becomes the registry's only endpoint. The file's other settings of
    /// that registry stay.
    ///
    /// # Errors
    /// A flag without `=`, a bad name, a bad URL.
    pub fn with_upstream_flag(&mut self, flag: &str) -> Result<(), ConfigError> {
        let refused = |message: String| ConfigError::new("--upstream", message);
        let (name, url) = flag.split_once('=').ok_or_else(|| {
            refused(format!(
                "{} is not NAME=URL, such as ghcr.io=https://mirror.example.com",
                words::shown(flag)
            ))
        })?;
        let name =
            registry_name(name).map_err(|fix| refused(format!("{}: {fix}", words::shown(name))))?;
        let mut endpoint = Endpoint::parse(url)
            .map_err(|fix| refused(format!("{name}: {}: {fix}", words::shown(url))))?;
        let upstream = self
            .upstreams
            .entry(name.clone())
            .or_insert_with(|| Upstream::implied(&name));
        if let Some(first) = upstream.endpoints.first() {
            endpoint.ca.clone_from(&first.ca);
            endpoint.insecure_skip_verify = first.insecure_skip_verify;
            endpoint.client.clone_from(&first.client);
        }
        upstream.endpoints = vec![endpoint];
        upstream.configured = true;
        Ok(())
    }

    /// How to reach `registry`: as configured, or over TLS at its own name.
    pub fn upstream(&self, registry: &str) -> Upstream {
        let name = canonical(registry);
        self.upstreams
            .get(name.as_ref())
            .cloned()
            .unwrap_or_else(|| Upstream::implied(&name))
    }

    /// The registry that the path component `component` stands for, if it is an alias.
    pub fn alias(&self, component: &str) -> Option<&str> {
        self.upstreams
            .iter()
            .find(|(_, upstream)| upstream.alias.as_deref() == Some(component))
            .map(|(name, _)| name.as_str())
    }

    /// For how long `tag` of `registry` is served without a new question.
    pub fn fresh_for(&self, registry: &str, tag: &str) -> Duration {
        self.upstreams
            .get(canonical(registry).as_ref())
            .and_then(|upstream| upstream.tags.iter().find(|rule| rule.pattern.matches(tag)))
            .map_or(self.tags.fresh_for, |rule| rule.fresh_for)
    }

    /// The effective configuration as a file that [`Config::parse`] reads back to the same value.
    pub fn to_toml(&self) -> String {
        show::toml(self)
    }
}
