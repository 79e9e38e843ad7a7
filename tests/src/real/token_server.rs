//! The token server of a registry with `auth: token`: it takes HTTP Basic and gives a signed JSON Web Token, in the
//! format that distribution 2.8 verifies.
//!
//! The registry decides whether a token opens what a client asks for.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use bytes::Bytes;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::fake::form;

/// The issuer, as the tokens and the registry's configuration name it.
pub(super) const ISSUER: &str = "tokens.test";
/// The service that the tokens are for.
pub(super) const SERVICE: &str = "registry.test";
const LIFETIME: Duration = Duration::from_mins(5);

/// A user's name, password and rights.
#[derive(Clone, Debug)]
pub struct Account {
    /// The user's name.
    pub name: String,
    /// The password.
    pub password: String,
    /// Repositories, and the actions ("pull", "push") in each.
    pub grants: Vec<(String, Vec<String>)>,
}

impl Account {
    /// An account that may do nothing yet.
    pub fn new(name: &str, password: &str) -> Self {
        Self {
            name: name.to_owned(),
            password: password.to_owned(),
            grants: Vec::new(),
        }
    }

    /// Allows these actions in this repository too.
    #[must_use]
    pub fn may(mut self, repository: &str, actions: &[&str]) -> Self {
        let actions = actions.iter().map(|&action| action.to_owned()).collect();
        self.grants.push((repository.to_owned(), actions));
        self
    }

    /// The wanted actions that are granted.
    fn granted(&self, repository: &str, wanted: &str) -> Vec<&str> {
        let grants = self.grants.iter().filter(|(name, _)| name == repository);
        let actions = grants.flat_map(|(_, actions)| actions);
        actions
            .map(String::as_str)
            .filter(|action| wanted.split(',').any(|one| one == *action))
            .collect()
    }
}

/// One token server with a key of its own, on a loopback port, plain HTTP.
#[derive(Debug)]
pub struct TokenServer {
    addr: SocketAddr,
    certificate_pem: String,
    desk: Arc<Desk>,
    accepting: Option<JoinHandle<()>>,
}

/// The server's state for its answers.
#[derive(Debug)]
struct Desk {
    accounts: Vec<Account>,
    key: EcdsaKeyPair,
    /// The certificate in DER, in base64.
    x5c: String,
    issued: Mutex<Vec<String>>,
}

impl TokenServer {
    /// Starts it for these accounts. The first one pushes the content of tests.
    pub async fn start(accounts: Vec<Account>) -> Result<Self> {
        let pair = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![ISSUER.to_owned()])?.self_signed(&pair)?;
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der())?;
        let desk = Arc::new(Desk {
            accounts,
            key,
            x5c: BASE64.encode(certificate.der()),
            issued: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        Ok(Self {
            addr: listener.local_addr()?,
            certificate_pem: certificate.pem(),
            accepting: Some(tokio::spawn(accept(listener, desk.clone()))),
            desk,
        })
    }

    /// The base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The URL of the token endpoint.
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.addr)
    }

    /// The certificate by which the registry verifies signatures.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The account that pushes.
    pub fn pusher(&self) -> Option<&Account> {
        self.desk.accounts.first()
    }

    /// Every token that was issued, in order.
    pub fn issued(&self) -> Vec<String> {
        let issued = self.desk.issued.lock();
        issued.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it with all its connections; its port then refuses new ones.
    pub async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // The task ends by being cancelled, which is no error here.
            let _ = accepting.await;
        }
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

/// Connections end with the task that accepts them.
async fn accept(listener: TcpListener, desk: Arc<Desk>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let desk = desk.clone();
        connections.spawn(async move {
            let answer = service_fn(|request: Request<hyper::body::Incoming>| {
                let (parts, _) = request.into_parts();
                let query = parts.uri.query().unwrap_or_default();
                let answer = match (&parts.method, parts.uri.path()) {
                    (&Method::GET, "/token") => desk.answer(&parts.headers, query),
                    _ => refusal(StatusCode::NOT_FOUND),
                };
                async { Ok::<_, Infallible>(answer) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            // A client that breaks off is not the server's concern.
            let _ = http.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

fn refusal(status: StatusCode) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

impl Desk {
    /// Refuses wrong credentials. A scope that is not granted is left out of the token; a client without credentials
    /// gets a token that opens nothing.
    fn answer(&self, headers: &HeaderMap, query: &str) -> Response<Full<Bytes>> {
        let account = match headers.get(AUTHORIZATION) {
            None => None,
            Some(shown) => match self.account(shown.as_bytes()) {
                Some(account) => Some(account),
                None => return refusal(StatusCode::UNAUTHORIZED),
            },
        };
        let scopes = form(query, "scope");
        let access: Vec<Value> = scopes
            .iter()
            .flat_map(|scopes| scopes.split(' '))
            .filter_map(|scope| scope.strip_prefix("repository:")?.rsplit_once(':'))
            .filter_map(|(name, wanted)| {
                let actions = account?.granted(name, wanted);
                let entry = json!({"type": "repository", "name": name, "actions": actions});
                (!actions.is_empty()).then_some(entry)
            })
            .collect();
        let subject = account.map_or("", |account| &account.name);
        let Ok(token) = self.sign(subject, &access) else {
            return refusal(StatusCode::INTERNAL_SERVER_ERROR);
        };
        let body = json!({
            "token": token,
            "access_token": token,
            "expires_in": LIFETIME.as_secs(),
        });
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.push(token);
        Response::new(Full::from(body.to_string()))
    }

    /// The account that this `Authorization` proves.
    fn account(&self, shown: &[u8]) -> Option<&Account> {
        let pair = BASE64.decode(shown.strip_prefix(b"Basic ")?).ok()?;
        let pair = String::from_utf8(pair).ok()?;
        let (name, password) = pair.split_once(':')?;
        let mut accounts = self.accounts.iter();
        accounts.find(|account| account.name == name && account.password == password)
    }

    /// A JSON Web Token by ES256: RFC 7515 wants r and s one after the other, not in ASN.1.
    fn sign(&self, subject: &str, access: &[Value]) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.x5c]});
        let claims = json!({
            "iss": ISSUER,
            "sub": subject,
            "aud": SERVICE,
            "exp": now + LIFETIME.as_secs(),
            "nbf": now,
            "iat": now,
            "jti": format!("{:032x}", fastrand::u128(..)),
            "access": access,
        });
        let encoded = |part: &Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
        let signed = format!("{}.{}", encoded(&header), encoded(&claims));
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|_| anyhow!("no signature"))
            .context("signing a token")?;
        Ok(format!(
            "{signed}.{}",
            BASE64URL_NOPAD.encode(signature.as_ref())
        ))
    }
}
