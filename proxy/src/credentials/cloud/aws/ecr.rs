//! GetAuthorizationToken: the signed request, and the password in its answer.

use std::time::Duration;

use data_encoding::BASE64;
use http::{Request, StatusCode, header};
use serde::Deserialize;

use super::{
    super::{
        Inner,
        ask::{Answer, Question, Trouble, Way, code, place, throttled, until},
        base,
    },
    host::Api,
    keys::Keys,
    sign::signed,
};
use crate::{
    config::CloudIdentity,
    credentials::{error::not_json, secret::Secret},
};

pub(super) const ECR: &str = "the API of ECR";
const LOOK_AT_NETWORK: &str = "let larder reach it (a firewall, HTTPS_PROXY, the VPC endpoint ecr.api), or name it in `api_endpoint`";
/// No answer's number of seconds is larger.
const LATEST: f64 = 1e12;

/// A registry's password.
pub(super) struct Password {
    pub secret: Secret,
    pub lifetime: Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authorization {
    authorization_token: Secret,
    expires_at: f64,
}

/// A private registry answers a list of one, the public registry answers without a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<Authorization>),
    One(Authorization),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    authorization_data: OneOrMany,
}

/// A password for every registry of the API's region that the role may read.
pub(super) async fn password(
    inner: &Inner,
    identity: &CloudIdentity,
    api: &Api,
    keys: &Keys,
) -> Result<Password, Trouble> {
    let (service, target) = if api.public {
        ("ecr-public", "SpencerFrontendService.GetAuthorizationToken")
    } else {
        (
            "ecr",
            "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
        )
    };
    let url = format!("{}/", base(identity.api_endpoint.as_ref(), &api.url));
    let request = question(url, target);
    let request = signed(request, "{}".to_owned(), keys, service, &api.region, ECR)?;
    let at = place(ECR, request.uri());
    let question = Question {
        server: ECR,
        way: Way::of(identity.api_endpoint.as_ref()),
        request,
    };
    let answer = inner.asker.ask(question, LOOK_AT_NETWORK).await?;
    if answer.status != StatusCode::OK {
        return Err(refusal(&answer, &at, service));
    }
    understood(&answer.body, &at)
}

/// A request for an operation of the API, still without its body.
pub(super) fn question(url: String, operation: &str) -> http::request::Builder {
    Request::post(url)
        .header(header::CONTENT_TYPE, "application/x-amz-json-1.1")
        .header("x-amz-target", operation)
}

pub(super) fn understood(body: &[u8], at: &str) -> Result<Password, Trouble> {
    let said: Said = serde_json::from_slice(body).map_err(|error| {
        Trouble::answer(
            at,
            format!("its answer is no token, but {}", not_json(&error)),
        )
    })?;
    let first = match said.authorization_data {
        OneOrMany::One(one) => Some(one),
        OneOrMany::Many(many) => many.into_iter().next(),
    };
    let none = || Trouble::answer(at, "its answer has no token");
    let Authorization {
        authorization_token,
        expires_at,
    } = first.ok_or_else(none)?;
    let pair = BASE64.decode(authorization_token.expose().as_bytes()).ok();
    let pair = pair
        .and_then(|pair| String::from_utf8(pair).ok())
        .map(Secret::new);
    let password = pair
        .as_ref()
        .and_then(|pair| pair.expose().strip_prefix("AWS:"));
    let secret = Secret::new(password.ok_or_else(none)?);
    let lifetime = until(expires_at.clamp(0.0, LATEST) as u64);
    if lifetime.is_zero() {
        return Err(Trouble::answer(
            at,
            "its answer is a token that has ended: is this node's clock right? (chronyc tracking, timedatectl)",
        ));
    }
    Ok(Password { secret, lifetime })
}

pub(super) fn refusal(answer: &Answer, at: &str, service: &str) -> Trouble {
    #[derive(Deserialize)]
    struct Said {
        #[serde(rename = "__type")]
        kind: String,
    }
    let said = serde_json::from_slice::<Said>(&answer.body).ok();
    let word = said
        .as_ref()
        .and_then(|said| code(said.kind.rsplit('#').next()?))
        .unwrap_or_default();
    let fix = match word {
        "ThrottlingException" | "TooManyRequestsException" => return throttled(at, word, None),
        "AccessDeniedException" if service == "ecr-public" => {
            "the role's policy must allow ecr-public:GetAuthorizationToken and sts:GetServiceBearerToken; public images need no identity"
        }
        "AccessDeniedException" => {
            "the role's policy must allow ecr:GetAuthorizationToken on `*`, and ecr:BatchGetImage, ecr:GetDownloadUrlForLayer and ecr:BatchCheckLayerAvailability on the repositories"
        }
        "UnrecognizedClientException" | "InvalidClientTokenId" => {
            "there is no such key: it was deleted, or is another partition's"
        }
        "ExpiredTokenException" => "the keys have expired: is this node's clock right?",
        "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "RequestTimeTooSkewed"
        | "RequestExpired" => "the secret key is wrong, or this node's clock is",
        _ => return answer.failure(at, LOOK_AT_NETWORK),
    };
    let status = answer.status.as_u16();
    Trouble::refused(at, format!("refuses a token ({status} {word}): {fix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_private_and_public_registries() {
        let token = BASE64.encode(b"AWS:pass:word");
        let good = |data: &str| {
            let body = format!("{{\"authorizationData\":{data}}}");
            understood(body.as_bytes(), "ecr")
                .map(|password| password.secret.expose().to_owned())
                .ok()
        };
        let one = |expires: &str| {
            format!("{{\"authorizationToken\":\"{token}\",\"expiresAt\":{expires}}}")
        };
        let password = Some("pass:word".to_owned());
        assert_eq!(good(&format!("[{}]", one("9e9"))), password);
        assert_eq!(good(&one("9999999999.123")), password);
        assert_eq!(good(&one("1e300")), password);
        assert_eq!(good(&one("1420070400.0")), None);
        assert_eq!(good(&one("-1")), None);
        assert_eq!(good("[]"), None);
        let other = BASE64.encode(b"GCP:x");
        assert_eq!(
            good(&format!(
                "{{\"authorizationToken\":\"{other}\",\"expiresAt\":9e9}}"
            )),
            None
        );
        assert_eq!(
            good("{\"authorizationToken\":\"%\",\"expiresAt\":9e9}"),
            None
        );
    }
}
