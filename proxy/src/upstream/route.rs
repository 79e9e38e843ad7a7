//! How an endpoint and the targets of its redirects are reached: which addresses are allowed, which servers TLS trusts.

use http::Uri;

use super::Upstreams;
use crate::{
    client::{self, Reach, Route, Tls, Whose},
    config::{Endpoint, Upstream},
};

/// How to reach a place to which an upstream led.
pub(super) struct Led {
    pub(super) route: Route,
    /// The operator named both ends, so plain HTTP is allowed there.
    pub(super) named: bool,
}

impl Upstreams {
    /// How to reach a place to which the endpoint at `at` led. `named` in the result: the configuration names the
    /// place, and the registry that led there is a configured one (see [`Reach::led`]).
    pub(super) fn led_to(&self, uri: &Uri, at: &str, from: &Route) -> Led {
        let config = self.config.load();
        let from_uri: Option<Uri> = at.parse().ok();
        let from_loopback = from_uri.as_ref().is_some_and(client::is_loopback);
        let mut named: Option<(&Endpoint, Whose)> = None;
        for upstream in config.upstreams.values() {
            let endpoint_at = |wanted: &Uri| {
                let mut endpoints = upstream.endpoints.iter();
                endpoints.find(|endpoint| client::same_place(&endpoint.url, wanted))
            };
            let Some(endpoint) = endpoint_at(uri) else {
                continue;
            };
            if from_uri
                .as_ref()
                .is_some_and(|from| endpoint_at(from).is_some())
            {
                named = Some((endpoint, Whose::Its));
                break;
            }
            named.get_or_insert((endpoint, Whose::Another));
        }
        let (tls, whose) = match (named, from.reach) {
            (Some((endpoint, Whose::Its)), _) => (Tls::of(endpoint), Whose::Its),
            // A client's certificate is for the registry that it was configured for.
            (Some((endpoint, whose)), _) => (Tls::of(endpoint).without_client(), whose),
            (None, Reach::Named) => (from.tls.clone().without_client(), Whose::Nobody),
            (None, _) => (Tls::default(), Whose::Nobody),
        };
        Led {
            named: whose != Whose::Nobody && from.reach == Reach::Named,
            route: Route {
                reach: from.reach.led(whose, from_loopback),
                tls,
            },
        }
    }
}

/// How to reach an endpoint.
pub(super) fn route_of(upstream: &Upstream, endpoint: &Endpoint) -> Route {
    Route {
        reach: if upstream.configured {
            Reach::Named
        } else {
            Reach::Direct
        },
        tls: Tls::of(endpoint),
    }
}
