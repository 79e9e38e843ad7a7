//! A node in front of registries that want credentials, and clients that show theirs as runtimes do. At the end, a
//! check that no secret was left anywhere.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use larder_tests::fake::FakeRegistry;
use larder_tests::http::{Call, Response};
use larder_tests::node::{Node, NodeBuilder};
use larder_tests::scene::files;

/// Part of every secret of these tests, so that a check finds a secret wherever it turns up, and in any encoding.
const MARK: &str = "Hush4d1c77e9Hush";

/// A new secret that cannot be guessed.
pub fn secret() -> String {
    format!("{MARK}{:032x}", fastrand::u128(..))
}

/// `Basic …` of a username and a password.
pub fn basic(user: &str, password: &str) -> String {
    let pair = format!("{user}:{password}");
    format!("Basic {}", BASE64.encode(pair.as_bytes()))
}

/// A form's value, percent-encoded.
pub fn encoded(value: &str) -> String {
    let one = |mut form: String, byte: u8| {
        form.push('%');
        form.push_str(&HEXLOWER.encode(&[byte]));
        form
    };
    value.bytes().fold(String::new(), one)
}

/// A client's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Shows nothing, and does not fetch an anonymous token either.
    Nobody,
    /// A pod with a pull secret.
    User(String, String),
    /// Sends this `Authorization` at once.
    Sends(String),
}

impl Who {
    /// A user with a new password.
    pub fn new(user: &str) -> Self {
        Self::User(user.to_owned(), secret())
    }

    /// Name and password, as the fake registry takes them.
    pub fn pair(&self) -> (&str, &str) {
        match self {
            Self::User(user, password) => (user, password),
            other => panic!("{other:?} has no password"),
        }
    }

    /// The password as it appears in HTTP Basic.
    pub fn basic(&self) -> String {
        let (user, password) = self.pair();
        basic(user, password)
    }
}

/// The parsed `WWW-Authenticate` of larder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    pub realm: String,
    pub service: String,
    pub scope: Option<String>,
    pub error: Option<String>,
}

impl Challenge {
    /// Reads the challenge of a 401; panics when there is none, or another one than Bearer.
    pub fn of(response: &Response) -> Self {
        assert_eq!(response.status, 401, "{}", response.text());
        assert_eq!(
            response.headers.get_all("www-authenticate").iter().count(),
            1
        );
        let value = response.header("www-authenticate").expect("a challenge");
        let fields = value.strip_prefix("Bearer ").expect("a Bearer challenge");
        let field = |name: &str| {
            let (_, rest) = fields.split_once(&format!("{name}=\""))?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        Self {
            realm: field("realm").expect("a realm"),
            service: field("service").expect("a service"),
            scope: field("scope"),
            error: field("error"),
        }
    }

    /// Where a client gets its token.
    pub fn url(&self) -> String {
        let scope = self.scope.as_ref().map(|scope| format!("&scope={scope}"));
        format!(
            "{}?service={}{}",
            self.realm,
            self.service,
            scope.unwrap_or_default()
        )
    }
}

/// A node, and all that it has said in refusals.
#[derive(Debug)]
pub struct Private {
    pub node: Node,
    said: Mutex<Vec<u8>>,
    tokens: Mutex<BTreeSet<String>>,
    ended: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Private {
    /// Starts a node at the highest log level.
    pub async fn start(builder: NodeBuilder) -> Self {
        let node = builder.log_level("trace").start().await;
        Self {
            node,
            said: Mutex::default(),
            tokens: Mutex::default(),
            ended: false,
        }
    }

    /// A node in front of these registries.
    pub async fn before(fakes: &[&FakeRegistry]) -> Self {
        let with = |builder: NodeBuilder, fake: &&FakeRegistry| builder.upstream(fake);
        Self::start(fakes.iter().fold(Node::builder(), with)).await
    }

    /// The same with this configuration file.
    pub async fn configured(fakes: &[&FakeRegistry], toml: impl Into<String>) -> Self {
        let with = |builder: NodeBuilder, fake: &&FakeRegistry| builder.upstream(fake);
        Self::start(fakes.iter().fold(Node::builder().config(toml), with)).await
    }

    /// `/v2/<path>?ns=<the fake>` at the node.
    pub fn path(&self, fake: &FakeRegistry, path: &str) -> String {
        format!("{}/v2/{path}?ns={}", self.node.url(), fake.host())
    }

    pub fn manifest(&self, fake: &FakeRegistry, repository: &str, reference: &str) -> String {
        self.path(fake, &format!("{repository}/manifests/{reference}"))
    }

    pub fn blob(&self, fake: &FakeRegistry, repository: &str, digest: &str) -> String {
        self.path(fake, &format!("{repository}/blobs/{digest}"))
    }

    /// Sends one request and records a refusal.
    pub async fn send(&self, call: Call) -> Response {
        let answer = call.send().await.expect("an answer");
        self.note(&answer);
        answer
    }

    /// Records a token in an answer, and all that a refusal says.
    pub fn note(&self, answer: &Response) {
        if answer.status >= 300 {
            let mut said = lock(&self.said);
            said.extend_from_slice(&answer.body);
            said.extend_from_slice(format!("{:?}", answer.headers).as_bytes());
        }
    }

    /// Records bytes from elsewhere, which must hold no secret either.
    pub fn keep(&self, place: &str, bytes: &[u8]) {
        let mut said = lock(&self.said);
        said.extend_from_slice(place.as_bytes());
        said.extend_from_slice(bytes);
    }

    /// Asks as containerd does: without credentials first; when challenged, it fetches a token at the realm and shows
    /// that.
    pub async fn ask(&self, who: &Who, call: Call) -> Response {
        let first = match who {
            Who::Sends(authorization) => call.clone().header("authorization", authorization),
            _ => call.clone(),
        };
        let answer = self.send(first).await;
        if answer.status != 401 || !matches!(who, Who::User(..)) {
            return answer;
        }
        let token = self.token(who, &Challenge::of(&answer)).await;
        self.send(call.header("authorization", &format!("Bearer {token}")))
            .await
    }

    /// The larder token that answers a challenge.
    pub async fn token(&self, who: &Who, challenge: &Challenge) -> String {
        let call = Call::get(challenge.url());
        let call = match who {
            Who::User(..) => call.header("authorization", &who.basic()),
            _ => call,
        };
        self.token_of(&self.send(call).await)
    }

    /// The token in an answer of the token endpoint.
    pub fn token_of(&self, answer: &Response) -> String {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let json = answer.json();
        let token = json["token"].as_str().expect("a token").to_owned();
        assert_eq!(json["access_token"], token.as_str());
        assert!(
            json["expires_in"]
                .as_u64()
                .is_some_and(|seconds| seconds >= 60)
        );
        lock(&self.tokens).insert(token.clone());
        token
    }

    pub async fn get(&self, who: &Who, url: &str) -> Response {
        self.ask(who, Call::get(url)).await
    }

    pub async fn head(&self, who: &Who, url: &str) -> Response {
        self.ask(who, Call::new("HEAD", url)).await
    }

    /// The end of every test. No secret that was used, no registry token and no larder token is in a log, a metric, a
    /// refusal, the store, or the output of the command line.
    pub async fn end(mut self, fakes: &[&FakeRegistry]) {
        assert!(!self.node.log().is_empty(), "there is no log");
        let mut places = vec![
            ("the log".to_owned(), self.node.log().into_bytes()),
            ("refusals".to_owned(), lock(&self.said).clone()),
        ];
        if self.node.ended().is_none() {
            places.push(("metrics".to_owned(), self.node.metrics().await.into_bytes()));
            let config = self.node.config_file().display().to_string();
            let image = fakes.first().map_or("docker.io/a".to_owned(), |fake| {
                format!("{}/team/app:v1", fake.host())
            });
            let mut commands = vec![
                vec!["status"],
                vec!["status", "--json"],
                vec!["explain", &image],
            ];
            if self.node.config_file().exists() {
                commands.push(vec!["config", "show", "--config", &config]);
            }
            for arguments in commands {
                let output = self.node.cli(&arguments).await;
                places.push((format!("larder {}", arguments.join(" ")), output.stdout));
                places.push((
                    format!("errors of larder {}", arguments.join(" ")),
                    output.stderr,
                ));
            }
        }
        for file in files(self.node.store()) {
            let content = std::fs::read(&file).unwrap_or_default();
            places.push((
                file.display().to_string(),
                file.display().to_string().into_bytes(),
            ));
            places.push((file.display().to_string(), content));
        }
        let mut needles: BTreeSet<Vec<u8>> = marks();
        needles.extend(
            lock(&self.tokens)
                .iter()
                .map(|token| token.clone().into_bytes()),
        );
        for seen in fakes.iter().flat_map(|fake| fake.requests()) {
            let sent = seen.authorization.unwrap_or_default();
            if let Some((_, value)) = sent.split_once(' ')
                && value.len() >= 8
            {
                needles.insert(value.as_bytes().to_vec());
            }
        }
        for (place, content) in &places {
            // The standard library's search is fast even in a debug build.
            let content = String::from_utf8_lossy(content);
            for needle in &needles {
                let needle = String::from_utf8_lossy(needle);
                assert!(
                    !content.contains(&*needle),
                    "{needle} is in {place}: {content}"
                );
            }
        }
        self.ended = true;
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        assert!(
            self.ended || std::thread::panicking(),
            "the test has not looked for secrets: call `end`"
        );
    }
}

fn find(content: &[u8], needle: &[u8]) -> bool {
    content.windows(needle.len()).any(|window| window == needle)
}

/// The mark as it is, in hex, and in base64 wherever it begins.
fn marks() -> BTreeSet<Vec<u8>> {
    let mut marks = BTreeSet::from([
        MARK.as_bytes().to_vec(),
        HEXLOWER.encode(MARK.as_bytes()).into_bytes(),
    ]);
    for before in 0..3 {
        let shifted = [vec![0; before], MARK.as_bytes().to_vec()].concat();
        let encoded = BASE64.encode(&shifted).trim_end_matches('=').to_owned();
        // The first and the last character also hold bits of the bytes next to the mark.
        let first = (before * 8).div_ceil(6);
        marks.insert(encoded.as_bytes()[first..encoded.len() - 1].to_vec());
    }
    marks
}

/// Confidential text that is easy to find again.
pub fn confidential(name: &str) -> Bytes {
    Bytes::from(format!("confidential {name} {:032x}", fastrand::u128(..)))
}

/// Repeats a request until its answer is as wanted; panics, naming it, after 20 s.
pub async fn until(what: &str, mut wanted: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !wanted().await {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Fails unless this is a refusal that holds nothing of `content`.
pub fn refused(what: &str, answer: &Response, content: &[u8]) {
    assert!(
        matches!(answer.status, 401 | 403 | 404 | 503),
        "{what}: {} {}",
        answer.status,
        answer.text()
    );
    assert!(!find(&answer.body, content), "{what}: {}", answer.text());
    assert_eq!(answer.header("docker-content-digest"), None, "{what}");
}

#[test]
fn a_secret_is_found_in_whatever_clothes() {
    for before in ["", "u", "us", "use"] {
        let secret = format!("{before}{}", secret());
        for said in [
            secret.clone(),
            BASE64.encode(secret.as_bytes()),
            HEXLOWER.encode(secret.as_bytes()),
        ] {
            let said = format!("x{said}y");
            assert!(
                marks().iter().any(|mark| find(said.as_bytes(), mark)),
                "{said}"
            );
        }
    }
}
