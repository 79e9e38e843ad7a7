//! Whether a request that may come from a browser is answered: pure.
//!
//! A browser on the node also runs other people's pages, which must reach neither the registry port nor the status
//! page. Such a page may point a name of its own at 127.0.0.1, so `Host` must name this node. It may also embed a
//! request, so requests by parts of a page are refused. The status page names images and registries, so it is only for
//! clients that arrive on loopback, as `kubectl port-forward` does.

use std::net::IpAddr;

use http::{Request, StatusCode, header, uri::Authority};
use larder_shared::name::canonical_host;

/// The address at which a request to the telemetry port arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// On a loopback address of `listen`.
    Loopback,
    /// On any other address, or on `expose`: only metrics and health are served.
    Exposed,
}

impl Arrival {
    /// Decides by the local address of the connection.
    pub fn at(local: IpAddr) -> Self {
        if local.to_canonical().is_loopback() {
            Self::Loopback
        } else {
            Self::Exposed
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// `Host` does not name this node. DNS may point any name at 127.0.0.1.
    Host,
    /// A page of another site sends the request.
    Site,
}

impl Refusal {
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Site => StatusCode::FORBIDDEN,
        }
    }

    pub const fn why(self) -> &'static str {
        match self {
            Self::Host => {
                "the Host is no name of this node: use localhost or an IP address in the URL, or add the name to [registry] allow_hosts"
            }
            Self::Site => "a page of another site asks, and may not read this",
        }
    }
}

/// The names that this node has besides its addresses and `localhost`.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// The host name that the kernel has.
    pub own: &'a str,
    /// `[registry] allow_hosts`, each in canonical form.
    pub allowed: &'a [String],
}

/// Decides about a request to the registry port. Registry clients are not browsers, so every request that a browser
/// sends for a page is refused. A request without `Host` does not come from a browser.
pub fn at_registry<B>(request: &Request<B>, names: Names<'_>) -> Result<(), Refusal> {
    named(request, names)?;
    let headers = request.headers();
    let foreign = headers
        .get_all("sec-fetch-site")
        .iter()
        .any(|site| !matches!(site.as_bytes(), b"none" | b"same-origin"));
    if headers.contains_key(header::ORIGIN) || foreign {
        return Err(Refusal::Site);
    }
    Ok(())
}

/// Decides about a request to the status page.
pub fn at_page<B>(request: &Request<B>, names: Names<'_>) -> Result<(), Refusal> {
    if named(request, names)? == Named::Not {
        return Err(Refusal::Host);
    }
    // Browsers say what a request is for. A person may follow another site's link; that site's page may embed nothing.
    let said = |name| request.headers().get(name).and_then(|v| v.to_str().ok());
    let foreign = matches!(said("sec-fetch-site"), Some("cross-site" | "same-site"));
    let followed =
        said("sec-fetch-mode") == Some("navigate") && said("sec-fetch-dest") == Some("document");
    if foreign && !followed {
        return Err(Refusal::Site);
    }
    Ok(())
}

/// Whether a request names the host that it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Named {
    Here,
    Not,
}

/// Compares every host that a request names, in `Host` and in its target, with this node's names.
pub fn named<B>(request: &Request<B>, names: Names<'_>) -> Result<Named, Refusal> {
    let mut named = Named::Not;
    let target = request.uri().authority().map(Authority::as_str);
    let hosts = request.headers().get_all(header::HOST).iter();
    let hosts = hosts.map(|host| host.to_str().map_err(|_| Refusal::Host));
    for host in target.map(Ok).into_iter().chain(hosts) {
        let host = host?.trim();
        if host.is_empty() {
            continue;
        }
        if !is_here(host, names) {
            return Err(Refusal::Host);
        }
        named = Named::Here;
    }
    Ok(named)
}

/// Whether a host, with any port, is this node: an address, `localhost` or a name below it, or one of its names. The
/// port proves nothing, because a port-forward has its own.
fn is_here(host: &str, names: Names<'_>) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    // RFC 3986 section 3.2.3: a port is digits. An authority with anything else there names no host.
    let after = authority.as_str().rsplit('@').next().unwrap_or_default();
    let port = after.strip_prefix(authority.host()).unwrap_or_default();
    if !matches!(port, "" | ":") && authority.port_u16().is_none() {
        return false;
    }
    let Some(host) = canonical_host(authority.host()) else {
        return false;
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let own = canonical_host(names.own).unwrap_or_default();
    let short = own.split('.').next().unwrap_or_default();
    host == "localhost"
        || host.ends_with(".localhost")
        || bare.parse::<IpAddr>().is_ok()
        || host == own
        || host == short
        || names.allowed.contains(&host)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names<'static> = Names {
        own: "Node-1.corp.example",
        allowed: &[],
    };

    fn request(target: &str, pairs: &[(&str, &str)]) -> Request<()> {
        let builder = Request::get(target);
        let add = |builder: http::request::Builder, (name, value): &(&str, &str)| {
            builder.header(*name, *value)
        };
        pairs.iter().fold(builder, add).body(()).expect("a request")
    }

    #[test]
    fn only_names_that_are_this_node_for_certain_will_do() {
        let allowed = ["registry.corp.example".to_owned()];
        let names = Names {
            allowed: &allowed,
            ..NAMES
        };
        for host in [
            "localhost",
            "localhost:7421",
            "LOCALHOST:1",
            "localhost.",
            "node.localhost:8080",
            "127.0.0.1:7421",
            "127.1.2.3",
            "127.1:7420",
            "[::1]:7421",
            "10.0.0.7:7421",
            "node-1:7420",
            "NODE-1.corp.example.",
            "registry.corp.example:80",
            "Registry.Corp.Example.",
        ] {
            let request = request("/", &[("host", host)]);
            assert_eq!(at_page(&request, names), Ok(()), "{host}");
            assert_eq!(at_registry(&request, names), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:7421",
            "127.0.0.1.evil.example",
            "notlocalhost",
            "evil.example:7421",
            "user@evil.example",
            "corp.example",
            "x.registry.corp.example",
            "node-1.evil.example",
            "node-2",
            "local host",
            "a/b",
        ] {
            let request = request("/", &[("host", host)]);
            assert_eq!(at_page(&request, names), Err(Refusal::Host), "{host}");
            assert_eq!(at_registry(&request, names), Err(Refusal::Host), "{host}");
        }
    }

    #[test]
    fn every_host_of_a_request_counts() {
        for (target, hosts, registry, page) in [
            ("/", &[][..], Ok(()), Err(Refusal::Host)),
            ("/", &[("host", "")], Ok(()), Err(Refusal::Host)),
            ("http://localhost/", &[], Ok(()), Ok(())),
            (
                "http://localhost/",
                &[("host", "127.0.0.1")],
                Ok(()),
                Ok(()),
            ),
            (
                "http://evil.example/",
                &[("host", "localhost")],
                Err(Refusal::Host),
                Err(Refusal::Host),
            ),
            (
                "http://localhost/",
                &[("host", "evil.example")],
                Err(Refusal::Host),
                Err(Refusal::Host),
            ),
            (
                "/",
                &[("host", "localhost"), ("host", "evil.example")],
                Err(Refusal::Host),
                Err(Refusal::Host),
            ),
        ] {
            let request = request(target, hosts);
            assert_eq!(at_registry(&request, NAMES), registry, "{target} {hosts:?}");
            assert_eq!(at_page(&request, NAMES), page, "{target} {hosts:?}");
        }
    }

    #[test]
    fn a_node_without_a_name_has_no_empty_name() {
        for own in ["", "(none)"] {
            let names = Names { own, allowed: &[] };
            let request = request("/", &[("host", ".")]);
            assert_eq!(at_registry(&request, names), Err(Refusal::Host), "{own}");
        }
    }

    #[test]
    fn no_page_asks_the_registry_port() {
        let asked = |pairs: &[(&str, &str)]| at_registry(&request("/v2/", pairs), NAMES);
        assert_eq!(asked(&[("sec-fetch-site", "none")]), Ok(()));
        assert_eq!(asked(&[("sec-fetch-site", "same-origin")]), Ok(()));
        for pair in [
            ("origin", "http://evil.example"),
            ("origin", "http://localhost:7420"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "what comes next"),
        ] {
            assert_eq!(
                asked(&[("host", "localhost"), pair]),
                Err(Refusal::Site),
                "{pair:?}"
            );
        }
    }

    #[test]
    fn other_sites_pages_may_lead_here_but_not_read() {
        let from = |site, mode, dest| {
            let pairs = [
                ("host", "localhost"),
                ("sec-fetch-site", site),
                ("sec-fetch-mode", mode),
                ("sec-fetch-dest", dest),
            ];
            at_page(&request("/", &pairs), NAMES)
        };
        assert_eq!(from("none", "navigate", "document"), Ok(()));
        assert_eq!(from("same-origin", "cors", "empty"), Ok(()));
        assert_eq!(from("cross-site", "navigate", "document"), Ok(()));
        // Another port of localhost counts as the same site.
        for site in ["cross-site", "same-site"] {
            for (mode, dest) in [
                ("no-cors", "script"),
                ("cors", "empty"),
                ("navigate", "iframe"),
            ] {
                assert_eq!(
                    from(site, mode, dest),
                    Err(Refusal::Site),
                    "{site} {mode} {dest}"
                );
            }
        }
    }

    #[test]
    fn loopback_is_loopback_in_both_families() {
        let at = |address: &str| Arrival::at(address.parse().expect("an address"));
        for address in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(at(address), Arrival::Loopback, "{address}");
        }
        for address in ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "0.0.0.0"] {
            assert_eq!(at(address), Arrival::Exposed, "{address}");
        }
    }
}
