//! The effective configuration, written as a file with every setting.

mod warm;

use std::fmt::{Display, Write as _};
use std::path::Path;
use std::time::Duration;

use super::value::{Amount, Pattern, time_text};
use super::{
    Cluster, Config, Credentials, Endpoint, LogFormat, Members, Never, PeerTls, Peers, Sharing,
    Upstream, WhenDeleted, WhenUnreachable,
};

impl WhenUnreachable {
    pub(super) const WORDS: [(&str, Self); 2] = [("serve", Self::Serve), ("fail", Self::Fail)];

    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        word(self, &Self::WORDS)
    }
}

impl WhenDeleted {
    pub(super) const WORDS: [(&str, Self); 2] = [("serve", Self::Serve), ("forget", Self::Forget)];

    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        word(self, &Self::WORDS)
    }
}

impl Sharing {
    pub(super) const WORDS: [(&str, Self); 2] = [
        ("per-credential", Self::PerCredential),
        ("shared", Self::Shared),
    ];

    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        word(self, &Self::WORDS)
    }
}

impl LogFormat {
    pub(super) const WORDS: [(&str, Self); 2] = [("text", Self::Text), ("json", Self::Json)];

    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        word(self, &Self::WORDS)
    }
}

fn word<T: Copy + PartialEq>(meaning: T, words: &[(&'static str, T)]) -> &'static str {
    words
        .iter()
        .find(|(_, of)| *of == meaning)
        .map_or("", |(word, _)| word)
}

pub(super) fn toml(config: &Config) -> String {
    let mut page = Page(String::new());

    page.section("registry");
    page.text("listen", config.registry.listen);
    page.text("default_upstream", &config.registry.default_upstream);
    page.list(
        "allow_from",
        config.registry.allow_from.iter().map(ToString::to_string),
    );
    page.list("allow_hosts", config.registry.allow_hosts.iter());
    page.list("allow", config.registry.allow.iter().map(Pattern::as_str));
    page.list("deny", config.registry.deny.iter().map(Pattern::as_str));

    page.section("store");
    page.text("path", config.store.path.display());
    page.text("max_size", config.store.max_size);
    page.text("min_free", config.store.min_free);
    page.text(
        "complete_after",
        config
            .store
            .complete_after
            .map_or_else(|| "0".to_owned(), |amount| amount.to_string()),
    );
    page.text("ttl", lifetime(config.store.ttl));

    page.section("runtime");
    page.text("file", path_or_off(config.runtime.file.as_deref()));
    page.text("content", path_or_off(config.runtime.content.as_deref()));

    page.section("streaming");
    let streaming = &config.streaming;
    page.text("mode", streaming.mode.as_str());
    page.text("directory", streaming.directory.display());
    page.text("holder", streaming.holder.display());
    page.list("never", streaming.never.iter().map(Never::text));
    page.line(format_args!("private = {}", streaming.private));
    page.text("min_layer", Amount::Bytes(streaming.min_layer));

    page.section("tags");
    page.text("fresh_for", time_text(config.tags.fresh_for));
    page.text("timeout", time_text(config.tags.timeout));
    page.text("when_unreachable", config.tags.when_unreachable.as_str());
    page.text("when_deleted", config.tags.when_deleted.as_str());

    page.section("access");
    page.text("ttl", time_text(config.access.ttl));
    page.text("grace", time_text(config.access.grace));

    for (name, upstream) in &config.upstreams {
        page.section(&format!("upstreams.{}", quoted(name)));
        page.upstream(upstream);
    }

    page.cluster(&config.cluster);
    page.warm(&config.warm);

    page.section("telemetry");
    match config.telemetry.listen {
        Some(address) => page.text("listen", address),
        None => page.text("listen", "off"),
    }
    match config.telemetry.expose {
        Some(address) => page.text("expose", address),
        None => page.text("expose", "off"),
    }
    page.text("log", &config.telemetry.log);
    page.text("log_format", config.telemetry.log_format.as_str());

    page.section("admin");
    page.text("socket", config.admin.socket.display());

    page.0
}

fn path_or_off(path: Option<&Path>) -> String {
    path.map_or_else(|| "off".to_owned(), |path| path.display().to_string())
}

fn lifetime(ttl: Option<Duration>) -> String {
    time_text(ttl.unwrap_or_default())
}

fn quoted(text: impl Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

fn said(key: &str, value: impl Display) -> String {
    format!("{key} = {}", quoted(value))
}

fn page_peers(page: &mut Page, peers: Option<&Peers>) {
    page.section("cluster");
    let Some(peers) = peers else {
        page.text("listen", "off");
        return;
    };
    page.text("listen", peers.listen);
    if let Some(address) = peers.advertise {
        page.text("advertise", address);
    }
    match &peers.members {
        Members::Dns { .. } => page.text("members", &peers.members),
        Members::Static(list) => page.list("members", list.iter()),
    }
    match &peers.tls {
        PeerTls::Off => page.text("tls", "off"),
        PeerTls::Mutual(files) => {
            let keys = [
                said("ca", files.ca.display()),
                said("cert", files.cert.display()),
                said("key", files.key.display()),
                said("name", &files.name),
            ];
            page.line(format_args!("tls = {{ {} }}", keys.join(", ")));
        }
    }
    if let Some(key) = &peers.key {
        page.text("key", key.display());
    }
    page.line(format_args!("copies = {}", peers.copies));
    page.text("copy_rate", Amount::Bytes(peers.copy_rate));
    page.line(format_args!("copies_private = {}", peers.copies_private));
}

struct Page(String);

impl Page {
    fn section(&mut self, title: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.line(format_args!("[{title}]"));
    }

    fn text(&mut self, key: &str, value: impl Display) {
        self.line(format_args!("{}", said(key, value)));
    }

    fn list(&mut self, key: &str, values: impl Iterator<Item = impl Display>) {
        let values: Vec<String> = values.map(quoted).collect();
        self.line(format_args!("{key} = [{}]", values.join(", ")));
    }

    fn cluster(&mut self, cluster: &Cluster) {
        page_peers(self, cluster.peers.as_ref());
        if let Some(store) = &cluster.object_store {
            self.section("cluster.object_store");
            self.text("url", &store.url);
            let options: Vec<String> = store
                .options
                .iter()
                .map(|(name, value)| format!("{} = {}", quoted(name), quoted(value)))
                .collect();
            if !options.is_empty() {
                self.line(format_args!("options = {{ {} }}", options.join(", ")));
            }
            if let Some(rate) = store.max_rate {
                self.text("max_rate", Amount::Bytes(rate));
            }
        }
    }

    fn upstream(&mut self, upstream: &Upstream) {
        let url = |endpoint: &Endpoint| endpoint.url.to_string().trim_end_matches('/').to_owned();
        self.list("endpoints", upstream.endpoints.iter().map(url));
        // An upstream has one `ca`, one switch and one client certificate for all of its endpoints.
        if let Some(first) = upstream.endpoints.first() {
            if let Some(ca) = &first.ca {
                self.text("ca", ca.display());
            }
            self.line(format_args!(
                "insecure_skip_verify = {}",
                first.insecure_skip_verify
            ));
            if let Some(client) = &first.client {
                self.text("client_cert", client.cert.display());
                self.text("client_key", client.key.display());
            }
        }
        self.line(format_args!("proves_access = {}", upstream.proves_access));
        if let Some(alias) = &upstream.alias {
            self.text("alias", alias);
        }
        if let Some(ttl) = upstream.ttl {
            self.text("ttl", lifetime(ttl));
        }
        if !upstream.tags.is_empty() {
            let rules: Vec<String> = upstream
                .tags
                .iter()
                .map(|rule| {
                    format!(
                        "{{ match = {}, fresh_for = {} }}",
                        quoted(rule.pattern.as_str()),
                        quoted(time_text(rule.fresh_for))
                    )
                })
                .collect();
            self.line(format_args!("tags = [{}]", rules.join(", ")));
        }
        self.text("access", upstream.access.as_str());
        if let Some(credentials) = &upstream.credentials {
            let keys: Vec<String> = match credentials {
                Credentials::DockerConfig { path } => vec![said("docker_config", path.display())],
                Credentials::Files { username, password } => vec![
                    said("username_file", username.display()),
                    said("password_file", password.display()),
                ],
                Credentials::Helper { name } => vec![said("helper", name)],
                Credentials::Kubelet { config, bin_dir } => vec![
                    said("kubelet_config", config.display()),
                    said("bin_dir", bin_dir.display()),
                ],
                Credentials::Cloud(identity) => {
                    let keys = identity.said().into_iter();
                    keys.map(|(key, value)| said(key, value)).collect()
                }
            };
            self.line(format_args!("credentials = {{ {} }}", keys.join(", ")));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a string cannot fail");
    }
}
