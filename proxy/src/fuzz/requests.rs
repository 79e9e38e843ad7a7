//! Requests of clients and of other members.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use http::{HeaderValue, uri::PathAndQuery};
use larder_shared::name::ImageName;
use larder_shared::range::Selected;
use larder_shared::route::{Address, Registries};
use larder_shared::trace::TraceParent;
use larder_shared::{
    Digest, Range, RangeHeader, Reference, RegistryName, Repository, Role, Route, Tag,
};

use crate::clock::unix_now;
use crate::cluster::records::PeerRecord;
use crate::visitor::{Named, Names, named};

/// A configuration with an alias.
struct Configured;

impl Registries for Configured {
    fn alias(&self, component: &str) -> Option<RegistryName> {
        let name = (component == "near").then_some("registry.example:5000")?;
        name.parse().ok()
    }

    fn default_upstream(&self) -> RegistryName {
        "docker.io".parse().expect("a name")
    }
}

/// A path, and a query in what follows its line.
pub(super) fn routes(text: &str) {
    let (path, query) = text.split_once('\n').unwrap_or((text, ""));
    // Nothing else gets past the HTTP server.
    let Ok(target) = format!("{path}?{query}").parse::<PathAndQuery>() else {
        return;
    };
    let Ok(Some(route)) = Route::parse(target.path(), target.query()) else {
        return;
    };
    let Some(address) = route.address() else {
        assert_eq!(route, Route::Ping);
        return;
    };
    if let Route::Tags(_, query) | Route::Referrers(_, _, query) = &route {
        let passed_on = format!("/?{query}").parse::<PathAndQuery>();
        assert!(passed_on.is_ok(), "{query:?} can be asked of nobody");
    }
    let Ok((registry, repository)) = address.resolve(&Configured) else {
        return;
    };
    // Names are parts of paths on disk and of URLs.
    let components = [registry.as_str()].into_iter();
    for component in components.chain(repository.as_str().split('/')) {
        assert!(!matches!(component, "" | "." | ".."), "{route:?}");
        assert!(!component.contains('/'), "{route:?}");
        let plain = component.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(plain, "{route:?}");
    }
    // The next page of a list is one of the same repository.
    let list = match &route {
        Route::Tags(_, query) => Some(address.next_page("tags/list", query)),
        Route::Referrers(_, digest, query) => {
            Some(address.next_page(&format!("referrers/{digest}"), query))
        }
        _ => None,
    };
    if let Some(next) = list {
        assert!(HeaderValue::from_str(&next).is_ok(), "{next:?}");
        let (path, query) = next.split_once('?').expect("a query");
        let next = Route::parse(path, Some(query)).expect("a route");
        let next = next.as_ref().and_then(Route::address);
        let there = next.map(|address| address.resolve(&Configured));
        let here = (registry.clone(), repository.clone());
        assert_eq!(there, Some(Ok(here)), "{path}?{query}");
    }
    // A member is asked for the same repository as this node was.
    let again = Address::of(&registry, &repository).resolve(&Configured);
    assert_eq!(again.ok(), Some((registry, repository)));
}

/// What was read is written so that it reads the same.
fn one_spelling<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(read) = text.parse::<T>() {
        let written = read.to_string();
        assert_eq!(written.parse::<T>().ok().as_ref(), Some(&read), "{text}");
    }
}

pub(super) fn names(text: &str) {
    one_spelling::<RegistryName>(text);
    one_spelling::<Repository>(text);
    one_spelling::<Tag>(text);
    one_spelling::<Digest>(text);
    one_spelling::<Reference>(text);
    one_spelling::<ImageName>(text);
}

/// The values of `Host`, a line each.
pub(super) fn visitors(text: &str) {
    let mut request = http::Request::new(());
    for line in text.lines() {
        if let Ok(value) = HeaderValue::from_str(line) {
            request.headers_mut().append(http::header::HOST, value);
        }
    }
    let names = Names {
        own: "node-1.example",
        allowed: &[],
    };
    if named(&request, names) == Ok(Named::Here) {
        let hosts = request.headers().get_all(http::header::HOST);
        for host in hosts.iter().filter_map(|host| host.to_str().ok()) {
            let host = host.rsplit('@').next().unwrap_or_default();
            let host = host.to_ascii_lowercase();
            // All below `localhost` is this machine.
            assert!(
                host.contains(".localhost") || !host.contains("attacker"),
                "{host}"
            );
        }
    }
}

/// A length, and a `Range` in what follows its line.
pub(super) fn ranges(text: &str) {
    let (length, header) = text.split_once('\n').unwrap_or((text, ""));
    let length = length.trim().parse().unwrap_or(u64::MAX);
    let header = RangeHeader::parse(Some(header));
    let within = |range: &Range| range.start < range.end && range.end <= length;
    match header.select(length) {
        Selected::Whole | Selected::Unsatisfiable => {}
        Selected::One { range, open } => {
            assert!(within(&range), "{range:?} of {length}");
            assert!(!open || range.end == length, "{range:?} of {length}");
        }
        Selected::Many(ranges) => {
            assert!(ranges.len() > 1 && ranges.iter().all(within), "{ranges:?}");
            let sum: u128 = ranges.iter().map(|range| u128::from(range.len())).sum();
            assert!(sum <= u128::from(length), "{ranges:?} of {length}");
        }
    }
    // What the header says before the length is known is true for every length that holds it.
    if let (Some(start), Some(end)) = (header.first_start(), header.first_end()) {
        assert!(start < end, "{header:?}");
    }
}

/// The values of a member's headers, and a record behind an empty line.
pub(super) fn peers(text: &str) {
    let (head, record) = text.split_once("\n\n").unwrap_or((text, text));
    for value in head.lines() {
        let role = Role::parse(value);
        assert!(role.is_none_or(|role| role.as_str() == value), "{value}");
        one_spelling::<TraceParent>(value);
    }
    if let Ok(kept) = serde_json::from_str::<PeerRecord>(record) {
        let now = unix_now();
        let sane = kept.sane(now);
        assert!(sane.latest().is_none_or(|at| at <= now + 60), "{sane:?}");
        let mut merged = PeerRecord::default();
        merged.merge(sane);
        let mut again = merged.clone();
        again.merge(merged.clone());
        assert_eq!(again, merged, "the same word is no news");
    }
}
