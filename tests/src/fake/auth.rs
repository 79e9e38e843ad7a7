//! Which users may read which repository: Basic, or Bearer with a token endpoint as at Docker Hub.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};

use super::reply::Reply;
use super::request::{Request, form};

/// The `service` in challenges.
const SERVICE: &str = "fake-registry";

/// The user name that stands for an identity token; its secret is the token.
pub const IDENTITY_TOKEN: &str = "<token>";

#[derive(Clone, Debug)]
struct Mode {
    scheme: Scheme,
    users: Vec<(String, String)>,
    anonymous: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Basic,
    Bearer,
}

#[derive(Debug)]
struct Token {
    repositories: BTreeSet<String>,
    until: Instant,
}

/// Rules and tokens.
#[derive(Debug)]
pub(super) struct Auth {
    modes: HashMap<String, Mode>,
    tokens: HashMap<String, Token>,
    pub(super) token_lifetime: Duration,
    realm: String,
}

impl Auth {
    /// No repository needs anything; challenges will name `realm`.
    pub(super) fn new(realm: String) -> Self {
        Self {
            modes: HashMap::new(),
            tokens: HashMap::new(),
            token_lifetime: Duration::from_mins(5),
            realm,
        }
    }

    pub(super) fn require_basic(&mut self, repository: &str, user: &str, password: &str) {
        let mode = Mode {
            scheme: Scheme::Basic,
            users: vec![(user.to_owned(), password.to_owned())],
            anonymous: false,
        };
        self.modes.insert(repository.to_owned(), mode);
    }

    pub(super) fn require_bearer(&mut self, repository: &str, users: &[(&str, &str)]) {
        let owned = |(user, password): &(&str, &str)| ((*user).to_owned(), (*password).to_owned());
        let mode = Mode {
            scheme: Scheme::Bearer,
            users: users.iter().map(owned).collect(),
            anonymous: false,
        };
        self.modes.insert(repository.to_owned(), mode);
    }

    pub(super) fn allow_anonymous(&mut self, repository: &str) {
        let mode = self.modes.entry(repository.to_owned());
        mode.or_insert(Mode {
            scheme: Scheme::Bearer,
            users: Vec::new(),
            anonymous: true,
        })
        .anonymous = true;
    }

    pub(super) fn make_public(&mut self, repository: &str) {
        self.modes.remove(repository);
    }

    pub(super) fn revoke_tokens(&mut self) {
        self.tokens.clear();
    }

    /// `None` when `/v2/` may be answered, otherwise the refusal. A fake that needs credentials anywhere asks for them
    /// here, since some clients learn the challenge from here only.
    pub(super) fn check_ping(&self, request: &Request) -> Option<Reply> {
        let bearer = |mode: &Mode| mode.scheme == Scheme::Bearer;
        let scheme = match self.modes.is_empty() {
            true => return None,
            false if self.modes.values().any(bearer) => Scheme::Bearer,
            false => Scheme::Basic,
        };
        let known = |given: &(String, String)| {
            let mut modes = self.modes.values();
            modes.any(|mode| mode.users.contains(given))
        };
        match presented(request) {
            Presented::Basic(given) if known(&given) => None,
            Presented::Bearer(token) if self.live(&token).is_some() => None,
            _ => Some(self.challenge(scheme, None, None)),
        }
    }

    /// `None` when the request may read its repository, otherwise the refusal.
    pub(super) fn check(&self, request: &Request) -> Option<Reply> {
        let mode = self.modes.get(&request.repository)?;
        let repository = Some(request.repository.as_str());
        let error = match (mode.scheme, presented(request)) {
            (Scheme::Basic, Presented::Basic(given)) if mode.users.contains(&given) => return None,
            (Scheme::Bearer, Presented::Bearer(token)) => match self.live(&token) {
                Some(token) if token.repositories.contains(&request.repository) => return None,
                Some(_) => Some("insufficient_scope"),
                None => Some("invalid_token"),
            },
            _ => None,
        };
        Some(self.challenge(mode.scheme, repository, error))
    }

    fn live(&self, token: &str) -> Option<&Token> {
        let token = self.tokens.get(token)?;
        (token.until > Instant::now()).then_some(token)
    }

    fn challenge(&self, scheme: Scheme, repository: Option<&str>, error: Option<&str>) -> Reply {
        let scope = repository.map(|repository| format!(",scope=\"repository:{repository}:pull\""));
        let error = error.map(|error| format!(",error=\"{error}\""));
        let challenge = match scheme {
            Scheme::Basic => format!("Basic realm=\"{SERVICE}\""),
            Scheme::Bearer => format!(
                "Bearer realm=\"{}\",service=\"{SERVICE}\"{}{}",
                self.realm,
                scope.unwrap_or_default(),
                error.unwrap_or_default()
            ),
        };
        Reply::error(401, "UNAUTHORIZED", "authentication required")
            .with("WWW-Authenticate", &challenge)
    }

    /// Answers `/token`: GET with Basic credentials or none, and POST with the form of OAuth 2. As at
    /// Docker Hub, wrong credentials are refused, while a scope that is not granted is left out.
    pub(super) fn token(&mut self, request: &Request) -> Reply {
        let posted = String::from_utf8_lossy(&request.body).into_owned();
        let field = |name: &str| form(&posted, name).pop().unwrap_or_default();
        let (given, scopes) = match request.method.as_str() {
            "GET" => match presented(request) {
                Presented::Basic(given) => (Some(given), request.parameters("scope")),
                Presented::Nothing => (None, request.parameters("scope")),
                Presented::Bearer(_) => return Reply::error(400, "UNSUPPORTED", "not Basic"),
            },
            "POST" => {
                let given = match field("grant_type").as_str() {
                    "password" => (field("username"), field("password")),
                    "refresh_token" => (IDENTITY_TOKEN.to_owned(), field("refresh_token")),
                    _ => return Reply::error(400, "UNSUPPORTED", "unknown grant_type"),
                };
                (Some(given), form(&posted, "scope"))
            }
            _ => return Reply::error(405, "UNSUPPORTED", "GET or POST"),
        };
        let opens = |mode: &Mode| match &given {
            Some(given) => mode.users.contains(given),
            None => mode.anonymous,
        };
        if given.is_some() && !self.modes.values().any(opens) {
            return Reply::error(401, "UNAUTHORIZED", "wrong credentials");
        }
        let repositories = scopes
            .iter()
            .flat_map(|scopes| scopes.split(' '))
            .filter_map(|scope| scope.strip_prefix("repository:")?.rsplit_once(':'))
            .filter(|(_, actions)| actions.split(',').any(|action| action == "pull"))
            .map(|(repository, _)| repository.to_owned())
            .filter(|repository| {
                let mode = self.modes.get(repository);
                mode.is_some_and(|mode| mode.anonymous || opens(mode))
            })
            .collect();
        let mut secret = [0; 24];
        fastrand::fill(&mut secret);
        let token = HEXLOWER.encode(&secret);
        let body = serde_json::json!({
            "token": token,
            "access_token": token,
            "expires_in": self.token_lifetime.as_secs(),
        });
        let until = Instant::now() + self.token_lifetime;
        let granted = Token {
            repositories,
            until,
        };
        self.tokens.insert(token, granted);
        Reply::ok("application/json", Bytes::from(body.to_string()))
    }
}

enum Presented {
    Nothing,
    Basic((String, String)),
    Bearer(String),
}

fn presented(request: &Request) -> Presented {
    let Some((scheme, value)) = request
        .header("authorization")
        .and_then(|header| header.split_once(' '))
    else {
        return Presented::Nothing;
    };
    if scheme.eq_ignore_ascii_case("bearer") {
        return Presented::Bearer(value.to_owned());
    }
    let pair = BASE64.decode(value.as_bytes()).unwrap_or_default();
    let pair = String::from_utf8_lossy(&pair);
    let (user, password) = pair.split_once(':').unwrap_or_default();
    Presented::Basic((user.to_owned(), password.to_owned()))
}
