//! Lists from a cloud's API, besides the registry's own: all tags with their digests, in pages with a token for the
//! next.

use std::collections::HashSet;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Full;
use larder_shared::RegistryName;

use super::{
    super::{
        Wanted,
        answers::{Malformed, ecr, gar},
        fault::{Fault, FaultKind},
        gather::Gathered,
    },
    Asker, Came, PAGE, PAGE_WITHIN, PAGES, again, endless,
};
use crate::{
    client,
    config::{self, Upstream},
    credentials::{Credential, CredentialError},
    identity::{Fingerprint, Identity},
    upstream::{ApiAnswer, ApiAsk, Failure, Refusal, Refused},
};

/// Usernames that go with Google's tokens: for `docker login`, the kubelet's plugin, and Google's helper.
const TOKEN_USERS: [&str; 3] = ["oauth2accesstoken", "_token", "_dcgcr_"];

/// The error codes with which ECR limits requests, with status 400.
const THROTTLES: [&str; 2] = ["ThrottlingException", "TooManyRequestsException"];

impl Asker {
    /// Artifact Registry's API.
    pub(super) async fn gar(&self, wanted: &Wanted, upstream: &Upstream) -> Result<Came, Fault> {
        let origin = upstream.endpoints.last().map(|endpoint| &endpoint.url);
        let host = origin.and_then(|origin| origin.host()?.parse::<RegistryName>().ok());
        let hosts = [Some(&wanted.registry), host.as_ref()];
        let named = hosts
            .into_iter()
            .flatten()
            .find_map(|host| gar::Named::of(host, &wanted.repository));
        let named = named.ok_or_else(|| {
            Fault::new(
                FaultKind::Invalid,
                format!(
                    "{}/{} is no image of Artifact Registry (LOCATION-docker.pkg.dev/PROJECT/REPOSITORY/IMAGE, gcr.io/PROJECT/IMAGE): use list = \"auto\"",
                    wanted.registry, wanted.repository
                ),
            )
        })?;
        let found = self.found(wanted, upstream).await?;
        let shown = found.into_iter().find_map(|found| {
            let bearer = bearer(&found.credential)?;
            Some((bearer, self.key.found(found).fingerprint()))
        });
        let (bearer, shown_by) = shown.ok_or_else(|| {
            Fault::new(
                FaultKind::Credentials,
                format!(
                    "the API of Artifact Registry takes Google's tokens alone: set credentials = {{ identity = \"google\" }} in [upstreams] for {}, or list = \"auto\"",
                    wanted.registry
                ),
            )
        })?;
        let api = api_endpoint(upstream);
        let base = api.map_or_else(
            || gar::API.to_owned(),
            |api| api.to_string().trim_end_matches('/').to_owned(),
        );
        let mut pages = Pages::default();
        loop {
            let request = Request::get(named.page(&base, pages.token.as_deref()))
                .header(header::AUTHORIZATION, bearer.clone())
                .header(header::ACCEPT, "application/json")
                .body(Full::default());
            let request = request.map_err(|_| unaskable(&base))?;
            let body = self
                .page_of_api(wanted, &request, shown_by, api.is_some())
                .await?;
            let next = gar::page(&body, &named, &mut pages.gathered);
            if pages.is_last(&base, next)? {
                return Ok(pages.came());
            }
        }
    }

    /// ECR's API; `None` for the public registry, for which the registry itself is asked.
    pub(super) async fn ecr(
        &self,
        wanted: &Wanted,
        upstream: &Upstream,
    ) -> Result<Option<Came>, Fault> {
        let credentials =
            |error: CredentialError| Fault::new(FaultKind::Credentials, error.to_string());
        let registry = wanted.registry.as_str();
        let signer = self.credentials.ecr(registry, upstream).await;
        let Some(signer) = signer.map_err(credentials)? else {
            return Ok(None);
        };
        let shown_by = self.credentials.known_as(upstream).map_or_else(
            || Identity::anonymous().fingerprint(),
            |known_as| self.key.known(&known_as).fingerprint(),
        );
        let mut pages = Pages::default();
        loop {
            let token = pages.token.as_deref();
            let question = ecr::question(signer.account(), &wanted.repository, token);
            let request = signer.request(ecr::TARGET, question).map_err(credentials)?;
            let at = client::origin(request.uri());
            let body = self
                .page_of_api(wanted, &request, shown_by, signer.is_named())
                .await?;
            let next = ecr::page(&body, &mut pages.gathered);
            if pages.is_last(&at, next)? {
                return Ok(Some(pages.came()));
            }
        }
    }

    async fn page_of_api(
        &self,
        wanted: &Wanted,
        request: &Request<Full<Bytes>>,
        shown_by: Fingerprint,
        named: bool,
    ) -> Result<Bytes, Fault> {
        let at = client::origin(request.uri());
        let answered = again(|| {
            let ask = ApiAsk {
                request: request.clone(),
                shown_by,
                named,
                longest: PAGE,
                within: PAGE_WITHIN,
            };
            self.upstreams.ask_api(ask, throttles)
        });
        let answer = answered
            .await
            .map_err(|failure| Fault::of(&failure, wanted.by))?;
        if answer.status == StatusCode::OK {
            return Ok(answer.body);
        }
        Err(no_page(&answer, &at, wanted))
    }
}

/// Whether ECR limits requests, by its error code.
fn throttles(answer: &ApiAnswer) -> bool {
    let word = ecr::word(&answer.body).unwrap_or_default();
    answer.status == StatusCode::BAD_REQUEST && THROTTLES.contains(&word.as_str())
}

/// The fault for an API's answer without a page. Of the answer, only the error code is repeated.
fn no_page(answer: &ApiAnswer, at: &str, wanted: &Wanted) -> Fault {
    let word = ecr::word(&answer.body).unwrap_or_default();
    let refused = || {
        Failure::Refused(Refusal {
            at: at.to_owned(),
            what: Refused::Subject,
        })
    };
    let keys = |why: &str| {
        Fault::new(
            FaultKind::Credentials,
            format!("{at} refuses the identity ({word}): {why}"),
        )
    };
    let failure = match (answer.status, &*word) {
        (_, "RepositoryNotFoundException") | (StatusCode::NOT_FOUND, _) => {
            Failure::NotFound(at.to_owned())
        }
        (_, "UnrecognizedClientException" | "InvalidClientTokenId") => {
            return keys("there is no such key: it was deleted, or is another partition's");
        }
        (_, "ExpiredTokenException") => {
            return keys("the keys have expired: is this node's clock right?");
        }
        (
            _,
            "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "RequestTimeTooSkewed"
            | "RequestExpired",
        ) => return keys("the secret key is wrong, or this node's clock is"),
        (_, "AccessDeniedException") | (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
            refused()
        }
        (status, _) => Failure::Invalid {
            at: at.to_owned(),
            why: status.to_string(),
        },
    };
    Fault::of(&failure, wanted.by)
}

/// The pages so far.
#[derive(Default)]
struct Pages {
    gathered: Gathered,
    token: Option<String>,
    seen: HashSet<String>,
}

impl Pages {
    /// Records the token of the next page. Returns whether this was the last page.
    fn is_last(
        &mut self,
        at: &str,
        next: Result<Option<String>, Malformed>,
    ) -> Result<bool, Fault> {
        let next = next.map_err(|malformed| Fault::malformed(at, &malformed))?;
        let Some(token) = next else {
            return Ok(true);
        };
        if !self.seen.insert(token.clone()) {
            let circle = Malformed::Form("a list whose pages go in a circle".to_owned());
            return Err(Fault::malformed(at, &circle));
        }
        if self.seen.len() >= PAGES {
            return Err(endless(at));
        }
        self.token = Some(token);
        Ok(false)
    }

    fn came(self) -> Came {
        Came {
            listing: self.gathered.listing(),
            private: true,
        }
    }
}

/// A token of Google's, in the form that the API takes.
fn bearer(credential: &Credential) -> Option<HeaderValue> {
    let Credential::Basic { username, password } = credential else {
        return None;
    };
    let is_token = TOKEN_USERS
        .iter()
        .any(|user| username == user || (user.ends_with('_') && username.starts_with(user)));
    if !is_token {
        return None;
    }
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", password.expose())).ok()?;
    bearer.set_sensitive(true);
    Some(bearer)
}

fn api_endpoint(upstream: &Upstream) -> Option<&Uri> {
    match &upstream.credentials {
        Some(config::Credentials::Cloud(identity)) => identity.api_endpoint.as_ref(),
        _ => None,
    }
}

fn unaskable(at: &str) -> Fault {
    Fault::new(
        FaultKind::Invalid,
        format!("{at} has a URL that cannot be asked: correct `api_endpoint`"),
    )
}

#[cfg(test)]
mod tests {
    use larder_shared::warm::ListBy;

    use super::*;
    use crate::credentials::Secret;

    #[test]
    fn only_tokens_of_google_become_bearers() {
        for (username, is) in [
            ("oauth2accesstoken", true),
            ("_token", true),
            ("_dcgcr_2_1_5_token", true),
            ("_json_key", false),
            ("_json_key_base64", false),
            ("AWS", false),
            ("", false),
        ] {
            let credential = Credential::Basic {
                username: username.to_owned(),
                password: Secret::new("ya29.x"),
            };
            let shown = bearer(&credential);
            assert_eq!(shown.is_some(), is, "{username}");
            assert!(shown.is_none_or(|shown| shown.is_sensitive()));
        }
        let token = Credential::IdentityToken(Secret::new("x"));
        assert!(bearer(&token).is_none());
    }

    #[test]
    fn what_an_api_says_in_place_of_a_page() {
        let wanted = Wanted {
            registry: "1.dkr.ecr.eu-west-1.amazonaws.com".parse().unwrap(),
            repository: "a/b".parse().unwrap(),
            by: ListBy::Ecr,
        };
        let secret = "hunter2";
        for (status, word, kind) in [
            (400, "AccessDeniedException", FaultKind::Refused),
            (403, "", FaultKind::Refused),
            (401, "", FaultKind::Refused),
            (400, "RepositoryNotFoundException", FaultKind::NotFound),
            (404, "", FaultKind::NotFound),
            (400, "ExpiredTokenException", FaultKind::Credentials),
            (400, "InvalidSignatureException", FaultKind::Credentials),
            (400, "UnrecognizedClientException", FaultKind::Credentials),
            (400, "InvalidParameterException", FaultKind::Invalid),
            (302, "", FaultKind::Invalid),
        ] {
            let body =
                format!("{{\"__type\":\"com.amazonaws.ecr#{word}\",\"message\":\"{secret}\"}}");
            let answer = ApiAnswer {
                status: StatusCode::from_u16(status).unwrap(),
                body: Bytes::from(body),
            };
            let fault = no_page(&answer, "https://api", &wanted);
            assert_eq!(fault.kind, kind, "{status} {word}");
            assert!(!fault.why.contains(secret), "{}", fault.why);
        }
    }

    #[test]
    fn tokens_of_pages_that_come_twice_end_the_list() {
        let mut pages = Pages::default();
        let token = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(pages.is_last("api", token("a")), Ok(false));
        assert_eq!(pages.is_last("api", token("b")), Ok(false));
        let fault = pages.is_last("api", token("a")).unwrap_err();
        assert!(fault.why.contains("circle"), "{}", fault.why);
        let mut pages = Pages::default();
        let mut last = Ok(false);
        for n in 0..PAGES {
            last = pages.is_last("api", token(&n.to_string()));
        }
        assert!(last.unwrap_err().why.contains("pages"));
        assert_eq!(Pages::default().is_last("api", Ok(None)), Ok(true));
    }
}
