//! Where a URL leads: its scheme, host and port.

use http::Uri;

/// `scheme://host:port` of a URL, for messages: never the path or the query.
pub fn origin(uri: &Uri) -> String {
    format!(
        "{}://{}",
        uri.scheme_str().unwrap_or("http"),
        uri.authority().map_or("", http::uri::Authority::as_str)
    )
}

/// Whether two URLs lead to the same place, after scheme, host and port were brought to one spelling.
pub fn same_place(a: &Uri, b: &Uri) -> bool {
    let place = |uri: &Uri| {
        let host = larder_shared::name::canonical_host(uri.host()?)?;
        let scheme = uri.scheme_str()?;
        let port = uri.port_u16().or(match scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        });
        Some((scheme.to_owned(), host, port?))
    };
    let a = place(a);
    a.is_some() && a == place(b)
}

/// Whether a URL's host is this node's loopback by its spelling; names are not resolved.
pub fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().and_then(larder_shared::name::canonical_host);
    host.is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || bare
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    })
}
