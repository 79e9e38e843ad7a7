//! Who may see the status page: pure.
//!
//! It names images and registries, so it is for whoever is on the node, or is let in by `kubectl port-forward`. Both
//! arrive on loopback. A browser there also runs other people's pages, and they must not read it: neither by a name of
//! theirs that suddenly means 127.0.0.1, nor as a part of a page of theirs.

use std::net::IpAddr;

use http::{HeaderMap, StatusCode, header, uri::Authority};

/// Where a request to the telemetry port arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// On a loopback address of `listen`.
    Loopback,
    /// On any other address, or on `expose`: metrics and health alone.
    Exposed,
}

impl Arrival {
    /// By the address of this end of the connection.
    pub fn at(local: IpAddr) -> Self {
        if local.to_canonical().is_loopback() {
            Self::Loopback
        } else {
            Self::Exposed
        }
    }
}

/// Why the page is not shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// `Host` is no name of this machine: DNS may say today that anybody's name is 127.0.0.1.
    Host,
    /// Another site's page asks.
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
                "the status page is at localhost or an IP address: use one of them in the URL\n"
            }
            Self::Site => "another site may not read the status page\n",
        }
    }
}

/// Decides by the request's headers.
pub fn check(headers: &HeaderMap) -> Result<(), Refusal> {
    let said = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if !said(header::HOST.as_str()).is_some_and(is_here) {
        return Err(Refusal::Host);
    }
    // Browsers say where a request comes from. A link that a person follows is fine; a part of a page is not.
    let foreign = matches!(said("sec-fetch-site"), Some("cross-site" | "same-site"));
    let followed =
        said("sec-fetch-mode") == Some("navigate") && said("sec-fetch-dest") == Some("document");
    if foreign && !followed {
        return Err(Refusal::Site);
    }
    Ok(())
}

/// Whether a `Host` names this machine by itself: `localhost`, what is below it, or an address; with any port, since
/// a port-forward has its own.
fn is_here(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host().to_ascii_lowercase();
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.ends_with(".localhost") || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(pairs: &[(&'static str, &str)]) -> Result<(), Refusal> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().expect("a value"));
        }
        check(&headers)
    }

    #[test]
    fn only_names_that_are_this_machine_for_certain_will_do() {
        for host in [
            "localhost",
            "localhost:7421",
            "LOCALHOST:1",
            "node.localhost:8080",
            "127.0.0.1:7421",
            "127.1.2.3",
            "[::1]:7421",
            "10.0.0.7:7421",
        ] {
            assert_eq!(checked(&[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example:7421",
            "127.0.0.1.evil.example",
            "notlocalhost",
            "evil.example:7421",
            "user@evil.example",
        ] {
            assert_eq!(checked(&[("host", host)]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(checked(&[]), Err(Refusal::Host));
    }

    #[test]
    fn other_sites_pages_may_lead_here_but_not_read() {
        let from = |site, mode, dest| {
            checked(&[
                ("host", "localhost"),
                ("sec-fetch-site", site),
                ("sec-fetch-mode", mode),
                ("sec-fetch-dest", dest),
            ])
        };
        assert_eq!(from("none", "navigate", "document"), Ok(()));
        assert_eq!(from("same-origin", "cors", "empty"), Ok(()));
        assert_eq!(from("cross-site", "navigate", "document"), Ok(()));
        // Another port of localhost is the same site.
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
