//! The settings that start a cluster.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::{fs, io::Write as _};

use futures_util::future::join_all;
use tempfile::TempDir;

use super::Cluster;
use super::certificates::Authority;
use super::lease::Lease;
use crate::fake::FakeRegistry;
use crate::hosts::{Host, Net, host_address};
use crate::node::Node;

/// Where every member listens for the others.
pub const PEER_PORT: u16 = 7422;

/// A cluster's alias for a fake registry, since paths cannot hold a port.
pub fn alias(fake: &FakeRegistry) -> String {
    let host = fake.host();
    let (_, port) = host.rsplit_once(':').expect("a port");
    format!("fake-{port}")
}

#[derive(Debug)]
enum Place {
    Here(Lease),
    Hosts(Vec<Host>),
}

/// Collects a cluster's settings. By default the members know each other by a list, and by certificates of one
/// authority.
#[derive(Debug)]
pub struct Plan {
    count: usize,
    place: Place,
    authority: Arc<Authority>,
    tls: bool,
    /// The value of `members`, if all nodes have the same.
    members: Option<String>,
    /// The lists of the nodes that have one of their own.
    known: HashMap<usize, Vec<SocketAddr>>,
    advertised: HashMap<usize, SocketAddr>,
    finds_itself: bool,
    strangers: Vec<usize>,
    upstreams: Vec<(String, String)>,
    aliases: String,
    config: String,
    /// More sections of single nodes.
    own: HashMap<usize, String>,
    cluster: String,
    environment: Vec<(String, String)>,
    log_level: String,
    program: Option<PathBuf>,
    /// The key under which verdicts and indexes travel.
    key: String,
    /// The keys of nodes that have another key, or none.
    keys: HashMap<usize, Option<String>>,
}

impl Plan {
    pub(super) fn here(count: usize) -> Self {
        Self::new(count, Place::Here(Lease::take()))
    }

    /// The first `count` hosts of a net have a node each.
    pub fn in_hosts(net: &Net, count: usize) -> Self {
        let hosts = (0..net.len()).map(|number| net.host(number).clone());
        Self::new(count, Place::Hosts(hosts.collect()))
    }

    fn new(count: usize, place: Place) -> Self {
        Self {
            count,
            place,
            authority: Arc::new(Authority::new()),
            tls: true,
            members: None,
            known: HashMap::new(),
            advertised: HashMap::new(),
            finds_itself: false,
            strangers: Vec::new(),
            upstreams: Vec::new(),
            aliases: String::new(),
            config: String::new(),
            own: HashMap::new(),
            cluster: String::new(),
            environment: Vec::new(),
            log_level: "info".to_owned(),
            program: None,
            key: format!("{:032x}{:032x}\n", fastrand::u128(..), fastrand::u128(..)),
            keys: HashMap::new(),
        }
    }

    /// Adds a fake registry under its own `IP:PORT`, and under an alias in paths: see [`alias`].
    #[must_use]
    pub fn upstream(mut self, fake: &FakeRegistry) -> Self {
        self.upstreams.push((fake.host(), fake.url()));
        let (host, alias) = (fake.host(), alias(fake));
        let table = format!("[upstreams.\"{host}\"]\nalias = \"{alias}\"\n");
        self.aliases.push_str(&table);
        self
    }

    /// The key that all members share.
    #[must_use]
    pub fn key(mut self, key: &str) -> Self {
        key.clone_into(&mut self.key);
        self
    }

    /// This node has another key, or none.
    #[must_use]
    pub fn key_of(mut self, number: usize, key: Option<&str>) -> Self {
        self.keys.insert(number, key.map(ToOwned::to_owned));
        self
    }

    /// No node shows a certificate.
    #[must_use]
    pub fn tls_off(mut self) -> Self {
        self.tls = false;
        self
    }

    /// The members are the addresses of this name.
    #[must_use]
    pub fn members_by_name(mut self, name: &str) -> Self {
        self.members = Some(format!("\"dns:{name}:{PEER_PORT}\""));
        self
    }

    /// The configuration does not tell nodes their own address. They listen on all of theirs.
    #[must_use]
    pub fn finding_themselves(mut self) -> Self {
        self.finds_itself = true;
        self
    }

    /// This node has its own list of members.
    #[must_use]
    pub fn knows(mut self, number: usize, members: &[usize]) -> Self {
        let members = members.iter().map(|&member| self.address(member)).collect();
        self.known.insert(number, members);
        self
    }

    /// This node advertises another node's address as its own.
    #[must_use]
    pub fn advertises(mut self, number: usize, that: usize) -> Self {
        self.advertised.insert(number, self.address(that));
        self
    }

    /// Every list has one more member, which is not a node of this cluster.
    #[must_use]
    pub fn stranger(mut self, number: usize) -> Self {
        self.strangers.push(number);
        self
    }

    /// More sections of every node's configuration.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.config);
        self
    }

    /// More sections of this node's configuration.
    #[must_use]
    pub fn config_of(mut self, number: usize, toml: &str) -> Self {
        self.own.insert(number, toml.to_owned());
        self
    }

    /// More keys of every node's `[cluster]`.
    #[must_use]
    pub fn cluster(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.cluster);
        self
    }

    /// Variables of every node's environment.
    #[must_use]
    pub fn environment(mut self, variables: &[(&str, &str)]) -> Self {
        let own = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.environment.extend(own);
        self
    }

    /// The log level of every node; `info` otherwise.
    #[must_use]
    pub fn log_level(mut self, level: &str) -> Self {
        level.clone_into(&mut self.log_level);
        self
    }

    /// Another program for all nodes than the one that the tests build.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// The authority that signs the members' certificates.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// The address of the member of this number, whether it runs or not.
    pub fn address(&self, number: usize) -> SocketAddr {
        let ip = match &self.place {
            Place::Here(lease) => lease.address(number),
            Place::Hosts(_) => host_address(number),
        };
        SocketAddr::new(ip.into(), PEER_PORT)
    }

    /// Starts all nodes at once, and waits until they answer.
    pub async fn start(self) -> Cluster {
        let started = join_all((0..self.count).map(|number| self.start_one(number))).await;
        let (nodes, dirs) = started.into_iter().unzip();
        Cluster {
            plan: self,
            nodes,
            dirs,
        }
    }

    pub(super) async fn start_one(&self, number: usize) -> (Node, TempDir) {
        let dir = tempfile::Builder::new()
            .prefix("larder-member-")
            .tempdir()
            .expect("a temporary directory");
        let mut key = fs::OpenOptions::new();
        key.create(true).write(true).mode(0o600);
        let mut key = key.open(dir.path().join("key")).expect("a key file");
        let own = self.keys.get(&number).cloned();
        let text = own.flatten().unwrap_or_else(|| self.key.clone());
        key.write_all(text.as_bytes()).expect("a key file");
        if self.tls {
            let identity = self.authority.member();
            identity.write(&self.authority, dir.path());
        }
        let mut builder = Node::builder()
            .config(self.text(number, &dir))
            .log_level(&self.log_level);
        if let Some(program) = &self.program {
            builder = builder.program(program);
        }
        for (name, url) in &self.upstreams {
            builder = builder.upstream_at(name, url);
        }
        for (name, value) in &self.environment {
            builder = builder.env(name, value);
        }
        if let Place::Hosts(hosts) = &self.place {
            builder = builder.host(&hosts[number]);
        }
        (builder.start().await, dir)
    }

    fn text(&self, number: usize, dir: &TempDir) -> String {
        let own = self.address(number);
        let path = |name: &str| format!("\"{}\"", dir.path().join(name).display());
        let at = if self.finds_itself {
            format!("listen = \"0.0.0.0:{PEER_PORT}\"")
        } else {
            let advertised = self.advertised.get(&number).unwrap_or(&own);
            format!("listen = \"{own}\"\nadvertise = \"{advertised}\"")
        };
        let everyone = (0..self.count).chain(self.strangers.iter().copied());
        let everyone = || everyone.map(|member| self.address(member)).collect();
        let known = self.known.get(&number).cloned();
        let list = || {
            let known: Vec<SocketAddr> = known.unwrap_or_else(everyone);
            let known: Vec<_> = known.iter().map(|at| format!("\"{at}\"")).collect();
            format!("[{}]", known.join(", "))
        };
        let members = self.members.clone().unwrap_or_else(list);
        let tls = if self.tls {
            let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(path);
            format!("{{ ca = {ca}, cert = {cert}, key = {key} }}")
        } else {
            "\"off\"".to_owned()
        };
        let key = match self.keys.get(&number) {
            Some(None) => String::new(),
            _ => format!("key = {}", path("key")),
        };
        let (aliases, more, cluster) = (&self.aliases, &self.config, &self.cluster);
        let own = self.own.get(&number).map_or("", String::as_str);
        format!(
            "[cluster]\n{at}\nmembers = {members}\n{key}\ntls = {tls}\n{cluster}\n\n{aliases}\n{more}\n{own}"
        )
    }
}
