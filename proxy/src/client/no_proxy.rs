//! `NO_PROXY`, as Go's programs read it (golang.org/x/net/http/httpproxy). A node's runtimes are written in Go, and one
//! variable is set for all of them.

use std::net::IpAddr;

use ipnet::IpNet;

/// The hosts that are reached without a proxy.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct NoProxy {
    everything: bool,
    rules: Vec<Rule>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Rule {
    Net(IpNet),
    Address(IpAddr, Option<String>),
    Domain {
        /// The domain, with a dot in front.
        suffix: String,
        /// The domain itself is meant as well as the names below it.
        itself: bool,
        port: Option<String>,
    },
}

impl NoProxy {
    pub(super) fn parse(text: &str) -> Self {
        let mut read = Self::default();
        for entry in text.split(',') {
            let entry = entry.trim().to_lowercase();
            if entry == "*" {
                read.everything = true;
                return read;
            }
            read.rules.extend(rule(&entry));
        }
        read
    }

    /// Whether `host:port` is reached without a proxy, which loopback addresses always are.
    pub(super) fn contains(&self, host: &str, port: u16) -> bool {
        let host = host.trim().to_lowercase();
        let address = unbracketed(&host).parse::<IpAddr>().ok();
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        let port = port.to_string();
        let meant = |wanted: &Option<String>| wanted.as_ref().is_none_or(|wanted| *wanted == port);
        self.everything
            || self.rules.iter().any(|rule| match rule {
                Rule::Net(net) => address.is_some_and(|address| net.contains(&address)),
                Rule::Address(named, port) => address == Some(*named) && meant(port),
                Rule::Domain {
                    suffix,
                    itself,
                    port,
                } => {
                    let named = host.ends_with(suffix) || (*itself && host == suffix[1..]);
                    named && meant(port)
                }
            })
    }
}

/// Parses one entry; `None` for an entry without a meaning.
fn rule(entry: &str) -> Option<Rule> {
    if entry.is_empty() {
        return None;
    }
    if let Ok(net) = entry.parse::<IpNet>() {
        return Some(Rule::Net(net));
    }
    let (host, port) = match split_port(entry) {
        Some((host, port)) => (host, Some(port.to_owned())),
        None => (unbracketed(entry), None),
    };
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(Rule::Address(address, port));
    }
    let host = host
        .strip_prefix('*')
        .filter(|rest| rest.starts_with('.'))
        .unwrap_or(host);
    let (suffix, itself) = match host.strip_prefix('.') {
        Some("") => return None,
        Some(_) => (host.to_owned(), false),
        None if host.is_empty() => return None,
        None => (format!(".{host}"), true),
    };
    Some(Rule::Domain {
        suffix,
        itself,
        port,
    })
}

/// Splits `host:port` or `[address]:port`. A bare IPv6 address has no port.
fn split_port(entry: &str) -> Option<(&str, &str)> {
    let (host, port) = entry.rsplit_once(':')?;
    if host.starts_with('[') {
        return Some((host.strip_prefix('[')?.strip_suffix(']')?, port));
    }
    (!host.contains(':')).then_some((host, port))
}

fn unbracketed(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_mean_what_go_takes_them_for() {
        for (entries, host, port, direct) in [
            ("", "example.com", 443, false),
            ("*", "example.com", 443, true),
            ("example.com", "example.com", 443, true),
            ("example.com", "a.example.com", 443, true),
            ("example.com", "notexample.com", 443, false),
            ("example.com", "EXAMPLE.com", 443, true),
            (" a.io , Example.COM ", "example.com", 443, true),
            (".example.com", "a.example.com", 443, true),
            (".example.com", "example.com", 443, false),
            ("*.example.com", "a.b.example.com", 443, true),
            ("*.example.com", "example.com", 443, false),
            ("*example.com", "an.example.com", 443, false),
            ("example.com:5000", "example.com", 5000, true),
            ("example.com:5000", "a.example.com", 5000, true),
            ("example.com:5000", "example.com", 443, false),
            ("*.example.com:5000", "a.example.com", 5000, true),
            ("*.example.com:5000", "a.example.com", 5001, false),
            ("10.0.0.1", "10.0.0.1", 80, true),
            ("10.0.0.1:80", "10.0.0.1", 80, true),
            ("10.0.0.1:80", "10.0.0.1", 443, false),
            ("10.0.0.1", "10.0.0.2", 80, false),
            ("10.0.0.0/8", "10.1.2.3", 80, true),
            ("10.0.0.0/8", "11.1.2.3", 80, false),
            ("10.0.0.0/8", "host-10.io", 80, false),
            ("fd00::1", "[fd00::1]", 80, true),
            ("[fd00::1]", "[fd00::1]", 80, true),
            ("[fd00::1]:80", "[fd00::1]", 80, true),
            ("[fd00::1]:80", "[fd00::1]", 443, false),
            ("fd00::/8", "[fd00::7]", 443, true),
            ("", "localhost", 443, true),
            ("", "127.0.0.1", 443, true),
            ("", "[::1]", 443, true),
            (",,:80,.,*.", "example.com", 80, false),
        ] {
            let read = NoProxy::parse(entries);
            assert_eq!(
                read.contains(host, port),
                direct,
                "{entries:?} {host} {port}"
            );
        }
    }
}
