//! AWS: the STS, the metadata server of a node, EKS Pod Identity's agent, and the API of ECR. Every signature is
//! checked.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use serde_json::json;

use super::google::{form_of, wanted};
use super::lists::Images;
use super::server::{Asked, CloudServer, Reply};
use super::sigv4::{AwsKeys, Unsigned, check};

/// A role's session; a test sets its keys.
#[derive(Clone, Debug)]
pub struct Session(Arc<Mutex<AwsKeys>>);

impl Session {
    /// A role's keys, which contain `secret`.
    pub fn new(secret: &str) -> Self {
        Self(Arc::new(Mutex::new(AwsKeys {
            id: "ASIAEXAMPLE".to_owned(),
            secret: secret.to_owned(),
            session: Some(format!("session/{secret}+=")),
        })))
    }

    /// Keys without an end, as in a file.
    pub fn of_file(secret: &str) -> Self {
        Self(Arc::new(Mutex::new(AwsKeys {
            id: "AKIAEXAMPLE".to_owned(),
            secret: secret.to_owned(),
            session: None,
        })))
    }

    pub fn keys(&self) -> AwsKeys {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn json(&self) -> serde_json::Value {
        let AwsKeys {
            id,
            secret,
            session,
        } = self.keys();
        json!({
            "AccessKeyId": id,
            "SecretAccessKey": secret,
            "Token": session,
            "Expiration": "2099-01-01T00:00:00Z",
        })
    }
}

/// The API of ECR, or of ECR Public.
#[derive(Debug)]
pub struct Ecr;

/// The password that the API gives out now, and its lifetime in seconds.
#[derive(Clone, Debug, Default)]
pub struct EcrPassword(Arc<Mutex<(String, u64)>>);

impl EcrPassword {
    pub fn set(&self, password: &str, seconds: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (password.to_owned(), seconds);
    }
}

impl Ecr {
    /// An API that takes requests which these keys have signed for the region.
    pub async fn start(password: &EcrPassword, session: &Session, region: &str) -> CloudServer {
        Self::start_as(password, session, region, "ecr", None).await
    }

    /// The same. It also lists the images of one repository, so many on each page.
    pub async fn start_listing(
        password: &EcrPassword,
        session: &Session,
        region: &str,
        repository: &str,
        images: &Images,
        page: usize,
    ) -> CloudServer {
        let listed = (repository.to_owned(), images.clone(), page);
        Self::start_as(password, session, region, "ecr", Some(listed)).await
    }

    /// The API of ECR Public, which has one region.
    pub async fn start_public(password: &EcrPassword, session: &Session) -> CloudServer {
        Self::start_as(password, session, "us-east-1", "ecr-public", None).await
    }

    async fn start_as(
        password: &EcrPassword,
        session: &Session,
        region: &str,
        service: &'static str,
        listed: Option<(String, Images, usize)>,
    ) -> CloudServer {
        let (password, session, region) = (password.clone(), session.clone(), region.to_owned());
        CloudServer::start("the API of ECR", move |asked| {
            wanted(asked.method == "POST" && asked.path == "/", "POST /")?;
            wanted(
                asked.header("content-type") == Some("application/x-amz-json-1.1"),
                "JSON 1.1",
            )?;
            let service_of_target = match service {
                "ecr" => "AmazonEC2ContainerRegistry_V20150921",
                _ => "SpencerFrontendService",
            };
            let target = asked.header("x-amz-target").unwrap_or_default();
            let operation = target.strip_prefix(service_of_target).unwrap_or_default();
            if let (".DescribeImages", Some((name, images, page))) = (operation, &listed) {
                if let Err(why) = check(asked, &session.keys(), service, &region)? {
                    return Ok(unsigned_json(why));
                }
                return images.described(asked, name, *page);
            }
            wanted(
                operation == ".GetAuthorizationToken",
                "GetAuthorizationToken",
            )?;
            wanted(asked.body == "{}", "an empty object")?;
            if let Err(why) = check(asked, &session.keys(), service, &region)? {
                return Ok(unsigned_json(why));
            }
            let (password, seconds) = password
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let data = json!({
                "authorizationToken": BASE64.encode(format!("AWS:{password}").as_bytes()),
                "expiresAt": now() as f64 + seconds as f64 + 0.5,
                "proxyEndpoint": "https://123456789012.dkr.ecr.eu-central-1.amazonaws.com",
            });
            let data = match service {
                "ecr" => json!([data]),
                _ => data,
            };
            Ok(Reply::json(200, &json!({"authorizationData": data}))
                .with("content-type", "application/x-amz-json-1.1"))
        })
        .await
    }

    /// A refusal in the API's form.
    pub fn error(status: u16, kind: &str) -> Reply {
        let kind = format!("com.amazonaws.ecr#{kind}");
        Reply::json(
            status,
            &json!({"__type": kind, "message": "a text that may hold anything"}),
        )
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a clock").as_secs()
}

fn unsigned_json(why: Unsigned) -> Reply {
    Ecr::error(
        400,
        match why {
            Unsigned::NoSuchKey => "UnrecognizedClientException",
            Unsigned::WrongSignature => "InvalidSignatureException",
        },
    )
}

/// The STS of a region.
#[derive(Debug)]
pub struct AwsSts;

/// The conditions under which the STS gives a role.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The role that the STS gives.
    pub role: String,
    /// The projected token, or else the keys, that a client must show for it.
    pub by: TrustedBy,
}

#[derive(Clone, Debug)]
pub enum TrustedBy {
    Token(String),
    Keys(Session, String),
}

impl AwsSts {
    pub async fn start(trust: Trust, session: &Session) -> CloudServer {
        let session = session.clone();
        CloudServer::start("the STS", move |asked| {
            wanted(asked.method == "POST" && asked.path == "/" && asked.query.is_empty(), "POST /")?;
            let form = form_of(asked)?;
            wanted(form("Version")? == "2011-06-15", "Version")?;
            wanted(form("RoleSessionName")? == "larder", "RoleSessionName")?;
            let (action, role) = (form("Action")?, form("RoleArn")?);
            match &trust.by {
                TrustedBy::Token(known) => {
                    wanted(action == "AssumeRoleWithWebIdentity", "Action")?;
                    wanted(asked.header("authorization").is_none(), "no signature")?;
                    if form("WebIdentityToken")? != *known {
                        return Ok(Self::error(400, "InvalidIdentityToken"));
                    }
                }
                TrustedBy::Keys(own, region) => {
                    wanted(action == "AssumeRole", "Action")?;
                    if let Err(why) = check(asked, &own.keys(), "sts", region)? {
                        return Ok(Self::error(403, match why {
                            Unsigned::NoSuchKey => "InvalidClientTokenId",
                            Unsigned::WrongSignature => "SignatureDoesNotMatch",
                        }));
                    }
                }
            }
            if role != trust.role {
                return Ok(Self::error(403, "AccessDenied"));
            }
            let AwsKeys { id, secret, session } = session.keys();
            let session = session.unwrap_or_default();
            let body = format!(
                "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><AssumedRoleUser><Arn>{role}</Arn></AssumedRoleUser><Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{session}</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></{action}Result></{action}Response>"
            );
            Ok(Reply::new(200, "text/xml", body))
        })
        .await
    }

    /// A refusal in the STS's form.
    pub fn error(status: u16, code: &str) -> Reply {
        let body = format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code><Message>a text that may hold anything</Message></Error><RequestId>1</RequestId></ErrorResponse>"
        );
        Reply::new(status, "text/xml", body)
    }
}

/// The metadata server of a node: IMDSv2, which answers nothing without a session token.
#[derive(Debug)]
pub struct Imds;

impl Imds {
    pub async fn start(session: &Session, role: &str) -> CloudServer {
        let (session, role) = (session.clone(), role.to_owned());
        CloudServer::start("the node's metadata server", move |asked| {
            const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
            wanted(
                asked.header("x-forwarded-for").is_none(),
                "it came through a proxy",
            )?;
            if asked.path == "/latest/api/token" {
                wanted(asked.method == "PUT", "PUT")?;
                let lasts = asked.header("x-aws-ec2-metadata-token-ttl-seconds");
                let lasts = lasts.and_then(|lasts| lasts.parse::<u32>().ok());
                wanted(
                    lasts.is_some_and(|lasts| (1..=21_600).contains(&lasts)),
                    "a time to live",
                )?;
                return Ok(Reply::new(200, "text/plain", "AQAEAExample=="));
            }
            wanted(asked.method == "GET", "GET")?;
            if asked.header("x-aws-ec2-metadata-token") != Some("AQAEAExample==") {
                return Err("IMDSv1 is switched off".to_owned());
            }
            match asked.path.strip_prefix(ROLES) {
                Some("") if role.is_empty() => Ok(Reply::new(404, "text/html", "")),
                Some("") => Ok(Reply::new(200, "text/plain", role.clone())),
                Some(name) if name == role => {
                    let mut body = session.json();
                    body["Code"] = json!("Success");
                    body["Type"] = json!("AWS-HMAC");
                    Ok(Reply::new(200, "text/plain", body.to_string()))
                }
                _ => Err("there is no such path".to_owned()),
            }
        })
        .await
    }
}

/// EKS Pod Identity's agent.
#[derive(Debug)]
pub struct PodIdentity;

impl PodIdentity {
    /// Its path, as the webhook writes it.
    pub const PATH: &'static str = "/v1/credentials";

    pub async fn start(session: &Session, token: &str) -> CloudServer {
        let (session, token) = (session.clone(), token.to_owned());
        CloudServer::start("EKS Pod Identity's agent", move |asked: &Asked| {
            wanted(
                asked.method == "GET" && asked.path == Self::PATH,
                "GET /v1/credentials",
            )?;
            // The token itself, without `Bearer`.
            if asked.header("authorization") != Some(&token) {
                return Ok(Self::error(400, "InvalidTokenException"));
            }
            let mut body = session.json();
            body["AccountId"] = json!("123456789012");
            Ok(Reply::json(200, &body))
        })
        .await
    }

    /// A refusal in the agent's form: plain text.
    pub fn error(status: u16, code: &str) -> Reply {
        let body = format!("[1]: ({code}): a text that may hold anything, fault: client");
        Reply::new(status, "text/plain", body)
    }
}
