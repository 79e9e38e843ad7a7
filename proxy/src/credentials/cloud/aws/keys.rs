//! The keys with which a role signs, in each way that AWS has.

use std::{net::IpAddr, path::Path};

use http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use object_store::aws::AwsCredential;
use serde::Deserialize;

use super::super::{
    Inner,
    ask::{Answer, Question, Trouble, Way, code, place},
    sendable,
};
use crate::credentials::{
    error::{CredentialError, Fault, not_json},
    secret::Secret,
};

pub(super) const METADATA_SERVER: &str = "the metadata server";
const AGENT: &str = "EKS Pod Identity's agent";

const LOOK_AT_AGENT: &str = "does the add-on eks-pod-identity-agent run on this node?";
/// What a pod meets behind a hop limit of 1, the default of new nodes.
const LOOK_AT_HOPS: &str = "an ordinary pod does not reach it where the node's hop limit is 1, as on Amazon Linux 2023: use EKS Pod Identity or IRSA, or `hostNetwork`, or set the hop limit of the launch template to 2";

/// Seconds for which larder's session at the metadata server is good.
const SESSION: &str = "60";

/// The keys of a role, and AWS's name for it.
pub(super) struct Keys {
    pub credential: AwsCredential,
    pub principal: Option<String>,
}

impl Keys {
    /// Keys are sent in headers as they are, so keys that no header can hold are refused.
    pub(super) fn new(
        at: &str,
        [id, secret]: [&str; 2],
        session: Option<&str>,
        principal: Option<String>,
    ) -> Result<Self, Trouble> {
        let plain =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain(id) || !plain(secret) || !session.is_none_or(plain) {
            return Err(Trouble::answer(
                at,
                "gave keys that no request can be signed with",
            ));
        }
        Ok(Self {
            credential: AwsCredential {
                key_id: id.to_owned(),
                secret_key: secret.to_owned(),
                token: session.map(ToOwned::to_owned),
            },
            principal: principal.filter(|name| is_name(name)),
        })
    }
}

/// Whether a text looks like a role's name or ARN, which messages may contain.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@:/=,+ ".contains(&byte);
    !text.is_empty() && text.len() <= 256 && text.bytes().all(plain)
}

/// A file as `aws configure` writes it: the section `default`, or the lines before any section.
pub(super) async fn of_file(inner: &Inner, path: &Path) -> Result<Keys, Trouble> {
    let text = inner.text(path).await?;
    let at = path.display().to_string();
    let Some(Static {
        id,
        secret,
        session,
    }) = Static::parse(text.expose())
    else {
        let what = "has no `aws_access_key_id` and `aws_secret_access_key` in a section [default]: write it as `aws configure` does";
        return Err(CredentialError::new(Fault::Content, at, what).into());
    };
    Keys::new(&at, [id, secret], session, None)
}

/// Keys in a file.
struct Static<'a> {
    id: &'a str,
    secret: &'a str,
    session: Option<&'a str>,
}

impl<'a> Static<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut section = "default";
        let (mut id, mut secret, mut session) = (None, None, None);
        for line in text.lines().map(str::trim) {
            if let Some(name) = line
                .strip_prefix('[')
                .and_then(|line| line.strip_suffix(']'))
            {
                section = name.trim();
            } else if let Some((key, value)) = line.split_once('=')
                && section == "default"
            {
                match key.trim() {
                    "aws_access_key_id" => id = Some(value.trim()),
                    "aws_secret_access_key" => secret = Some(value.trim()),
                    "aws_session_token" => session = Some(value.trim()),
                    _ => {}
                }
            }
        }
        Some(Self {
            id: id?,
            secret: secret?,
            session,
        })
    }
}

/// Keys as the metadata server and the agent write them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Given {
    code: Option<String>,
    access_key_id: Option<Secret>,
    secret_access_key: Option<Secret>,
    token: Option<Secret>,
    account_id: Option<String>,
}

pub(super) fn given(answer: &Answer, at: &str, role: Option<String>) -> Result<Keys, Trouble> {
    let given: Given = serde_json::from_slice(&answer.body).map_err(|error| {
        Trouble::answer(
            at,
            format!("its answer has no keys, but is {}", not_json(&error)),
        )
    })?;
    let (Some(id), Some(secret)) = (&given.access_key_id, &given.secret_access_key) else {
        let word = given.code.as_deref().and_then(code).unwrap_or_default();
        return Err(Trouble::refused(
            at,
            format!("gives no keys ({word}): look at the role's trust policy"),
        ));
    };
    let account = given
        .account_id
        .map(|account| format!("of account {account}"));
    let session = given.token.as_ref().map(Secret::expose);
    Keys::new(
        at,
        [id.expose(), secret.expose()],
        session,
        role.or(account),
    )
}

/// EKS Pod Identity.
pub(super) async fn by_agent(inner: &Inner, url: &str, token: &Path) -> Result<Keys, Trouble> {
    let uri: Option<Uri> = url.parse().ok().filter(is_agents);
    let Some(uri) = uri else {
        let what = "AWS_CONTAINER_CREDENTIALS_FULL_URI names no agent of this node: it must be https, or on loopback, 169.254.170.2, 169.254.170.23 or [fd00:ec2::23]";
        return Err(CredentialError::new(Fault::Content, AGENT, what).into());
    };
    let shown = inner.text(token).await?;
    let mut value = header::HeaderValue::try_from(shown.expose()).map_err(|_| {
        let what = "has characters that no header may hold: is it the agent's token?";
        CredentialError::new(Fault::Content, token.display(), what)
    })?;
    value.set_sensitive(true);
    let request = Request::get(uri)
        .header(header::AUTHORIZATION, value)
        .body(Full::default());
    let request = sendable(request, AGENT)?;
    let at = place(AGENT, request.uri());
    let question = Question {
        server: AGENT,
        way: match request.uri().scheme_str() {
            Some("https") => Way::Named,
            _ => Way::Metadata,
        },
        request,
    };
    let answer = inner.asker.ask(question, LOOK_AT_AGENT).await?;
    // The agent's errors are text, such as `[id]: (ResourceNotFoundException): …, fault: client`.
    let text = String::from_utf8_lossy(&answer.body);
    let word = text
        .split_once('(')
        .and_then(|(_, rest)| rest.split_once(')'));
    let word = word.and_then(|(word, _)| code(word)).unwrap_or_default();
    let refused = |fix: &str| {
        let status = answer.status.as_u16();
        Trouble::refused(&at, format!("refuses keys ({status} {word}): {fix}"))
    };
    match (answer.status, word) {
        (StatusCode::OK, _) => given(&answer, &at, None),
        (_, "ResourceNotFoundException") => Err(refused(
            "no association has this namespace and service account: aws eks create-pod-identity-association",
        )),
        (_, "ExpiredTokenException" | "InvalidTokenException") => Err(refused(
            "the pod's token is not good any more: is this node's clock right?",
        )),
        (StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED, _) | (_, "AccessDeniedException") => {
            Err(refused(
                "the association's role must trust pods.eks.amazonaws.com with sts:AssumeRole and sts:TagSession, and the node's role must have eks-auth:AssumeRoleForPodIdentity",
            ))
        }
        _ => Err(answer.failure(&at, LOOK_AT_AGENT)),
    }
}

/// Whether larder may show the pod's token to this URL: over TLS anywhere, in plain text only on this node.
fn is_agents(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => bare.parse().is_ok_and(|address: IpAddr| {
            address.is_loopback()
                || ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"]
                    .iter()
                    .any(|own| own.parse() == Ok(address))
        }),
        _ => false,
    }
}

/// The node's own role, by IMDSv2.
pub(super) async fn by_metadata(inner: &Inner, server: &str) -> Result<Keys, Trouble> {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    let ask = async |request: http::Result<Request<Full<bytes::Bytes>>>| {
        let question = Question {
            server: METADATA_SERVER,
            way: Way::Metadata,
            request: sendable(request, METADATA_SERVER)?,
        };
        inner.asker.ask(question, LOOK_AT_HOPS).await
    };
    let at = format!("{METADATA_SERVER} {server}");
    let request = Request::put(format!("{server}/latest/api/token"))
        .header("x-aws-ec2-metadata-token-ttl-seconds", SESSION)
        .body(Full::default());
    let session = ask(request).await?;
    match session.status {
        StatusCode::OK => {}
        StatusCode::FORBIDDEN => {
            return Err(Trouble::refused(
                &at,
                "is switched off for this node (403): use EKS Pod Identity or IRSA, or switch it on",
            ));
        }
        _ => return Err(session.failure(&at, LOOK_AT_HOPS)),
    }
    let session = session.body;
    let get = async |path: &str| {
        let request = Request::get(format!("{server}{ROLES}{path}"))
            .header("x-aws-ec2-metadata-token", &session[..])
            .body(Full::default());
        ask(request).await
    };
    let roles = get("").await?;
    let text = String::from_utf8_lossy(&roles.body).into_owned();
    let role = text
        .lines()
        .next()
        .map(str::trim)
        .filter(|role| is_name(role));
    let (StatusCode::OK, Some(role)) = (roles.status, role) else {
        if matches!(roles.status, StatusCode::NOT_FOUND | StatusCode::OK) {
            return Err(Trouble::refused(
                &at,
                "knows no role of this node: attach an instance profile to it, or use EKS Pod Identity or IRSA",
            ));
        }
        return Err(roles.failure(&at, LOOK_AT_HOPS));
    };
    let answer = get(role).await?;
    if answer.status != StatusCode::OK {
        return Err(answer.failure(&at, LOOK_AT_HOPS));
    }
    given(&answer, &at, Some(role.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_as_aws_configure_writes_them() {
        let whole = "[default]\naws_access_key_id = AKIA\naws_secret_access_key=a=b/+\n\n[other]\naws_access_key_id = X\n";
        let parsed = |text| Static::parse(text).map(|keys| (keys.id, keys.secret, keys.session));
        assert_eq!(parsed(whole), Some(("AKIA", "a=b/+", None)));
        let temporary = "aws_access_key_id=A\r\naws_secret_access_key=S\r\naws_session_token = T";
        assert_eq!(parsed(temporary), Some(("A", "S", Some("T"))));
        for none in [
            "",
            "[default]\naws_access_key_id = A\n",
            "[x]\naws_access_key_id=A\naws_secret_access_key=S",
        ] {
            assert_eq!(parsed(none), None, "{none}");
        }
    }

    #[test]
    fn a_pods_token_goes_to_its_nodes_agent_alone() {
        for (url, is) in [
            ("http://169.254.170.23/v1/credentials", true),
            ("http://[fd00:ec2::23]/v1/credentials", true),
            ("http://127.0.0.1:1/x", true),
            ("http://[::1]/x", true),
            ("https://agent.example/x", true),
            ("http://agent.example/x", false),
            ("http://169.254.169.254/x", false),
            ("http://10.0.0.1/x", false),
            ("ftp://127.0.0.1/x", false),
            ("/x", false),
        ] {
            assert_eq!(url.parse().is_ok_and(|uri| is_agents(&uri)), is, "{url}");
        }
    }
}
