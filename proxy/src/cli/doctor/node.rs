//! The node's own files: containerd's configuration and its `hosts.toml` files.

use std::path::Path;

use larder_shared::admin::{Check, Finding, Status};

use super::DoctorArgs;
use crate::cli::{
    install,
    node_files::{CERTS_DIR, CONFIG, NodeFiles},
    runtime::{self, DEFAULT, Host, HostDir, Hosts, Said},
};

/// The port that larder has by default.
const PORT: u16 = 7420;

/// Checks the files that exist here, and returns the addresses at which containerd looks for larder.
pub fn look(
    args: &DoctorArgs,
    status: Option<&Status>,
    findings: &mut Vec<Finding>,
) -> Vec<String> {
    let files = &args.files;
    let certs = files.certs_dir();
    let config = files.shown(args.containerd_config.as_deref(), CONFIG);
    let Some(certs) = certs else {
        let unseen = |path: &str| {
            format!(
                "{path} cannot be seen from here, so it was not checked (--containerd-certs-dir, --containerd-config)"
            )
        };
        findings.push(Finding::ok(Check::Runtime, unseen(CONFIG)));
        findings.push(Finding::ok(Check::Hosts, unseen(CERTS_DIR)));
        return Vec::new();
    };
    match config {
        Some(config) => findings.extend(runtime_reads(files, &config, &certs)),
        None => findings.push(Finding::ok(
            Check::Runtime,
            format!("{CONFIG} cannot be seen from here, so it was not checked"),
        )),
    }
    let port = status.and_then(|status| status.listen.registry.rsplit_once(':')?.1.parse().ok());
    let (found, addresses) = hosts(files, &certs, port);
    findings.extend(found);
    addresses
}

fn runtime_reads(files: &NodeFiles, config: &Path, certs: &Path) -> Vec<Finding> {
    let advice = install::containerd_advice(&files.node_root, config, certs);
    if advice.is_empty() {
        let what = format!("{} names {}", config.display(), certs.display());
        return vec![Finding::ok(Check::Runtime, what)];
    }
    let each = advice.into_iter();
    each.map(|(found, fix)| Finding::error(Check::Runtime, found, fix))
        .collect()
}

/// Settings that make pulls bypass larder, or fail while larder is down; and larder's addresses in them.
fn hosts(files: &NodeFiles, certs: &Path, port: Option<u16>) -> (Vec<Finding>, Vec<String>) {
    let install = files.how_to_install(None);
    let directories = match files
        .root()
        .and_then(|root| runtime::directories(&root, certs))
    {
        Ok(Some(directories)) => directories,
        Ok(None) => {
            let found = format!(
                "{} does not exist, so every pull bypasses larder",
                certs.display()
            );
            return (
                vec![Finding::error(Check::Hosts, found, install)],
                Vec::new(),
            );
        }
        Err(error) => {
            let found = format!("{} cannot be read: {}", certs.display(), error.root_cause());
            let fix = "run the command as root, or check the directory by hand";
            return (vec![Finding::error(Check::Hosts, found, fix)], Vec::new());
        }
    };
    let (mut findings, mut addresses) = (Vec::new(), Vec::new());
    for dir in &directories {
        match larder_in(dir, port) {
            Some((hosts, at)) => {
                addresses.extend(runtime::local(&hosts.listed[at].url));
                findings.extend(traps(dir, hosts, at, port));
            }
            None => findings.extend(without(files, dir, &directories, port)),
        }
    }
    if !directories.iter().any(|dir| larder_in(dir, port).is_some())
        && !findings.iter().any(|f| f.check == Check::Hosts.as_str())
    {
        let found = format!(
            "no hosts.toml in {} names larder, so every pull bypasses it",
            certs.display()
        );
        findings.push(Finding::error(Check::Hosts, found, install));
    }
    if findings.is_empty() {
        let names: Vec<_> = directories.iter().map(|dir| dir.name.as_str()).collect();
        findings.push(Finding::ok(
            Check::Hosts,
            format!("containerd asks larder first: {}", names.join(", ")),
        ));
    }
    addresses.sort_unstable();
    addresses.dedup();
    (findings, addresses)
}

/// Whether any file names the larder at this port.
pub fn names_larder(files: &NodeFiles, port: u16) -> Option<bool> {
    let certs = files.certs_dir()?;
    let directories = runtime::directories(&files.root().ok()?, &certs).ok()?;
    let directories = directories.unwrap_or_default();
    Some(
        directories
            .iter()
            .any(|dir| larder_in(dir, Some(port)).is_some()),
    )
}

/// The hosts of a directory, and larder's place among them.
fn larder_in(dir: &HostDir, port: Option<u16>) -> Option<(&Hosts, usize)> {
    let Said::Hosts(hosts) = &dir.said else {
        return None;
    };
    let installed = |url: &String| hosts.installed.as_ref() == Some(url);
    let mut each = hosts.listed.iter();
    let at = each.position(|host| installed(&host.url) || is_larder(&host.url, port))?;
    Some((hosts, at))
}

/// A host on this node's loopback, at the daemon's port or the default one. If the daemon's port is unknown, any port
/// counts.
fn is_larder(url: &str, port: Option<u16>) -> bool {
    let local = runtime::local(url);
    let named = local.and_then(|at| at.rsplit_once(':')?.1.parse::<u16>().ok());
    named.is_some_and(|named| named == PORT || port.is_none_or(|port| named == port))
}

/// A finding if pulls by this directory bypass larder.
fn without(
    files: &NodeFiles,
    dir: &HostDir,
    all: &[HostDir],
    port: Option<u16>,
) -> Option<Finding> {
    let (pulls, fix) = if dir.name == DEFAULT {
        let all = "pulls from registries without a directory of their own".to_owned();
        (all, files.how_to_install(None))
    } else {
        let registry = registry_of(&dir.name);
        (
            format!("pulls from {registry}"),
            files.how_to_install(Some(&registry)),
        )
    };
    let file = dir.file.display();
    if let Said::Unusable(why) = &dir.said {
        return Some(Finding::error(
            Check::Hosts,
            format!("{file}: containerd ignores this file, so {pulls} bypass larder: {why}"),
            format!("fix the file, or remove it, then: {fix}"),
        ));
    }
    let named = |other: &&HostDir| larder_in(other, port).is_some();
    let default = all.iter().find(|other| other.name == DEFAULT);
    let found = match &dir.said {
        Said::Nothing if dir.name != DEFAULT => format!(
            "{} has no hosts.toml and hides _default, so {pulls} bypass larder",
            dir.file.parent().unwrap_or(&dir.file).display()
        ),
        _ if default.as_ref().is_some_and(named) => {
            format!("{file} does not name larder and hides _default, so {pulls} bypass it")
        }
        // An install for some registries leaves the other directories as they are.
        _ if all.iter().any(|other| named(&other)) => return None,
        _ => format!("{file} does not name larder, so {pulls} bypass it"),
    };
    Some(Finding::warning(Check::Hosts, found, fix))
}

/// Settings that make pulls fail although the file names larder.
fn traps(dir: &HostDir, hosts: &Hosts, at: usize, port: Option<u16>) -> Vec<Finding> {
    let (file, host) = (dir.file.display(), &hosts.listed[at]);
    let mut findings = Vec::new();
    let error = |found: String, fix: &str| Finding::error(Check::Hosts, found, fix);
    if at > 0 {
        findings.push(Finding::warning(
            Check::Hosts,
            format!(
                "{file}: containerd asks {} before larder",
                hosts.listed[0].url
            ),
            "move larder's section above it",
        ));
    }
    if let Some(server) = hosts.server.as_deref().filter(|s| is_larder(s, port)) {
        findings.push(error(
            format!("{file}: `server` is {server}, so no pull works while larder is down"),
            "remove the `server` line, or set it to the registry itself",
        ));
    }
    findings.extend(trap(host).map(|(what, fix)| error(format!("{file}: {what}"), fix)));
    findings
}

fn trap(host: &Host) -> Option<(String, &'static str)> {
    let url = &host.url;
    if url.starts_with("https://") || !url.contains("://") {
        return Some((
            format!("containerd connects to {url} by TLS, and larder speaks plain HTTP there"),
            "write http:// in front of the address",
        ));
    }
    if host.tls {
        return Some((
            format!(
                "`ca`, `client` or `skip_verify` is set for {url}, so containerd tries TLS there first"
            ),
            "remove these keys from larder's section",
        ));
    }
    if !(host.pulls() && host.resolves()) {
        return Some((
            format!(
                "the capabilities of {url} lack pull or resolve, so containerd does not send it every request"
            ),
            "set capabilities = [\"pull\", \"resolve\"] in larder's section",
        ));
    }
    if host.override_path && !url.contains("/v2") {
        return Some((
            format!("override_path is set for {url}, so containerd leaves out /v2"),
            "remove override_path from larder's section",
        ));
    }
    None
}

/// The registry to which a directory belongs.
fn registry_of(directory: &str) -> String {
    let port = directory
        .strip_suffix('_')
        .and_then(|name| name.rsplit_once('_'))
        .filter(|(_, port)| port.parse::<u16>().is_ok());
    port.map_or_else(
        || directory.to_owned(),
        |(host, port)| format!("{host}:{port}"),
    )
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use clap::{Args as _, FromArgMatches as _};
    use larder_shared::admin::Severity;

    use super::*;

    fn looked(arguments: &[&str]) -> Vec<Finding> {
        let command = DoctorArgs::augment_args(clap::Command::new("doctor"));
        let matches = command.get_matches_from([&["doctor"], arguments].concat());
        let mut findings = Vec::new();
        look(
            &DoctorArgs::from_arg_matches(&matches).unwrap(),
            None,
            &mut findings,
        );
        findings
    }

    #[test]
    fn a_mounted_node_is_checked_and_named_by_its_own_paths() {
        let node = tempfile::tempdir().unwrap();
        let containerd = node.path().join("etc/containerd");
        let default = containerd.join("certs.d/_default");
        fs::create_dir_all(&default).unwrap();
        let config = "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";
        fs::write(containerd.join("config.toml"), config).unwrap();
        let hosts = "[host.\"http://127.0.0.1:7420\"]\ncapabilities = [\"pull\", \"resolve\"]\n";
        fs::write(default.join("hosts.toml"), hosts).unwrap();
        let root = format!("--node-root={}", node.path().display());
        let findings = looked(&[&root]);
        let words: Vec<&str> = findings.iter().map(|f| f.found.as_str()).collect();
        assert!(
            findings.iter().all(|f| f.severity == Severity::Ok),
            "{words:?}"
        );
        let wanted = [
            "/etc/containerd/config.toml names /etc/containerd/certs.d",
            "containerd asks larder first: _default",
        ];
        assert_eq!(words, wanted);

        fs::write(default.join("hosts.toml"), "").unwrap();
        let findings = looked(&[&root]);
        let last = findings.last().unwrap();
        let found = &last.found;
        assert!(
            found.starts_with("/etc/containerd/certs.d/_default/hosts.toml does not name larder"),
            "{found}"
        );
        // In a pod, the chart runs `larder install`, not a person.
        assert!(
            last.fix.contains("runtime.enabled=true") && !last.fix.contains("larder install"),
            "{}",
            last.fix
        );
        fs::write(default.join("hosts.toml"), hosts).unwrap();
        let hides = containerd.join("certs.d/ghcr.io");
        fs::create_dir(&hides).unwrap();
        let findings = looked(&[&root]);
        let fix = &findings.last().unwrap().fix;
        assert!(
            fix.contains("runtime.registries=[\"*\", \"ghcr.io\"]"),
            "{fix}"
        );
        fs::remove_dir(&hides).unwrap();
        // On the node, an absolute link starts at the node's root.
        let store = node.path().join("nix/store");
        fs::create_dir_all(&store).unwrap();
        fs::rename(&containerd, store.join("containerd")).unwrap();
        symlink("/nix/store/containerd", &containerd).unwrap();
        let linked = store.join("containerd/certs.d/_default/hosts.toml");
        fs::remove_file(&linked).unwrap();
        fs::write(store.join("hosts.toml"), hosts).unwrap();
        symlink("/nix/store/hosts.toml", linked).unwrap();
        let words: Vec<_> = looked(&[&root]).into_iter().map(|f| f.found).collect();
        assert_eq!(words, wanted);
        // If a flag names the path, the file must exist. At the default path, it may be elsewhere.
        fs::remove_file(&containerd).unwrap();
        let unseen =
            |findings: &[Finding]| findings.iter().all(|f| f.found.contains("cannot be seen"));
        assert!(unseen(&looked(&[&root])));
        let named = looked(&[&root, "--containerd-certs-dir=/etc/containerd/certs.d"]);
        assert!(!unseen(&named), "{named:?}");
    }
}
