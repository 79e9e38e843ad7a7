//! Token exchanges as real registries do them: tokens that a registry no longer accepts, challenges with little in
//! them, realms and front ends on other hosts (promises P16, P17, P20).

use data_encoding::BASE64;
use larder_tests::fake::{FakeRegistry, Fault, Kind, Match, Seen, Target};
use larder_tests::http::{self, Call};
use larder_tests::image::{Image, LayerSpec, build};
use larder_tests::node::Node;

use crate::private::{Private, Who, refused, secret, until};

const REPOSITORY: &str = "team/app";

/// A registry that gives tokens to this caller.
struct Place {
    fake: FakeRegistry,
    scene: Private,
    who: Who,
    image: Image,
}

impl Place {
    async fn of(who: Who) -> Self {
        let fake = FakeRegistry::start().await;
        let image = build(&fake, REPOSITORY, "v1", &[LayerSpec::new(1, 1000)]);
        match who {
            Who::Nobody => fake.allow_anonymous(REPOSITORY),
            _ => fake.require_bearer(REPOSITORY, &[who.pair()]),
        }
        let scene = Private::configured(&[&fake], "[access]\nttl = \"10m\"\n").await;
        Self {
            fake,
            scene,
            who,
            image,
        }
    }

    async fn each() -> [Self; 2] {
        [
            Self::of(Who::Nobody).await,
            Self::of(Who::new("owner")).await,
        ]
    }

    /// Pulls by HEAD of the tag, GET by digest, and blobs. The registry answers all of it now.
    async fn pulls(&self, what: &str) {
        let url = |rest: String| self.scene.path(&self.fake, &format!("{REPOSITORY}/{rest}"));
        let head = self
            .scene
            .head(&self.who, &url("manifests/v1".into()))
            .await;
        assert_eq!(head.status, 200, "{what} {:?}", self.who);
        assert_eq!(head.header("warning"), None, "{what} {:?}", self.who);
        let layers = self.image.layers.iter().map(|layer| &layer.digest);
        let blobs = [&self.image.config_digest].into_iter().chain(layers);
        let mut paths = vec![format!("manifests/{}", self.image.manifest_digest)];
        paths.extend(blobs.map(|digest| format!("blobs/{digest}")));
        for path in paths {
            let answer = self.scene.get(&self.who, &url(path.clone())).await;
            assert_eq!(answer.status, 200, "{what} {path}: {}", answer.text());
        }
    }

    /// A token of the registry's own, for this caller.
    async fn token(&self) -> String {
        let url = format!(
            "{}/token?service=fake-registry&scope=repository:{REPOSITORY}:pull",
            self.fake.url()
        );
        let headers = match &self.who {
            Who::Nobody => Vec::new(),
            who => vec![("authorization", who.basic())],
        };
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let answer = http::get(&url, &headers).await.expect("a token");
        answer.json()["token"].as_str().expect("a token").to_owned()
    }

    async fn end(self) {
        self.scene.end(&[&self.fake]).await;
    }
}

fn says(code: u16, name: &str, value: &str, body: impl Into<bytes::Bytes>) -> Fault {
    Fault::Status {
        code,
        headers: vec![(name.to_owned(), value.to_owned())],
        body: body.into(),
    }
}

const CHALLENGE: &str = "WWW-Authenticate";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_the_registry_stops_to_like_is_dropped() {
    for place in Place::each().await {
        place.pulls("at first").await;
        let own = format!("{}/token", place.fake.url());
        let other = "Bearer realm=\"http://127.0.0.1:9/token\",service=\"another\"";
        let invalid = format!("Bearer realm=\"{own}\",service=\"x\",error=\"invalid_token\"");
        let words = [
            Fault::status(400),
            Fault::denied(400),
            Fault::status(401),
            Fault::denied(401),
            Fault::page(401),
            says(401, CHALLENGE, "Basic realm=\"x\"", ""),
            says(401, CHALLENGE, "Negotiate", ""),
            says(401, CHALLENGE, other, ""),
            says(401, CHALLENGE, &invalid, ""),
            Fault::status(403),
            Fault::denied(403),
            Fault::page(403),
        ];
        for words in words {
            // The registry no longer accepts any token that was shown so far.
            let mut old: Vec<String> = place
                .fake
                .requests()
                .into_iter()
                .filter_map(|seen| seen.authorization)
                .filter(|sent| sent.starts_with("Bearer "))
                .collect();
            old.sort();
            old.dedup();
            assert!(!old.is_empty());
            let shown = Match::any().when(move |request| {
                let sent = request.header("authorization").unwrap_or_default();
                old.iter().any(|old| old == sent)
            });
            let armed = place.fake.fault(shown, words.clone());
            place.pulls(&format!("{words:?}")).await;
            assert!(armed.hits() > 0, "{words:?}");
            // larder does not show the refused tokens again.
            let before = armed.hits();
            place.pulls(&format!("{words:?}")).await;
            assert_eq!(armed.hits(), before, "{words:?}");
        }
        place.end().await;
    }
}

/// larder waits for the token as the client itself would: it has no answer yet that could take its place.
#[tokio::test]
async fn a_dance_that_takes_longer_than_a_check_of_a_tag_is_waited_for() {
    for place in Place::each().await {
        let late = Fault::Delay(std::time::Duration::from_millis(2600));
        let armed = place.fake.fault(Match::token(), late);
        place.pulls("a late token").await;
        assert!(armed.hits() > 0);
        place.end().await;
    }
}

/// As `JFrog` and nvcr.io have it.
#[tokio::test]
async fn a_challenge_without_a_scope_is_answered_with_one() {
    for scope in ["", ",scope=\"\""] {
        for place in Place::each().await {
            let realm = format!("{}/token", place.fake.url());
            let challenge = format!("Bearer realm=\"{realm}\",service=\"fake-registry\"{scope}");
            let unknown = Match::any().when(|request| {
                request.header("authorization").is_none() && request.kind != Kind::Token
            });
            place
                .fake
                .fault(unknown, says(401, CHALLENGE, &challenge, ""));
            place.pulls(scope).await;
            let asked = |seen: &Seen| {
                let query = seen.query.clone().unwrap_or_default();
                seen.kind == Kind::Token && query.contains("repository%3Ateam%2Fapp%3Apull")
            };
            assert!(place.fake.count(asked) > 0, "{:?}", place.fake.requests());
            place.end().await;
        }
    }
}

#[tokio::test]
async fn tokens_are_read_as_token_servers_write_them() {
    for form in [
        r#"{"token":"","access_token":"TOKEN"}"#,
        r#"{"token":"TOKEN","access_token":""}"#,
        r#"{"token":"TOKEN","expires_in":0}"#,
        r#"{"token":"TOKEN","expires_in":-1}"#,
        r#"{"access_token":"TOKEN","expires_in":"300"}"#,
    ] {
        for place in Place::each().await {
            let body = form.replace("TOKEN", &place.token().await);
            let gives = says(200, "Content-Type", "application/json", body);
            let right = place.who != Who::Nobody;
            let asked = Match::token()
                .when(move |request| request.header("authorization").is_some() == right);
            let armed = place.fake.fault(asked, gives);
            place.pulls(form).await;
            // A token whose `expires_in` is over is still used more than once.
            assert_eq!(armed.hits(), 1, "{form}");
            place.end().await;
        }
    }
}

/// To its own origin larder shows the credential, elsewhere it does not.
#[tokio::test]
async fn a_realm_may_redirect() {
    for (place, status) in Place::each().await.into_iter().zip([302, 307]) {
        let other = FakeRegistry::start().await;
        let scope = format!("service=fake-registry&scope=repository:{REPOSITORY}:pull");
        // To itself.
        let again = format!("{}/token?{scope}&again=1", place.fake.url());
        let first = |request: &larder_tests::fake::Request| {
            !request
                .query
                .as_deref()
                .unwrap_or_default()
                .contains("again")
        };
        let to = |url: &str| Fault::Redirect {
            to: Target::Url(url.to_owned()),
            status,
        };
        let armed = place.fake.fault(Match::token().when(first), to(&again));
        place.pulls("to itself").await;
        assert!(armed.hits() > 0);
        armed.lift();
        // Elsewhere, where the operator has allowed the host: larder shows it nothing.
        let config = format!(
            "[upstreams.\"{}\"]\nendpoints = [\"{}\"]\n[upstreams.\"{}\"]\nendpoints = [\"{}\"]\n",
            place.fake.host(),
            place.fake.url(),
            other.host(),
            other.url()
        );
        let scene = Private::start(Node::builder().config(config)).await;
        let token = place.token().await;
        let body = format!("{{\"token\":\"{token}\"}}");
        other.fault(
            Match::token(),
            says(200, "Content-Type", "application/json", body),
        );
        let elsewhere = format!("{}/token?{scope}", other.url());
        place.fake.fault(Match::token(), to(&elsewhere));
        let url = scene.manifest(&place.fake, REPOSITORY, "v1");
        assert_eq!(scene.get(&place.who, &url).await.status, 200);
        assert!(other.count(|seen| seen.kind == Kind::Token) > 0);
        assert_eq!(other.count(|seen| seen.authorization.is_some()), 0);
        scene.end(&[&place.fake, &other]).await;
        place.end().await;
    }
}

/// A form holds the secret.
#[tokio::test]
async fn a_post_to_a_realm_is_repeated_on_its_own_origin_alone() {
    use larder_tests::fake::IDENTITY_TOKEN;
    for status in [301, 302, 307, 308] {
        let (fake, other) = (FakeRegistry::start().await, FakeRegistry::start().await);
        let identity = secret();
        let image = build(&fake, REPOSITORY, "v1", &[LayerSpec::new(1, 1000)]);
        fake.require_bearer(REPOSITORY, &[(IDENTITY_TOKEN, &identity)]);
        let scene = Private::before(&[&fake, &other]).await;
        let pair = format!("<token>:{identity}");
        let who = Who::Sends(format!("Basic {}", BASE64.encode(pair.as_bytes())));
        let url = scene.manifest(&fake, REPOSITORY, "v1");
        let first = |request: &larder_tests::fake::Request| request.query.is_none();
        let to = |url: String| Fault::Redirect {
            to: Target::Url(url),
            status,
        };
        let away = fake.fault(Match::token(), to(format!("{}/token", other.url())));
        refused("elsewhere", &scene.get(&who, &url).await, &image.manifest);
        assert!(away.hits() > 0);
        assert_eq!(other.requests(), []);
        away.lift();
        let itself = format!("{}/token?again=1", fake.url());
        fake.fault(Match::token().when(first), to(itself));
        until(&format!("{status}: a token"), async || {
            scene.get(&who, &url).await.status == 200
        })
        .await;
        scene.end(&[&fake, &other]).await;
    }
}

/// A front as lscr.io is: it redirects to another registry, which wants a token that it gives to everybody.
struct Front {
    leads: FakeRegistry,
    behind: FakeRegistry,
    scene: Private,
    image: Image,
    /// The certificates by which larder trusts both.
    _dir: tempfile::TempDir,
}

impl Front {
    async fn new() -> Self {
        let (front, behind) = (
            FakeRegistry::start_tls().await,
            FakeRegistry::start_tls().await,
        );
        let image = build(&behind, REPOSITORY, "v1", &[LayerSpec::new(1, 1000)]);
        behind.allow_anonymous(REPOSITORY);
        let dir = tempfile::tempdir().expect("a directory");
        let tables = [&front, &behind].into_iter().enumerate();
        let tables = tables.map(|(number, fake)| {
            let ca = dir.path().join(format!("{number}.pem"));
            std::fs::write(&ca, fake.ca_pem()).expect("a file");
            format!(
                "[upstreams.\"{}\"]\nendpoints = [\"{}\"]\nca = \"{}\"\n",
                fake.host(),
                fake.url(),
                ca.display()
            )
        });
        let config: String = tables.collect();
        let layer = &image.layers[0].digest;
        for path in [
            "manifests/v1".to_owned(),
            format!("manifests/{}", image.manifest_digest),
            format!("blobs/{}", image.config_digest),
            format!("blobs/{layer}"),
        ] {
            let reference = path.rsplit('/').next().unwrap_or_default().to_owned();
            let to = Target::Url(format!("{}/v2/{REPOSITORY}/{path}", behind.url()));
            let redirect = Fault::Redirect { to, status: 307 };
            front.fault(Match::any().reference(&reference), redirect);
        }
        let scene = Private::start(Node::builder().config(config)).await;
        Self {
            leads: front,
            behind,
            scene,
            image,
            _dir: dir,
        }
    }

    fn paths(&self) -> Vec<String> {
        let layers = self.image.layers.iter().map(|layer| &layer.digest);
        let blobs = [&self.image.config_digest].into_iter().chain(layers);
        let mut paths = vec![
            "manifests/v1".to_owned(),
            format!("manifests/{}", self.image.manifest_digest),
        ];
        paths.extend(blobs.map(|digest| format!("blobs/{digest}")));
        paths
    }

    fn url(&self, path: &str) -> String {
        self.scene
            .path(&self.leads, &format!("{REPOSITORY}/{path}"))
    }

    /// Nothing that a caller has shown went to the registry behind the front, but for its anonymous tokens.
    async fn end(self) {
        let Self {
            leads: front,
            behind,
            scene,
            _dir,
            ..
        } = self;
        for seen in behind.requests() {
            let sent = seen.authorization.unwrap_or_default();
            assert!(seen.kind != Kind::Token || sent.is_empty(), "{sent}");
            assert!(!sent.starts_with("Basic"), "{sent}");
            assert!(seen.method != "POST");
        }
        scene.end(&[&front, &behind]).await;
    }
}

#[tokio::test]
async fn a_front_may_lead_to_a_registry_that_wants_a_token_of_everybody() {
    let front = Front::new().await;
    for who in [Who::Nobody, Who::Sends(Who::new("owner").basic())] {
        let head = front.scene.head(&who, &front.url("manifests/v1")).await;
        assert_eq!(head.status, 200, "{who:?}");
        for path in front.paths() {
            let answer = front.scene.get(&who, &front.url(&path)).await;
            assert_eq!(answer.status, 200, "{who:?} {path}: {}", answer.text());
        }
    }
    front.end().await;
}

#[tokio::test]
async fn what_is_private_behind_a_front_stays_so() {
    let front = Front::new().await;
    let owner = Who::new("owner");
    front.behind.require_bearer(REPOSITORY, &[owner.pair()]);
    for who in [Who::Nobody, Who::Sends(owner.basic())] {
        for path in front.paths() {
            let answer = front.scene.get(&who, &front.url(&path)).await;
            refused(&path, &answer, b"schemaVersion");
        }
    }
    front.end().await;
}

/// The conformance suite's `ping`, and clients without a login, send this.
#[tokio::test]
async fn an_empty_user_with_an_empty_password_is_nobody() {
    let place = Place::of(Who::Nobody).await;
    let url = place.scene.manifest(&place.fake, REPOSITORY, "v1");
    let empty = format!("Basic {}", BASE64.encode(b":"));
    let endpoint = format!("{}/token/{}", place.scene.node.url(), place.fake.host());
    let everywhere = format!("{}/token?service=larder", place.scene.node.url());
    let form = "grant_type=password&username=&password=&service=larder";
    let calls = [
        Call::get(&endpoint).header("authorization", &empty),
        Call::get(&everywhere).header("authorization", &empty),
        Call::new("POST", &endpoint).body(form),
        Call::new("POST", &everywhere).body(form),
        Call::new("POST", &endpoint).body("grant_type=refresh_token&refresh_token="),
    ];
    for call in calls {
        let what = format!("{call:?}");
        let token = place.scene.token_of(&place.scene.send(call).await);
        let sent = format!("Bearer {token}");
        let answer = place
            .scene
            .send(Call::get(&url).header("authorization", &sent));
        assert_eq!(answer.await.status, 200, "{what}");
    }
    let answer = place
        .scene
        .send(Call::get(&url).header("authorization", &empty));
    assert_eq!(answer.await.status, 200);
    assert_eq!(
        place
            .fake
            .count(|seen| seen.authorization.as_deref() == Some(&*empty)),
        0,
        "nobody is nobody at the registry, too"
    );
    place.end().await;
}
