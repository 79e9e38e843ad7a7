//! The identities that clouds give: a token for a registry, without a Secret and without a program.
//!
//! Owns the tokens, when each is renewed (`renewal`), and the exchanges with the clouds' servers, in one file for each
//! cloud. A token is in memory alone. Leaves to others what a token opens, and to whom that may be served.

mod ask;
mod aws;
mod azure;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod google;
mod jwt;
mod renewal;
mod surroundings;
mod view;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::Uri;

pub(super) use self::aws::is_public as is_public_ecr;
use self::{
    ask::{Asker, Trouble},
    renewal::{Early, Next, Renewal},
};
pub use self::{aws::EcrSigner, surroundings::Surroundings, view::CloudView};
use super::{
    error::{CredentialError, Fault},
    file::{self, Content, Readings},
    secret::Credential,
};
use crate::{
    client::Client,
    coalesce::Coalesce,
    config::{Cloud, CloudIdentity, Endpoint},
    sys::Calls,
};

/// The identity of an upstream, completed from the pod's environment, with the registry's name and its origin.
#[derive(Clone)]
pub(super) struct Asked<'a> {
    identity: CloudIdentity,
    registry: &'a str,
    origin: &'a Endpoint,
}

impl Asked<'_> {
    pub(super) fn is_of(&self, cloud: Cloud) -> bool {
        self.identity.cloud == cloud
    }
}

/// The purpose of a token. Registries that can use the same token share its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    identity: CloudIdentity,
    target: Target,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Target {
    /// All hosts of Artifact Registry.
    Google,
    /// All registries of a region of AWS.
    Ecr(aws::Api),
    /// One registry of Azure.
    Acr(azure::Registry),
}

/// A token, and what the cloud said of it.
#[derive(Debug, Clone)]
struct Token {
    credential: Credential,
    /// The cloud's name of the holder: an account, a role.
    principal: Option<String>,
    lifetime: Duration,
    early: Early,
}

/// The state of one token.
#[derive(Default)]
struct Known {
    token: Option<Token>,
    renewal: Renewal,
    trouble: Option<CredentialError>,
}

/// The identity itself, which stays while its tokens change. Rights belong to it, not to a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KnownAs {
    /// The identity in the words of the configuration.
    pub configured: String,
    /// The account or role, once the cloud has told it. With the same configuration, another node may be another
    /// account.
    pub principal: Option<String>,
}

impl KnownAs {
    fn of(identity: &CloudIdentity, principal: Option<String>) -> Self {
        let said = identity.said().into_iter();
        let said: Vec<_> = said.map(|(key, value)| format!("{key}={value}")).collect();
        Self {
            configured: said.join("\n"),
            principal,
        }
    }
}

/// The identities of this node.
pub(super) struct Clouds(Arc<Inner>);

struct Inner {
    asker: Asker,
    surroundings: Surroundings,
    /// Keys and projected tokens, which rotate: read anew for each exchange.
    files: Readings<Arc<Content>>,
    known: Mutex<HashMap<Key, Known>>,
    asking: Coalesce<Key, Result<Token, CredentialError>>,
}

impl Clouds {
    pub(super) fn new(client: Arc<Client>, surroundings: Surroundings, room: &Calls) -> Self {
        Self(Arc::new(Inner {
            asker: Asker::new(client),
            surroundings,
            files: Readings::new(room),
            known: Mutex::default(),
            asking: Coalesce::default(),
        }))
    }

    /// An identity, completed from the pod's environment.
    pub(super) fn asked<'a>(
        &self,
        identity: &CloudIdentity,
        registry: &'a str,
        origin: &'a Endpoint,
    ) -> Asked<'a> {
        Asked {
            identity: self.0.surroundings.complete(identity),
            registry,
            origin,
        }
    }

    /// The name of an identity, whether or not there is a token.
    pub(super) fn known_as(&self, identity: &CloudIdentity) -> KnownAs {
        KnownAs::of(&self.0.surroundings.complete(identity), None)
    }

    /// The credential of an identity.
    ///
    /// A caller that stops waiting stops no exchange: the next caller gets its token.
    pub(super) async fn credential(
        &self,
        asked: &Asked<'_>,
    ) -> Result<(Credential, KnownAs), CredentialError> {
        let key = Key::of(asked)?;
        let token = match self.0.next(&key) {
            (Next::Use, Ok(token)) => token,
            (Next::Renew, Ok(token)) => {
                tokio::spawn(Arc::clone(&self.0).fetch(key));
                token
            }
            (Next::Fail, Err(error)) => return Err(error),
            _ => Arc::clone(&self.0).fetch(key).await?,
        };
        let known_as = KnownAs::of(&asked.identity, token.principal);
        Ok((token.credential, known_as))
    }

    /// The signer of requests to the API of a private registry of AWS.
    pub(super) async fn ecr(&self, asked: &Asked<'_>) -> Result<EcrSigner, CredentialError> {
        aws::signer(&self.0, asked).await
    }

    /// Renews the tokens of these identities that are due, and forgets all other identities. Waits for no answer.
    pub(super) fn tend<'a>(&self, used: impl Iterator<Item = Asked<'a>>) {
        let keys: Vec<Key> = used.filter_map(|asked| Key::of(&asked).ok()).collect();
        self.0.lock().retain(|key, _| keys.contains(key));
        for key in keys {
            if matches!(self.0.next(&key).0, Next::Fetch | Next::Renew) {
                tokio::spawn(Arc::clone(&self.0).fetch(key));
            }
        }
    }

    /// Allows the next question at once, unless the server has asked for a pause.
    pub(super) fn hurry(&self, asked: &Asked<'_>) {
        if let Ok(key) = Key::of(asked)
            && let Some(known) = self.0.lock().get_mut(&key)
        {
            known.renewal.hurry();
        }
    }

    /// The state of an identity for people: its name, its way, the end of its token. Asks no server.
    pub(super) fn view(&self, asked: &Asked<'_>) -> CloudView {
        let Asked { identity, .. } = asked;
        let way = match identity.cloud {
            Cloud::Google => google::way(identity),
            Cloud::Aws => aws::way(identity, &self.0.surroundings),
            Cloud::Azure => azure::way(identity),
        };
        let mut view = CloudView::new(identity.cloud, way);
        match Key::of(asked) {
            Err(error) => view.trouble = Some(error.to_string()),
            Ok(key) => {
                let known = self.0.lock();
                if let Some(known) = known.get(&key) {
                    let now = Instant::now();
                    let token = known.token.as_ref();
                    view.principal = token.and_then(|token| token.principal.clone());
                    view.left = known.renewal.left(now);
                    view.asked_again_in = known.renewal.paused(now);
                    view.trouble = known.trouble.as_ref().map(ToString::to_string);
                }
            }
        }
        view
    }
}

impl Key {
    fn of(asked: &Asked<'_>) -> Result<Self, CredentialError> {
        let target = match asked.identity.cloud {
            Cloud::Google => google::target(asked)?,
            Cloud::Aws => aws::target(asked)?,
            Cloud::Azure => azure::target(asked)?,
        };
        Ok(Self {
            identity: asked.identity.clone(),
            target,
        })
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to do for this key, with the token in use or the last failure.
    fn next(&self, key: &Key) -> (Next, Result<Token, CredentialError>) {
        let known = self.lock();
        let none = || CredentialError::new(Fault::Unreachable, "the cloud", "was not asked yet");
        let Some(known) = known.get(key) else {
            return (Next::Fetch, Err(none()));
        };
        let next = known.renewal.next(Instant::now());
        let there = match (next, &known.token) {
            (Next::Use | Next::Renew, Some(token)) => Ok(token.clone()),
            _ => Err(known.trouble.clone().unwrap_or_else(none)),
        };
        (next, there)
    }

    /// A new token; simultaneous callers share one exchange.
    async fn fetch(self: Arc<Self>, key: Key) -> Result<Token, CredentialError> {
        let (inner, wanted) = (Arc::clone(&self), key.clone());
        let exchange = async move {
            // An earlier exchange may have ended after this one was found to be due.
            match inner.next(&wanted) {
                (Next::Use, Ok(token)) => return Ok(token),
                (Next::Fail, Err(error)) => return Err(error),
                _ => {}
            }
            // Boxed: it is large and rare.
            let came = Box::pin(inner.exchange(&wanted)).await;
            inner.learn(wanted, came)
        };
        let lost =
            || CredentialError::new(Fault::Program, "the exchange of a token", "was cut off");
        let came = self.asking.run(key, exchange).await;
        came.unwrap_or_else(|| Err(lost()))
    }

    async fn exchange(&self, key: &Key) -> Result<Token, Trouble> {
        match &key.target {
            Target::Google => google::exchange(self, &key.identity).await,
            Target::Ecr(api) => aws::exchange(self, &key.identity, api).await,
            Target::Acr(registry) => azure::exchange(self, &key.identity, registry).await,
        }
    }

    fn learn(&self, key: Key, came: Result<Token, Trouble>) -> Result<Token, CredentialError> {
        let (now, dice) = (Instant::now(), fastrand::f64());
        let cloud = key.identity.cloud.as_str();
        let mut all = self.lock();
        let known = all.entry(key).or_default();
        match came {
            Ok(token) => {
                known
                    .renewal
                    .fetched(now, token.lifetime, token.early, dice);
                let after_trouble = known.trouble.take().is_some();
                let again = known.token.replace(token.clone()).is_some() && !after_trouble;
                drop(all);
                let lasts_seconds = token.lifetime.as_secs();
                if again {
                    tracing::debug!(cloud, lasts_seconds, "the identity's token was renewed");
                } else {
                    tracing::info!(
                        cloud,
                        principal = token.principal,
                        lasts_seconds,
                        "the identity has a token"
                    );
                }
                Ok(token)
            }
            Err(trouble) => {
                known.renewal.failed(now, trouble.refrain, dice);
                let left = known.renewal.left(now);
                let begins = known.trouble.replace(trouble.error.clone()).is_none();
                drop(all);
                if begins {
                    let error = &trouble.error;
                    match left {
                        Some(left) => {
                            tracing::warn!(cloud, %error, left_seconds = left.as_secs(), "the identity's token cannot be renewed, the old one stays in use; fix what the error names, larder tries again by itself");
                        }
                        None => {
                            tracing::warn!(cloud, %error, "the identity has no token; fix what the error names, larder tries again by itself");
                        }
                    }
                }
                Err(trouble.error)
            }
        }
    }

    /// The text of the file at `path`, trimmed.
    async fn text(&self, path: &std::path::Path) -> Result<super::Secret, CredentialError> {
        let content = self
            .files
            .of([path], |[path]| file::read(path).map(Arc::new));
        let content = content.await?;
        let wrong = |what| CredentialError::new(Fault::Content, path.display(), what);
        let text = std::str::from_utf8(&content.bytes);
        let text = text.map_err(|_| wrong("not UTF-8: is this the right file?"))?;
        let text = text.trim();
        if text.is_empty() {
            return Err(wrong("it is empty: mount the token or the key there"));
        }
        Ok(super::Secret::new(text))
    }
}

/// A URL without its last slash.
fn base(named: Option<&Uri>, own: &str) -> String {
    let url = named.map_or_else(|| own.to_owned(), Uri::to_string);
    url.trim_end_matches('/').to_owned()
}

fn sendable<T>(request: http::Result<T>, server: &str) -> Result<T, CredentialError> {
    let what = "has a URL that cannot be asked: correct it in the configuration";
    request.map_err(|_| CredentialError::new(Fault::Content, server, what))
}

/// Whether a host is `name`, or below it.
fn is_below(host: &str, name: &str) -> bool {
    let prefix = host.strip_suffix(name);
    prefix.is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'))
}

#[cfg(test)]
mod tests;
