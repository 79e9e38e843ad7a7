//! The STS: it exchanges a projected token, or other keys, for the keys of a role.

use std::path::Path;

use http::{Request, StatusCode, header};
use http_body_util::Full;

use super::{
    super::{
        Inner,
        ask::{Answer, FORM, Question, Trouble, Way, code, form, place, throttled},
        base, sendable,
    },
    host::Api,
    keys::Keys,
    sign::signed,
};
use crate::{
    config::CloudIdentity,
    credentials::{
        error::{CredentialError, Fault},
        secret::Secret,
    },
};

const STS: &str = "the STS";
const LOOK_AT_NETWORK: &str =
    "let larder reach it (a firewall, HTTPS_PROXY, a VPC endpoint for STS)";

/// IRSA: the STS exchanges the pod's projected token for the role's keys.
pub(super) async fn by_web_identity(
    inner: &Inner,
    identity: &CloudIdentity,
    api: &Api,
    path: &Path,
) -> Result<Keys, Trouble> {
    let Some(role) = &identity.role else {
        let what = "is a token without a role: annotate the service account with eks.amazonaws.com/role-arn, or set `role`";
        return Err(CredentialError::new(Fault::Content, path.display(), what).into());
    };
    let token = inner.text(path).await?;
    let fields = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", role),
        ("RoleSessionName", "larder"),
        ("WebIdentityToken", token.expose()),
    ];
    let request = Request::post(sts_url(identity, api))
        .header(header::CONTENT_TYPE, FORM)
        .body(form(fields));
    let request = sendable(request, STS)?;
    session(inner, identity, request, role).await
}

/// Takes on another role, which trusts this one and may belong to another account.
pub(super) async fn of_role(
    inner: &Inner,
    identity: &CloudIdentity,
    api: &Api,
    keys: &Keys,
    role: &str,
) -> Result<Keys, Trouble> {
    let fields = [
        ("Action", "AssumeRole"),
        ("Version", "2011-06-15"),
        ("RoleArn", role),
        ("RoleSessionName", "larder"),
    ];
    let body = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish();
    let request = Request::post(sts_url(identity, api)).header(header::CONTENT_TYPE, FORM);
    let request = signed(request, body, keys, "sts", &api.region, STS)?;
    session(inner, identity, request, role).await
}

fn sts_url(identity: &CloudIdentity, api: &Api) -> String {
    format!("{}/", base(identity.token_endpoint.as_ref(), &api.sts))
}

/// Asks the STS for a role's session.
async fn session(
    inner: &Inner,
    identity: &CloudIdentity,
    request: Request<Full<bytes::Bytes>>,
    role: &str,
) -> Result<Keys, Trouble> {
    let at = place(STS, request.uri());
    let question = Question {
        server: STS,
        way: Way::of(identity.token_endpoint.as_ref()),
        request,
    };
    let answer = inner.asker.ask(question, LOOK_AT_NETWORK).await?;
    keys_in(&answer, &at, role)
}

/// The keys in an answer of the STS.
pub(super) fn keys_in(answer: &Answer, at: &str, role: &str) -> Result<Keys, Trouble> {
    let text = Secret::new(String::from_utf8_lossy(&answer.body));
    let field = |name: &str| element(text.expose(), name);
    if answer.status != StatusCode::OK {
        let word = field("Code").and_then(code).unwrap_or_default();
        return Err(sts_refusal(answer, at, word, role));
    }
    let [id, secret, session] = ["AccessKeyId", "SecretAccessKey", "SessionToken"].map(field);
    let (Some(id), Some(secret), Some(session)) = (id, secret, session) else {
        return Err(Trouble::answer(at, "its answer has no keys: is it an STS?"));
    };
    Keys::new(at, [id, secret], Some(session), Some(role.to_owned()))
}

fn sts_refusal(answer: &Answer, at: &str, word: &str, role: &str) -> Trouble {
    let fix = match word {
        "Throttling" | "ThrottlingException" | "RequestLimitExceeded" => {
            return throttled(at, word, None);
        }
        "IDPCommunicationError" => {
            let what =
                format!("cannot reach the cluster's issuer ({word}): larder asks again by itself");
            return CredentialError::new(Fault::Unreachable, at, what).into();
        }
        "InvalidIdentityToken" => {
            "the cluster's OIDC provider is not known to the account, or the token's audience is not sts.amazonaws.com"
        }
        "ExpiredTokenException" | "ExpiredToken" => {
            "the projected token, or the key, has expired: is it mounted as a projected token, and is this node's clock right?"
        }
        "AccessDenied" => {
            "the role's trust policy does not let this service account or role in: look at its `sub`, `aud` and principal"
        }
        "SignatureDoesNotMatch" | "RequestExpired" | "RequestTimeTooSkewed" => {
            "the secret key is wrong, or this node's clock is"
        }
        "InvalidClientTokenId" | "UnrecognizedClientException" => {
            "there is no such key: it was deleted, or is another partition's"
        }
        "RegionDisabledException" => {
            "the STS of this region is switched off in the account: switch it on"
        }
        "ValidationError" | "ValidationException" => {
            "the role is no ARN such as arn:aws:iam::123456789012:role/NAME"
        }
        _ => return answer.failure(at, LOOK_AT_NETWORK),
    };
    let status = answer.status.as_u16();
    Trouble::refused(
        at,
        format!("refuses keys for {role} ({status} {word}): {fix}"),
    )
}

/// The text of an element of XML that has no markup within.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_the_stss_answers() {
        let xml = "<R>\n<AccessKeyId>ASIA</AccessKeyId> <Empty></Empty><Open>x";
        assert_eq!(element(xml, "AccessKeyId"), Some("ASIA"));
        assert_eq!(element(xml, "Empty"), Some(""));
        assert_eq!(element(xml, "Open"), None);
        assert_eq!(element(xml, "Other"), None);
    }
}
