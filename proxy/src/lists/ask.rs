//! Asking the registry: the pages of a list, one after the other, on behalf of this node.

mod api;

use std::{collections::HashSet, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Uri, header};
use larder_shared::{
    link,
    warm::{ListBy, Listing},
};

use super::{
    Wanted,
    answers::{Malformed, acr, tags},
    fault::{Fault, FaultKind},
    gather::Gathered,
};
use crate::{
    client::{self, Uncollected},
    config::{Config, Upstream},
    credentials::{Credentials, Found},
    identity::{Identity, Key},
    upstream::{Ask, Failure, Subject, Upstreams, Want},
};

/// The most pages of one list.
const PAGES: usize = 1000;

/// Bytes of the longest page: Google sends the list of a repository as one page.
const PAGE: u64 = 16 << 20;

/// How long a page may take, and a whole list.
const PAGE_WITHIN: Duration = Duration::from_secs(30);
const LIST_WITHIN: Duration = Duration::from_mins(3);

/// How often a failed page is asked for, with a pause before each new try, varied by half. Google's API sometimes
/// answers 503 in the middle of a list.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// How many tags a page should have. Most registries put no more on one page, and some refuse a larger number.
const N: &str = "n=1000";

/// Asks registries for lists.
#[derive(Debug)]
pub(super) struct Asker {
    pub config: Arc<ArcSwap<Config>>,
    pub upstreams: Arc<Upstreams>,
    pub credentials: Arc<Credentials>,
    pub key: Arc<Key>,
}

/// A list that came.
#[derive(Debug)]
pub(super) struct Came {
    pub listing: Listing,
    /// Whether the list needed a credential.
    pub private: bool,
}

impl Asker {
    /// The list of a repository. `without_n` says that the registry refuses `n`, and is set if it does.
    pub(super) async fn list(&self, wanted: &Wanted, without_n: &mut bool) -> Result<Came, Fault> {
        let late = || {
            let why = format!(
                "{} was not listed within {} s",
                wanted.registry,
                LIST_WITHIN.as_secs()
            );
            Fault::new(FaultKind::Unreachable, why)
        };
        let listed = tokio::time::timeout(LIST_WITHIN, self.list_by(wanted, without_n)).await;
        listed.unwrap_or_else(|_| Err(late()))
    }

    async fn list_by(&self, wanted: &Wanted, without_n: &mut bool) -> Result<Came, Fault> {
        let upstream = self.config.load().upstream(wanted.registry.as_str());
        match wanted.by {
            ListBy::Gar => self.gar(wanted, &upstream).await,
            ListBy::Ecr => match self.ecr(wanted, &upstream).await? {
                Some(came) => Ok(came),
                None => self.of_registry(wanted, &upstream, without_n).await,
            },
            ListBy::Auto | ListBy::Acr | ListBy::Off => {
                self.of_registry(wanted, &upstream, without_n).await
            }
        }
    }

    /// This node's own credentials for a repository.
    async fn found(&self, wanted: &Wanted, upstream: &Upstream) -> Result<Vec<Found>, Fault> {
        let found = self
            .credentials
            .lookup(&wanted.registry, &wanted.repository, upstream)
            .await;
        found.map_err(|error| Fault::new(FaultKind::Credentials, error.to_string()))
    }

    /// The list from the registry itself: with this node's credentials, or else anonymously.
    async fn of_registry(
        &self,
        wanted: &Wanted,
        upstream: &Upstream,
        without_n: &mut bool,
    ) -> Result<Came, Fault> {
        let found = self.found(wanted, upstream).await?;
        let own = found.into_iter().map(|found| self.key.found(found));
        let mut refused = None;
        for identity in own.chain([Identity::anonymous()]) {
            match self
                .pages(wanted, upstream, &identity, &mut *without_n)
                .await
            {
                Ok(listing) => {
                    return Ok(Came {
                        listing,
                        private: !identity.is_anonymous(),
                    });
                }
                // An answer to a credential counts more than one to an anonymous request.
                Err(fault) if fault.kind.is_answer() => {
                    refused.get_or_insert(fault);
                }
                Err(fault) => return Err(fault),
            }
        }
        let none = || {
            Fault::new(
                FaultKind::Credentials,
                "no request for the tags may be sent",
            )
        };
        Err(refused.unwrap_or_else(none))
    }

    async fn pages(
        &self,
        wanted: &Wanted,
        upstream: &Upstream,
        identity: &Identity,
        without_n: &mut bool,
    ) -> Result<Listing, Fault> {
        let fault = |failure: &Failure| Fault::of(failure, wanted.by);
        let origin = upstream.endpoints.last().map(|endpoint| &endpoint.url);
        let at = origin.map_or_else(|| wanted.registry.to_string(), client::origin);
        let mut query = if *without_n { "" } else { N }.to_owned();
        let (mut gathered, mut seen) = (Gathered::default(), HashSet::new());
        for _ in 0..PAGES {
            let subject = match wanted.by {
                ListBy::Acr => Subject::AcrTags(query.clone()),
                _ => Subject::Tags(query.clone()),
            };
            let (body, next) = match self.page(wanted, identity, &at, subject).await {
                Err(failure) if query == N && failure.declined().is_some() => {
                    *without_n = true;
                    query.clear();
                    continue;
                }
                came => came.map_err(|failure| fault(&failure))?,
            };
            let read = match wanted.by {
                ListBy::Acr => acr::page(&body, &mut gathered),
                _ => tags::page(&body, &mut gathered),
            };
            read.map_err(|malformed| Fault::malformed(&at, &malformed))?;
            let Some(next) = next else {
                return Ok(gathered.listing());
            };
            query = following(&next, origin, &mut seen)
                .map_err(|malformed| Fault::malformed(&at, &malformed))?;
        }
        Err(endless(&at))
    }

    /// One page, and the link to the next one.
    async fn page(
        &self,
        wanted: &Wanted,
        identity: &Identity,
        at: &str,
        subject: Subject,
    ) -> Result<(Bytes, Option<String>), Failure> {
        let mut ask = Ask::new(&wanted.registry, &wanted.repository, subject, Want::All);
        ask.identity = identity.clone();
        // A mirror may list only what it has.
        ask.of_origin = true;
        ask.within = Some(PAGE_WITHIN);
        again(|| self.put(&ask, at)).await
    }

    async fn put(&self, ask: &Ask, at: &str) -> Result<(Bytes, Option<String>), Failure> {
        let answer = self.upstreams.ask(ask).await?;
        let links = answer.headers.get_all(header::LINK).iter();
        let next = link::next_page(links.filter_map(|value| value.to_str().ok()));
        let body = client::collect_bounded(answer.body, PAGE, PAGE_WITHIN).await;
        let body = body.map_err(|why| uncollected(at, &why))?;
        Ok((body, next))
    }
}

/// Asks again for a page that did not arrive.
async fn again<T, Asking>(ask: impl Fn() -> Asking) -> Result<T, Failure>
where
    Asking: Future<Output = Result<T, Failure>>,
{
    let mut tries = 1;
    loop {
        match ask().await {
            Err(Failure::Unreachable { .. }) if tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
            }
            came => return came,
        }
    }
}

fn endless(at: &str) -> Fault {
    Fault::new(
        FaultKind::Invalid,
        format!("{at} has more than {PAGES} pages of tags"),
    )
}

/// The query of the next page. Its host must be the one that was asked: larder asks the same place in any case, and no
/// list goes on elsewhere. No page may come twice.
fn following(
    next: &str,
    origin: Option<&Uri>,
    seen: &mut HashSet<String>,
) -> Result<String, Malformed> {
    let wrong = |what: &str| Malformed::Form(format!("a list {what}"));
    let rest = next.split_once("://").map(|(_, rest)| rest);
    if let Some(rest) = rest.or_else(|| next.strip_prefix("//")) {
        let host = rest.split(['/', '?', '#', ':']).next().unwrap_or_default();
        let own = origin.and_then(|origin| origin.host());
        if !own.is_some_and(|own| own.eq_ignore_ascii_case(host)) {
            return Err(wrong("that goes on at another host"));
        }
    }
    let plain = next.split('#').next().unwrap_or_default();
    let Some((_, query)) = plain.split_once('?').filter(|(_, query)| !query.is_empty()) else {
        return Err(wrong("whose next page has no place"));
    };
    if !seen.insert(query.to_owned()) {
        return Err(wrong("whose pages go in a circle"));
    }
    Ok(query.to_owned())
}

fn uncollected(at: &str, why: &Uncollected) -> Failure {
    let (at, text) = (at.to_owned(), why.to_string());
    match why {
        Uncollected::TooLong(_) => Failure::Invalid { at, why: text },
        Uncollected::Broken(_) | Uncollected::Late(_) => Failure::Unreachable { at, why: text },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_at_the_same_host_and_comes_once() {
        let origin: Uri = "https://r.io:5000".parse().unwrap();
        let following = |next: &str, seen: &mut HashSet<String>| {
            super::following(next, Some(&origin), seen).map_err(|malformed| match malformed {
                Malformed::Form(what) => what,
                Malformed::TooMany => unreachable!("no tags were read"),
            })
        };
        for (next, expected) in [
            ("/v2/a/tags/list?n=5&last=x", Ok("n=5&last=x")),
            ("?last=x", Ok("last=x")),
            ("https://r.io/v2/a/tags/list?last=x", Ok("last=x")),
            ("http://R.io:80/v2/a/tags/list?last=x#y", Ok("last=x")),
            ("//r.io/v2/a/tags/list?last=x", Ok("last=x")),
            ("https://evil.io/v2/a/tags/list?last=x", Err("another host")),
            ("//evil.io?last=x", Err("another host")),
            ("https://r.io.evil.io/?last=x", Err("another host")),
            ("/v2/a/tags/list", Err("no place")),
            ("/v2/a/tags/list?", Err("no place")),
            ("", Err("no place")),
        ] {
            let found = following(next, &mut HashSet::new());
            match expected {
                Ok(query) => assert_eq!(found.as_deref(), Ok(query), "{next}"),
                Err(word) => assert!(found.unwrap_err().contains(word), "{next}"),
            }
        }
        let mut seen = HashSet::new();
        assert!(following("?last=x", &mut seen).is_ok());
        assert!(following("?last=y", &mut seen).is_ok());
        let circle = following("https://r.io/v2/a/tags/list?last=x", &mut seen);
        assert!(circle.unwrap_err().contains("circle"));
    }
}
