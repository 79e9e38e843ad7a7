//! Identifies the caller of a request, and asks clients for their credentials.
//!
//! A client that may not read a repository is sent to larder's own token endpoint, at the address that the client used,
//! so that its secret crosses loopback only. There the client shows a username and a password, an identity token, or
//! nothing, and gets a larder token. larder does the registry's token dance itself. If a client brings a registry's own
//! Bearer token, larder forwards it.
//!
//! ```text
//! GET  /token[/<registry>]   with HTTP Basic, or without for an anonymous token
//! POST /token[/<registry>]   form: grant_type=password | refresh_token
//! ```
//! Without a registry in the path, the repository in the scope names it, as with podman and skopeo.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use larder_shared::{ErrorCode, OciError, RegistryName, Route};

use super::{HEADERS_WITHIN, Surface};
use crate::{
    access::{Bearer, EXPIRES_IN, Session},
    body::Body,
    credentials::{Credential, LARGEST, Secret},
    identity::Identity,
    pull::Caller,
    trace::Trace,
};

/// Why the caller is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unknown {
    /// A larder token that is not known any more.
    Expired,
    /// An `Authorization` that is neither Basic nor Bearer, or cannot be read.
    Malformed,
}

impl Surface {
    /// The caller that a request's `Authorization` names.
    pub(super) async fn caller(
        &self,
        headers: &HeaderMap,
        trace: &Trace,
    ) -> Result<Caller, Unknown> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Ok(Caller::anonymous(trace.clone()));
        };
        let value = value.to_str().map_err(|_| Unknown::Malformed)?;
        let shown = |identity, registry| Caller {
            identity,
            registry,
            presented: true,
            trace: trace.clone(),
        };
        if let Some(pair) = strip_scheme(value, "basic") {
            let credential = Credential::from_basic(pair).ok_or(Unknown::Malformed)?;
            return Ok(shown(self.identity(credential), None));
        }
        let token = strip_scheme(value, "bearer").ok_or(Unknown::Malformed)?;
        match self.sessions.find(token).await {
            Bearer::Ours(session) => Ok(shown(session.identity, session.registry)),
            Bearer::Expired => Err(Unknown::Expired),
            Bearer::Foreign => Ok(shown(self.pull.key.token(Secret::new(token)), None)),
        }
    }

    /// The identity of a credential. A client without a credential may send an empty one.
    fn identity(&self, credential: Credential) -> Identity {
        if credential.is_empty() {
            Identity::anonymous()
        } else {
            self.pull.key.credential(credential)
        }
    }

    /// The token endpoint. `rest` is the path behind `/token`.
    pub(super) async fn token<B>(&self, request: Request<B>, rest: &str) -> Response<Body>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match self.grant_token(request, rest).await {
            Ok(answer) => json(StatusCode::OK, answer),
            Err(error) => json(error.code.status(), error.body()),
        }
    }

    async fn grant_token<B>(&self, request: Request<B>, rest: &str) -> Result<String, OciError>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let form = if parts.method == Method::POST {
            let read = Limited::new(body, LARGEST).collect();
            let bytes = tokio::time::timeout(HEADERS_WITHIN, read)
                .await
                .map_err(|_| unauthorized("the form did not come in time"))?
                .map_err(|_| unauthorized("the form is too long or was cut off"))?
                .to_bytes();
            String::from_utf8(bytes.to_vec()).map_err(|_| unauthorized("the form is not UTF-8"))?
        } else {
            String::new()
        };
        let fields = Fields(
            url::form_urlencoded::parse(query.as_bytes())
                .chain(url::form_urlencoded::parse(form.as_bytes()))
                .collect(),
        );
        let credential =
            match fields.get("grant_type") {
                Some("refresh_token") => fields
                    .get("refresh_token")
                    .map(|token| Credential::IdentityToken(Secret::new(token))),
                Some("password") => fields.get("username").zip(fields.get("password")).map(
                    |(username, password)| Credential::Basic {
                        username: username.to_owned(),
                        password: Secret::new(password),
                    },
                ),
                Some(_) => return Err(unauthorized("grant_type is password or refresh_token")),
                None => {
                    match parts.headers.get(header::AUTHORIZATION) {
                        Some(value) => {
                            let pair = value.to_str().ok().and_then(|v| strip_scheme(v, "basic"));
                            Some(pair.and_then(Credential::from_basic).ok_or_else(|| {
                                unauthorized("the Authorization is not HTTP Basic")
                            })?)
                        }
                        None => None,
                    }
                }
            };
        let identity = match credential {
            Some(credential) => self.identity(credential),
            None => Identity::anonymous(),
        };
        let registry = self.registry_of(rest, &fields)?;
        if registry.is_none() && !identity.is_anonymous() {
            return Err(unauthorized(
                "say which repository the secret is for: scope=repository:<registry>/<name>:pull",
            ));
        }
        let token = self.sessions.begin(Session { registry, identity }).await;
        Ok(serde_json::json!({
            "token": token,
            "access_token": token,
            "expires_in": EXPIRES_IN.as_secs(),
        })
        .to_string())
    }

    /// The registry for which a secret is shown: from the path of the endpoint, or else from the scope.
    fn registry_of(
        &self,
        rest: &str,
        fields: &Fields<'_>,
    ) -> Result<Option<RegistryName>, OciError> {
        let rest = rest.trim_matches('/');
        if !rest.is_empty() {
            let name = percent_encoding::percent_decode_str(rest).decode_utf8_lossy();
            return name
                .parse()
                .map(Some)
                .map_err(|error: larder_shared::name::NameError| {
                    OciError::new(ErrorCode::NameInvalid, error.to_string())
                });
        }
        let repository = fields
            .all("scope")
            .flat_map(|scope| scope.split(' '))
            .find_map(|scope| {
                let name = scope.strip_prefix("repository:")?;
                Some(name.rsplit_once(':').map_or(name, |(name, _)| name))
            });
        let Some(repository) = repository else {
            return Ok(None);
        };
        match Route::parse(&format!("/v2/{repository}/tags/list"), None)? {
            Some(Route::Tags(address, _)) => {
                let (registry, _) = self
                    .pull
                    .resolve(&address)
                    .map_err(|error| OciError::new(ErrorCode::NameInvalid, error.to_string()))?;
                Ok(Some(registry))
            }
            _ => Ok(None),
        }
    }
}

/// `Bearer realm="http://<the address that the client used>/token/<registry>",service="larder",scope="…"`
///
/// `error` is added if a credential was shown and refused. Without it, containerd shows the same credential six times.
pub(super) fn challenge(
    headers: &HeaderMap,
    scope: Option<(&str, &str)>,
    error: Option<&str>,
) -> Option<HeaderValue> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '_' | '[' | ']');
    if host.is_empty() || !host.chars().all(plain) {
        return None;
    }
    let mut value = match scope {
        Some((registry, repository)) => {
            format!(
                "Bearer realm=\"http://{host}/token/{registry}\",service=\"larder\",scope=\"repository:{repository}:pull\""
            )
        }
        None => format!("Bearer realm=\"http://{host}/token\",service=\"larder\""),
    };
    if let Some(error) = error {
        value = format!("{value},error=\"{error}\"");
    }
    HeaderValue::try_from(value).ok()
}

struct Fields<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| &**value)
    }

    fn all<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| &**value)
    }
}

/// The part of an `Authorization` after its scheme.
fn strip_scheme<'v>(value: &'v str, scheme: &str) -> Option<&'v str> {
    let (found, rest) = value.trim_start().split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

fn unauthorized(why: &str) -> OciError {
    OciError::new(ErrorCode::Unauthorized, why)
}

fn json(status: StatusCode, text: String) -> Response<Body> {
    let length = text.len();
    let mut response = Response::new(Body::bytes(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
