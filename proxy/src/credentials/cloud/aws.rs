//! AWS: larder gets the keys of a role in one of four ways, and signs one request to the registry's API, which answers
//! a password.
//!
//! The ways are IRSA (the STS exchanges a projected token), EKS Pod Identity (an agent on the node), the node's own
//! role (IMDSv2) and a file of static keys. Each may take on another role. The object store's code signs.

mod ecr;
mod host;
mod keys;
mod sign;
mod sts;

use std::path::Path;

pub(super) use self::host::Api;
use super::{
    Asked, Inner, Target, Token, ask::Trouble, renewal::Early, surroundings::Surroundings,
};
use crate::{
    config::CloudIdentity,
    credentials::{
        error::{CredentialError, Fault},
        secret::Credential,
    },
};

const METADATA: &str = "http://169.254.169.254";

/// The way in which larder gets the keys.
enum KeysBy<'a> {
    File(&'a Path),
    WebIdentity(&'a Path),
    Agent { url: &'a str, token: &'a Path },
    Metadata(String),
}

fn keys_by<'a>(identity: &'a CloudIdentity, surroundings: &'a Surroundings) -> KeysBy<'a> {
    if let Some(path) = &identity.key_file {
        return KeysBy::File(path);
    }
    if let Some(path) = &identity.token_file {
        return KeysBy::WebIdentity(path);
    }
    if identity.metadata_endpoint.is_none()
        && let Some((url, token)) = &surroundings.aws_agent
    {
        return KeysBy::Agent { url, token };
    }
    let named = identity.metadata_endpoint.as_ref();
    KeysBy::Metadata(super::base(named, METADATA))
}

/// The way in which larder gets the identity, for people.
pub(super) fn way(identity: &CloudIdentity, surroundings: &Surroundings) -> String {
    let way = match keys_by(identity, surroundings) {
        KeysBy::File(path) => format!("the keys {}", path.display()),
        KeysBy::WebIdentity(path) => format!("the token {}, exchanged at the STS", path.display()),
        KeysBy::Agent { url, .. } => format!("EKS Pod Identity's agent {url}"),
        KeysBy::Metadata(url) => format!("{} {url}", keys::METADATA_SERVER),
    };
    match (&identity.role, &identity.token_file) {
        (Some(role), None) => format!("{way}, which takes on {role}"),
        _ => way,
    }
}

/// The API that gives the registry's tokens, by the registry's name, or else by its origin's host.
pub(super) fn target(asked: &Asked<'_>) -> Result<Target, CredentialError> {
    api(asked).map(Target::Ecr)
}

fn api(asked: &Asked<'_>) -> Result<Api, CredentialError> {
    let hosts = [Some(asked.registry), asked.origin.url.host()];
    let api = hosts.into_iter().flatten().find_map(Api::of);
    api.ok_or_else(|| {
        CredentialError::new(
            Fault::Content,
            asked.registry,
            "is no registry of AWS (ACCOUNT.dkr.ecr.REGION.amazonaws.com and its like, public.ecr.aws): name it so in [upstreams], or let an endpoint",
        )
    })
}

/// All errors that an answer to any of AWS's questions can lead to.
#[cfg(any(test, fuzzing))]
pub(super) fn troubles(answer: &super::ask::Answer) -> Vec<Trouble> {
    let at = "the server";
    let troubles = [
        ecr::understood(&answer.body, at).err(),
        Some(ecr::refusal(answer, at, "ecr")),
        sts::keys_in(answer, at, "role").err(),
        keys::given(answer, at, None).err(),
    ];
    troubles.into_iter().flatten().collect()
}

/// Signs requests to the API of a private registry.
pub struct EcrSigner {
    keys: keys::Keys,
    api: Api,
    endpoint: Option<http::Uri>,
    account: String,
}

impl EcrSigner {
    /// The account that owns the registry.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Whether the configuration names the API.
    pub fn is_named(&self) -> bool {
        self.endpoint.is_some()
    }

    /// A signed request for this operation.
    ///
    /// # Errors
    /// The configured URL of the API cannot be asked.
    pub fn request(
        &self,
        operation: &str,
        body: String,
    ) -> Result<http::Request<http_body_util::Full<bytes::Bytes>>, CredentialError> {
        let url = format!("{}/", super::base(self.endpoint.as_ref(), &self.api.url));
        let request = ecr::question(url, operation);
        let region = &self.api.region;
        sign::signed(request, body, &self.keys, "ecr", region, ecr::ECR)
            .map_err(|trouble| trouble.error)
    }
}

/// Whether this is the public registry, whose API lists no other account's images.
pub(in super::super) fn is_public(registry: &str) -> bool {
    Api::of(registry).is_some_and(|api| api.public)
}

/// The signer of requests to the API behind a registry.
pub(super) async fn signer(inner: &Inner, asked: &Asked<'_>) -> Result<EcrSigner, CredentialError> {
    let api = api(asked)?;
    let hosts = [Some(asked.registry), asked.origin.url.host()];
    let account = hosts
        .into_iter()
        .flatten()
        .find(|host| Api::of(host).is_some());
    let account = account.and_then(|host| host.split('.').next());
    let keys = Box::pin(role_keys(inner, &asked.identity, &api)).await;
    Ok(EcrSigner {
        keys: keys.map_err(|trouble| trouble.error)?,
        endpoint: asked.identity.api_endpoint.clone(),
        account: account.unwrap_or_default().to_owned(),
        api,
    })
}

/// A new password of the registry.
pub(super) async fn exchange(
    inner: &Inner,
    identity: &CloudIdentity,
    api: &Api,
) -> Result<Token, Trouble> {
    let keys = role_keys(inner, identity, api).await?;
    let password = ecr::password(inner, identity, api, &keys).await?;
    Ok(Token {
        credential: Credential::Basic {
            username: "AWS".to_owned(),
            password: password.secret,
        },
        principal: keys.principal,
        lifetime: password.lifetime,
        early: Early::Half,
    })
}

/// The keys of the role, by the configured way.
async fn role_keys(
    inner: &Inner,
    identity: &CloudIdentity,
    api: &Api,
) -> Result<keys::Keys, Trouble> {
    let way = keys_by(identity, &inner.surroundings);
    let chained = !matches!(way, KeysBy::WebIdentity(_));
    let mut keys = match way {
        KeysBy::File(path) => keys::of_file(inner, path).await?,
        KeysBy::WebIdentity(path) => sts::by_web_identity(inner, identity, api, path).await?,
        KeysBy::Agent { url, token } => keys::by_agent(inner, url, token).await?,
        KeysBy::Metadata(url) => keys::by_metadata(inner, &url).await?,
    };
    if let (true, Some(role)) = (chained, &identity.role) {
        keys = sts::of_role(inner, identity, api, &keys, role).await?;
    }
    Ok(keys)
}
