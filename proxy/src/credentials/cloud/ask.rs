//! One question to a metadata server or a token server, and why it failed.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::Full;

use super::renewal::Refrain;
use crate::{
    client::{self, Client, Direct, Reach, Route, SendError, Tls},
    clock::unix_now,
    credentials::error::{CredentialError, Fault},
};

/// The limit for a metadata server, which is on the node or beside it.
const METADATA_WITHIN: Duration = Duration::from_secs(3);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// The limit for all other servers.
const WITHIN: Duration = Duration::from_secs(10);
/// Bytes of the longest answer.
const LONGEST: u64 = 256 << 10;

/// How a server is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// A metadata server: without a proxy, at any address. Its URL comes from the configuration, or is the cloud's own.
    Metadata,
    /// A server of the cloud, over TLS: at a public or a private address.
    Cloud,
    /// A server that the configuration names.
    Named,
    /// The registry itself.
    Registry(Tls),
}

impl Way {
    /// The way to the server that the configuration names, or to the cloud's own.
    pub(super) fn of(named: Option<&Uri>) -> Self {
        match named {
            Some(_) => Self::Named,
            None => Self::Cloud,
        }
    }
}

/// A request, and the name of its server in messages.
pub(super) struct Question<'a> {
    pub server: &'a str,
    pub way: Way,
    pub request: Request<Full<Bytes>>,
}

/// An answer, whatever its status.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The error for an answer of which only the status is known.
    pub(super) fn failure(&self, at: &str, look_at: &str) -> Trouble {
        let fault = if self.status.is_server_error() {
            Fault::Unreachable
        } else {
            Fault::Answer
        };
        CredentialError::new(fault, at, format!("answered {}: {look_at}", self.status)).into()
    }
}

/// Why there is no token.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub error: CredentialError,
    pub refrain: Refrain,
}

impl From<CredentialError> for Trouble {
    fn from(error: CredentialError) -> Self {
        Self {
            error,
            refrain: Refrain::default(),
        }
    }
}

impl Trouble {
    /// An answer that cannot be used.
    pub(super) fn answer(place: &str, what: impl Into<String>) -> Self {
        CredentialError::new(Fault::Answer, place, what).into()
    }

    /// A refusal, with its fix.
    pub(super) fn refused(place: &str, what: impl Into<String>) -> Self {
        CredentialError::new(Fault::Refused, place, what).into()
    }
}

/// Sends questions.
pub(super) struct Asker {
    client: Arc<Client>,
    direct: Direct,
}

impl Asker {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self {
            client,
            direct: Direct::new(None, CONNECT_WITHIN),
        }
    }

    /// The answer to `question`. The error for a server without an answer says `unreachable`: what to look at.
    pub(super) async fn ask(
        &self,
        question: Question<'_>,
        unreachable: &str,
    ) -> Result<Answer, Trouble> {
        let Question {
            server,
            way,
            mut request,
        } = question;
        let agent = concat!("larder/", env!("CARGO_PKG_VERSION"));
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, header::HeaderValue::from_static(agent));
        let at = format!("{server} {}", client::origin(request.uri()));
        let route = |reach, tls| Route { reach, tls };
        let sent = match way {
            Way::Metadata => tokio::time::timeout(METADATA_WITHIN, self.direct.send(request))
                .await
                .unwrap_or(Err(SendError::Timeout(METADATA_WITHIN))),
            Way::Cloud => {
                let route = route(Reach::Direct, Tls::default());
                self.client.send(&route, request, WITHIN).await
            }
            Way::Named => {
                let route = route(Reach::Named, Tls::default());
                self.client.send(&route, request, WITHIN).await
            }
            Way::Registry(tls) => {
                let route = route(Reach::Named, tls);
                self.client.send(&route, request, WITHIN).await
            }
        };
        let response = sent.map_err(|error| {
            let fault = match error {
                SendError::Timeout(_) => Fault::Timeout,
                _ => Fault::Unreachable,
            };
            CredentialError::new(fault, &at, format!("{error}: {unreachable}"))
        })?;
        let (parts, body) = response.into_parts();
        let body = client::collect(body, LONGEST, WITHIN).await;
        let body = body.map_err(|why| {
            let what = format!("its answer broke off ({why}): {unreachable}");
            CredentialError::new(Fault::Unreachable, &at, what)
        })?;
        let status = parts.status;
        let told = client::retry_after(&parts.headers);
        if status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::SERVICE_UNAVAILABLE && told.is_some()
        {
            return Err(throttled(&at, status.as_str(), told));
        }
        Ok(Answer {
            status,
            headers: parts.headers,
            body,
        })
    }
}

/// The error for a server that limits requests.
pub(super) fn throttled(at: &str, answered: &str, told: Option<Duration>) -> Trouble {
    let what = format!(
        "limits requests ({answered}): larder waits and asks again by itself; if it goes on, ask the cloud for a larger quota"
    );
    Trouble {
        error: CredentialError::new(Fault::Throttled, at, what),
        refrain: Refrain {
            asked: told.or(Some(Duration::from_secs(5))),
        },
    }
}

/// The name of a question's server in errors.
pub(super) fn place(server: &str, url: &Uri) -> String {
    format!("{server} {}", client::origin(url))
}

/// A server's error code, if the word looks like one. Nothing else that the server wrote is repeated.
pub(super) fn code(word: &str) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (!word.is_empty() && word.len() <= 80 && word.bytes().all(plain)).then_some(word)
}

/// The time until `at`, in Unix seconds, by the node's clock.
pub(super) fn until(at: u64) -> Duration {
    Duration::from_secs(at.saturating_sub(unix_now()))
}

/// A form as a body.
pub(super) fn form<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Full<Bytes> {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in fields {
        form.append_pair(name, value);
    }
    Full::from(form.finish())
}

pub(super) const FORM: &str = "application/x-www-form-urlencoded";
