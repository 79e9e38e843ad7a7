//! The meaning of the file: every section's keys, their defaults, and the rules that join several keys.
//!
//! CONTRIBUTING.md says what a new key needs, under "Where things go".

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::cluster::cluster;
use super::credentials::credentials;
use super::error::ConfigError;
use super::said::{Section, Source};
use super::streaming::streaming;
use super::value::{self, Amount, Pattern};
use super::warm::warm;
use super::words::shown;
use super::{
    Access, Admin, ClientCertificate, Config, Endpoint, LogFormat, Registry, Runtime, Sharing,
    SourceRule, Store, TagRule, Tags, Telemetry, Upstream, WhenDeleted, WhenUnreachable, canonical,
    host_name, registry_name,
};

pub(super) fn config(text: &str, origin: &str) -> Result<Config, ConfigError> {
    let source = Source { text, origin };
    let document = source.parse()?;
    let mut root = Section::root(&source, document.get_ref());

    let mut registry_section = root.section("registry")?;
    let registry = registry(&mut registry_section)?;
    let store = store(root.section("store")?)?;
    let runtime = runtime(root.section("runtime")?)?;
    let streaming = streaming(root.section("streaming")?)?;
    let tags = tags(root.section("tags")?)?;
    let access = access(root.section("access")?)?;
    let upstreams = upstreams(root.section("upstreams")?)?;
    let mut cluster_section = root.section("cluster")?;
    let cluster = cluster(&mut cluster_section)?;
    let warm = warm(root.section("warm")?)?;
    let mut telemetry_section = root.section("telemetry")?;
    let telemetry = telemetry(&mut telemetry_section)?;
    let admin = admin(root.section("admin")?)?;
    root.finish()?;

    if let Some(listen) = telemetry.listen
        && collide(registry.listen, listen)
    {
        // The error is about a key that the file sets, not about a default.
        return Err(if telemetry_section.says("listen") {
            telemetry_section.wrong(
                "listen",
                format!("{listen} is taken by [registry]: choose another port"),
            )
        } else {
            let taken = registry.listen;
            registry_section.wrong(
                "listen",
                format!("{taken} is taken by [telemetry]: choose another port"),
            )
        });
    }
    if let Some(expose) = telemetry.expose
        && let Some(taken) = [Some(registry.listen), telemetry.listen]
            .into_iter()
            .flatten()
            .find(|other| collide(*other, expose))
    {
        let why = format!("{taken} is taken: name the pod's own address, or choose another port");
        return Err(telemetry_section.wrong("expose", why));
    }
    if let Some(peers) = &cluster.peers
        && let Some(taken) = [Some(registry.listen), telemetry.listen, telemetry.expose]
            .into_iter()
            .flatten()
            .find(|other| collide(*other, peers.listen))
    {
        let why = format!("{taken} is taken by another section: choose another port");
        return Err(cluster_section.wrong("listen", why));
    }
    registry_section.finish()?;
    cluster_section.finish()?;
    telemetry_section.finish()?;

    Ok(Config {
        registry,
        store,
        runtime,
        streaming,
        tags,
        access,
        upstreams,
        cluster,
        warm,
        telemetry,
        admin,
    })
}

/// Whether one process cannot listen on both addresses. Port 0 is a new port each time.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let every = |address: SocketAddr| address.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || every(a) || every(b))
}

fn registry(said: &mut Section<'_, '_>) -> Result<Registry, ConfigError> {
    let default = Registry::default();
    let allow_from = said
        .texts("allow_from", SourceRule::parse)?
        .unwrap_or(default.allow_from);
    if allow_from.is_empty() {
        return Err(said.wrong(
            "allow_from",
            "no client could pull: name \"node\" at least, or leave the key out",
        ));
    }
    Ok(Registry {
        listen: said
            .text("listen", value::address)?
            .unwrap_or(default.listen),
        default_upstream: said
            .text("default_upstream", registry_name)?
            .unwrap_or(default.default_upstream),
        allow: said
            .texts("allow", Pattern::registry)?
            .unwrap_or(default.allow),
        deny: said
            .texts("deny", Pattern::registry)?
            .unwrap_or(default.deny),
        allow_from,
        allow_hosts: said
            .texts("allow_hosts", host_name)?
            .unwrap_or(default.allow_hosts),
    })
}

fn store(mut said: Section<'_, '_>) -> Result<Store, ConfigError> {
    let default = Store::default();
    let store = Store {
        path: said.text("path", value::path)?.unwrap_or(default.path),
        max_size: said
            .quantity("max_size", Amount::parse_positive)?
            .unwrap_or(default.max_size),
        min_free: said
            .quantity("min_free", Amount::parse)?
            .unwrap_or(default.min_free),
        ttl: said
            .quantity("ttl", value::lifetime)?
            .unwrap_or(default.ttl),
        complete_after: said
            .quantity("complete_after", Amount::parse)?
            .filter(|amount| amount.of(u64::MAX) > 0),
    };
    said.finish()?;
    Ok(store)
}

fn runtime(mut said: Section<'_, '_>) -> Result<Runtime, ConfigError> {
    let default = Runtime::default();
    let runtime = Runtime {
        file: said
            .text("file", value::path_or_off)?
            .unwrap_or(default.file),
        content: said
            .text("content", value::path_or_off)?
            .unwrap_or(default.content),
    };
    said.finish()?;
    Ok(runtime)
}

fn tags(mut said: Section<'_, '_>) -> Result<Tags, ConfigError> {
    let default = Tags::default();
    let tags = Tags {
        fresh_for: said
            .quantity("fresh_for", value::time)?
            .unwrap_or(default.fresh_for),
        timeout: said
            .quantity("timeout", value::time_limit)?
            .unwrap_or(default.timeout),
        when_unreachable: said
            .choice("when_unreachable", &WhenUnreachable::WORDS)?
            .unwrap_or(default.when_unreachable),
        when_deleted: said
            .choice("when_deleted", &WhenDeleted::WORDS)?
            .unwrap_or(default.when_deleted),
    };
    said.finish()?;
    Ok(tags)
}

fn access(mut said: Section<'_, '_>) -> Result<Access, ConfigError> {
    let default = Access::default();
    let access = Access {
        ttl: said.quantity("ttl", value::time)?.unwrap_or(default.ttl),
        grace: said
            .quantity("grace", value::time)?
            .unwrap_or(default.grace),
    };
    said.finish()?;
    Ok(access)
}

fn telemetry(said: &mut Section<'_, '_>) -> Result<Telemetry, ConfigError> {
    let default = Telemetry::default();
    Ok(Telemetry {
        listen: said
            .text("listen", value::address_or_off)?
            .unwrap_or(default.listen),
        expose: said
            .text("expose", value::address_or_off)?
            .unwrap_or(default.expose),
        log: said.text("log", value::log_filter)?.unwrap_or(default.log),
        log_format: said
            .choice("log_format", &LogFormat::WORDS)?
            .unwrap_or(default.log_format),
    })
}

fn admin(mut said: Section<'_, '_>) -> Result<Admin, ConfigError> {
    let default = Admin::default();
    let admin = Admin {
        socket: said
            .text("socket", value::socket_path)?
            .unwrap_or(default.socket),
    };
    said.finish()?;
    Ok(admin)
}

fn upstreams(said: Section<'_, '_>) -> Result<BTreeMap<String, Upstream>, ConfigError> {
    let mut named = BTreeMap::new();
    for (key, section) in said.entries()? {
        let name = registry_name(&key).map_err(|fix| section.misnamed(fix))?;
        if named.contains_key(&name) {
            return Err(section.misnamed(format!(
                "the same registry as another section, {name}: join the two"
            )));
        }
        named.insert(name, section);
    }
    let names: Vec<String> = named.keys().cloned().collect();
    let mut aliases: BTreeMap<String, String> = BTreeMap::new();
    let mut upstreams = BTreeMap::new();
    for (name, mut section) in named {
        let upstream = upstream(&name, &mut section)?;
        if let Some(alias) = &upstream.alias {
            if let Some(other) = aliases.insert(alias.clone(), name.clone()) {
                return Err(section.wrong(
                    "alias",
                    format!(
                        "{} is taken by [upstreams.{other:?}]: choose another",
                        shown(alias)
                    ),
                ));
            }
            let meant = canonical(alias);
            if meant != name.as_str() && names.iter().any(|name| *name == meant) {
                return Err(section.wrong(
                    "alias",
                    format!(
                        "{} is another registry's name: choose another",
                        shown(alias)
                    ),
                ));
            }
        }
        section.finish()?;
        upstreams.insert(name, upstream);
    }
    Ok(upstreams)
}

fn upstream(name: &str, said: &mut Section<'_, '_>) -> Result<Upstream, ConfigError> {
    let implied = Upstream::implied(name);
    let mut endpoints = said
        .texts("endpoints", Endpoint::parse)?
        .unwrap_or(implied.endpoints);
    if endpoints.is_empty() {
        return Err(said.wrong(
            "endpoints",
            "the list is empty: name one, or leave the key out for the registry itself",
        ));
    }
    let ca = said.text("ca", value::path)?;
    let insecure_skip_verify = said.flag("insecure_skip_verify")?.unwrap_or(false);
    let client_cert = said.text("client_cert", value::path)?;
    let client_key = said.text("client_key", value::path)?;
    let client = match (client_cert, client_key) {
        (Some(cert), Some(key)) => Some(ClientCertificate { cert, key }),
        (None, None) => None,
        (Some(_), None) => {
            return Err(said.wrong(
                "client_cert",
                "it is of no use without its key: name that in `client_key`",
            ));
        }
        (None, Some(_)) => {
            return Err(said.wrong(
                "client_key",
                "it is of no use without its certificate: name that in `client_cert`",
            ));
        }
    };
    for endpoint in &mut endpoints {
        endpoint.ca.clone_from(&ca);
        endpoint.insecure_skip_verify = insecure_skip_verify;
        endpoint.client.clone_from(&client);
    }
    let proves_access = said.flag("proves_access")?.unwrap_or(false);
    let alias = said.text("alias", value::alias)?;
    let ttl = said.quantity("ttl", value::lifetime)?;
    let mut tags = Vec::new();
    for mut rule in said.sections("tags")? {
        let pattern = rule.text("match", Pattern::tag)?;
        let fresh_for = rule.quantity("fresh_for", value::time)?;
        tags.push(TagRule {
            pattern: rule.needed("match", pattern)?,
            fresh_for: rule.needed("fresh_for", fresh_for)?,
        });
        rule.finish()?;
    }
    let access = said.choice("access", &Sharing::WORDS)?.unwrap_or_default();
    let credentials = match said.table("credentials")? {
        Some(table) => Some(credentials(table)?),
        None if access == Sharing::Shared => {
            return Err(said.wrong(
                "access",
                "there is nothing to share without `credentials`: add them, or leave `access` out",
            ));
        }
        None => None,
    };
    Ok(Upstream {
        endpoints,
        configured: true,
        proves_access,
        alias,
        ttl,
        tags,
        access,
        credentials,
    })
}
