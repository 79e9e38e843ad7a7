//! What containerd does with its `hosts.toml` files, read as containerd reads them. Never writes.
//!
//! For a registry `H:PORT`, containerd takes the first of the directories `H_PORT_`, `H:PORT` and `_default` that
//! exists. A directory without a `hosts.toml` hides `_default` too. containerd asks the hosts in the order of the file.
//! The last one is the registry itself, unless `server` names another.

use std::path::{Path, PathBuf};

use toml::Value;

use super::install::{self, Root};

/// The directory of every registry that has no directory of its own.
pub const DEFAULT: &str = "_default";

const FILE: &str = "hosts.toml";

/// The capabilities that containerd knows. containerd refuses a file with any other word.
const CAPABILITIES: [&str; 4] = ["pull", "resolve", "push", "referrers"];

/// A registry's directory in certs.d.
#[derive(Debug)]
pub struct HostDir {
    /// The directory's own name.
    pub name: String,
    /// The path of its `hosts.toml` on the node.
    pub file: PathBuf,
    pub said: Said,
}

/// What a directory's `hosts.toml` says.
#[derive(Debug)]
pub enum Said {
    /// There is no file, or it is empty. containerd asks the registry directly, with the certificates in the directory.
    Nothing,
    /// containerd ignores the file, and asks the registry directly.
    Unusable(String),
    Hosts(Hosts),
}

/// A `hosts.toml` that containerd can use.
#[derive(Debug)]
pub struct Hosts {
    /// The hosts in the order in which containerd asks them.
    pub listed: Vec<Host>,
    /// The last host, which replaces the registry itself.
    pub server: Option<String>,
    /// The address that `larder install` has written, if it has.
    pub installed: Option<String>,
}

/// One host.
#[derive(Debug)]
pub struct Host {
    pub url: String,
    capabilities: Vec<String>,
    pub override_path: bool,
    /// Whether `ca`, `client` or `skip_verify` is set. Each makes containerd try TLS first.
    pub tls: bool,
}

impl Host {
    /// Whether containerd asks this host to resolve tags.
    pub fn resolves(&self) -> bool {
        self.can("resolve")
    }

    /// Whether containerd asks this host for content.
    pub fn pulls(&self) -> bool {
        self.can("pull")
    }

    fn can(&self, what: &str) -> bool {
        self.capabilities.iter().any(|word| word == what)
    }
}

/// All directories in the node's `dir`, sorted; `None` if `dir` does not exist.
pub fn directories(root: &Root, dir: &Path) -> anyhow::Result<Option<Vec<HostDir>>> {
    if !root.exists(dir)? {
        return Ok(None);
    }
    let names = root.directories(dir)?.into_iter();
    Ok(Some(names.map(|name| read(root, dir, name)).collect()))
}

/// The directory that containerd uses for `registry`; `None` if it finds none.
pub fn lookup(root: &Root, dir: &Path, registry: &str) -> Option<HostDir> {
    let escaped = registry
        .rsplit_once(':')
        .map(|(host, port)| format!("{host}_{port}_"));
    let names = escaped
        .into_iter()
        .chain([registry.to_owned(), DEFAULT.to_owned()]);
    names
        .into_iter()
        .find(|name| root.exists(&dir.join(name)).unwrap_or(false))
        .map(|name| read(root, dir, name))
}

fn read(root: &Root, dir: &Path, name: String) -> HostDir {
    let file = dir.join(&name).join(FILE);
    let said = match root.read(&file) {
        Ok(Some(text)) if !text.is_empty() => parse(&text),
        Ok(_) => Said::Nothing,
        Err(error) => Said::Unusable(error.root_cause().to_string()),
    };
    HostDir { name, file, said }
}

fn parse(text: &str) -> Said {
    let order = match install::hosts_in_order(text) {
        Ok(order) => order,
        Err(why) => return Said::Unusable(why),
    };
    let Ok(document) = text.parse::<toml::Table>() else {
        return Said::Unusable("it is not TOML".to_owned());
    };
    let mut hosts = Vec::new();
    for url in order {
        let said = document.get("host").and_then(|hosts| hosts.get(&url));
        let capabilities = said
            .and_then(|said| said.get("capabilities"))
            .and_then(Value::as_array);
        let words: Vec<&str> = match capabilities {
            Some(list) => list.iter().filter_map(Value::as_str).collect(),
            None => CAPABILITIES.to_vec(),
        };
        if let Some(word) = words.iter().find(|word| !CAPABILITIES.contains(word)) {
            return Said::Unusable(format!("{word:?} is no capability that containerd knows"));
        }
        let has = |key: &str| said.is_some_and(|said| said.get(key).is_some());
        let is = |key: &str| said.and_then(|said| said.get(key)?.as_bool()) == Some(true);
        hosts.push(Host {
            capabilities: words.iter().map(ToString::to_string).collect(),
            override_path: is("override_path"),
            tls: has("ca") || has("client") || has("skip_verify"),
            url,
        });
    }
    let server = document.get("server").and_then(Value::as_str);
    Said::Hosts(Hosts {
        listed: hosts,
        installed: install::installed(text),
        server: server.map(ToOwned::to_owned),
    })
}

/// The address of a host on this node's loopback, such as `127.0.0.1:7420`; `None` for other hosts.
pub fn local(url: &str) -> Option<String> {
    let url = if url.contains("://") {
        url.to_owned()
    } else {
        format!("https://{url}")
    };
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let ip = bare.parse::<std::net::IpAddr>();
    let loopback = bare == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
    let default = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    loopback.then(|| format!("{host}:{}", uri.port_u16().unwrap_or(default)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn certs(files: &[(&str, Option<&str>)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::create_dir_all(dir.path().join(name)).unwrap();
            if let Some(text) = text {
                fs::write(dir.path().join(name).join(FILE), text).unwrap();
            }
        }
        dir
    }

    #[test]
    fn the_first_directory_that_exists_counts_even_without_a_file() {
        let hosts = "[host.\"http://127.0.0.1:7420\"]\n";
        let dir = certs(&[
            (DEFAULT, Some(hosts)),
            ("ghcr.io", None),
            ("r.example_5000_", Some(hosts)),
            ("r.example:5000", None),
        ]);
        let root = Root::new(Path::new("/")).unwrap();
        for (registry, name) in [
            ("quay.io", DEFAULT),
            ("ghcr.io", "ghcr.io"),
            ("r.example:5000", "r.example_5000_"),
            ("r.example", DEFAULT),
        ] {
            assert_eq!(lookup(&root, dir.path(), registry).unwrap().name, name);
        }
        assert!(matches!(
            lookup(&root, dir.path(), "ghcr.io").unwrap().said,
            Said::Nothing
        ));
        let empty = certs(&[]);
        assert!(lookup(&root, empty.path(), "ghcr.io").is_none());
    }

    #[test]
    fn hosts_keep_the_order_of_the_file_and_what_is_said_of_them() {
        let text = "server = \"https://ghcr.io\"\n[host.\"https://z\"]\n[host.\"http://127.0.0.1:7420\"]\ncapabilities = [\"pull\"]\nskip_verify = true\n";
        let Said::Hosts(hosts) = parse(text) else {
            panic!("it can be used");
        };
        assert_eq!(hosts.server.as_deref(), Some("https://ghcr.io"));
        let [z, larder] = &hosts.listed[..] else {
            panic!("{hosts:?}");
        };
        assert!(z.url == "https://z" && z.resolves() && z.pulls() && !z.tls);
        assert!(!larder.resolves() && larder.pulls() && larder.tls);
    }

    #[test]
    fn what_containerd_refuses_is_unusable() {
        for text in ["[host", "[host.\"http://a\"]\ncapabilities = [\"fly\"]\n"] {
            assert!(matches!(parse(text), Said::Unusable(_)), "{text}");
        }
    }

    #[test]
    fn local_addresses_have_a_port() {
        for (url, expected) in [
            ("http://127.0.0.1:7420", Some("127.0.0.1:7420")),
            ("http://localhost:7420/v2/docker.io", Some("localhost:7420")),
            ("http://[::1]:7420", Some("[::1]:7420")),
            ("localhost", Some("localhost:443")),
            ("https://ghcr.io", None),
        ] {
            assert_eq!(local(url).as_deref(), expected, "{url}");
        }
    }
}
