//! The usual authentication flows of the large registries, each against a fake that checks larder's requests (promises
//! P17, P18).

use larder_tests::fake::{FakeRegistry, Fault, Kind, Match, Request, Seen};
use larder_tests::image::OCI_MANIFEST;
use larder_tests::node::Node;

use crate::private::{Private, Who, basic, confidential, secret};

/// The authentication flow of a registry. `@` stands for its address.
struct Flow {
    name: &'static str,
    repository: &'static str,
    user: &'static str,
    /// `WWW-Authenticate`
    challenge: &'static str,
    /// The token endpoint; empty with Basic.
    realm: &'static str,
    /// The query that the token request must have.
    query: &'static str,
    /// The token endpoint's answer; `%` stands for the token.
    answer: &'static str,
}

const FLOWS: [Flow; 9] = [
    Flow {
        name: "Docker Hub",
        repository: "library/app",
        user: "someone",
        challenge: "Bearer realm=\"@/token/hub\",service=\"registry.docker.io\",scope=\"repository:library/app:pull\"",
        realm: "/token/hub",
        query: "service=registry.docker.io&scope=repository%3Alibrary%2Fapp%3Apull",
        answer: "{\"token\":\"%\",\"access_token\":\"%\",\"expires_in\":300,\"issued_at\":\"2026-01-01T00:00:00Z\"}",
    },
    Flow {
        name: "GHCR",
        repository: "user/app",
        user: "user",
        challenge: "Bearer realm=\"@/token/ghcr\",service=\"ghcr.io\",scope=\"repository:user/app:pull\"",
        realm: "/token/ghcr",
        query: "service=ghcr.io&scope=repository%3Auser%2Fapp%3Apull",
        answer: "{\"token\":\"%\"}",
    },
    Flow {
        name: "Quay",
        repository: "org/app",
        user: "org+robot",
        challenge: "Bearer realm=\"@/v2/auth\",service=\"quay.io\",scope=\"repository:org/app:pull\"",
        realm: "/v2/auth",
        query: "service=quay.io&scope=repository%3Aorg%2Fapp%3Apull",
        answer: "{\"token\":\"%\"}",
    },
    Flow {
        name: "Harbor",
        repository: "project/app",
        user: "robot$project+reader",
        challenge: "Bearer realm=\"@/service/token\",service=\"harbor-registry\",scope=\"repository:project/app:pull\"",
        realm: "/service/token",
        query: "service=harbor-registry&scope=repository%3Aproject%2Fapp%3Apull",
        answer: "{\"token\":\"%\",\"access_token\":\"\",\"expires_in\":1800,\"issued_at\":\"2026-01-01T00:00:00Z\"}",
    },
    Flow {
        name: "GitLab",
        repository: "group/project/app",
        user: "gitlab+deploy-token-1",
        challenge: "Bearer realm=\"@/jwt/auth\",service=\"container_registry\",scope=\"repository:group/project/app:pull\",error=\"invalid_token\"",
        realm: "/jwt/auth",
        query: "service=container_registry&scope=repository%3Agroup%2Fproject%2Fapp%3Apull",
        answer: "{\"token\":\"%\"}",
    },
    Flow {
        name: "GAR with a key",
        repository: "project/images/app",
        user: "_json_key",
        challenge: "Bearer realm=\"@/v2/token\",service=\"europe-docker.pkg.dev\",scope=\"repository:project/images/app:pull\"",
        realm: "/v2/token",
        query: "service=europe-docker.pkg.dev&scope=repository%3Aproject%2Fimages%2Fapp%3Apull",
        answer: "{\"expires_in\":3600,\"token\":\"%\"}",
    },
    Flow {
        name: "GAR with an access token",
        repository: "project/images/app",
        user: "oauth2accesstoken",
        challenge: "Bearer realm=\"@/v2/token\",service=\"europe-docker.pkg.dev\",scope=\"repository:project/images/app:pull\"",
        realm: "/v2/token",
        query: "service=europe-docker.pkg.dev&scope=repository%3Aproject%2Fimages%2Fapp%3Apull",
        answer: "{\"expires_in\":3600,\"token\":\"%\"}",
    },
    Flow {
        name: "ECR",
        repository: "app",
        user: "AWS",
        challenge: "Basic realm=\"https://123456789012.dkr.ecr.eu-west-1.amazonaws.com/\",service=\"ecr.amazonaws.com\"",
        realm: "",
        query: "",
        answer: "",
    },
    Flow {
        name: "public ECR",
        repository: "alias/app",
        user: "AWS",
        challenge: "Bearer realm=\"@/token/\",service=\"public.ecr.aws\",scope=\"aws\"",
        realm: "/token/",
        query: "service=public.ecr.aws&scope=aws",
        answer: "{\"token\":\"%\"}",
    },
];

fn status(code: u16, headers: &[(&str, &str)], body: &str) -> Fault {
    let header = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Fault::Status {
        code,
        headers: headers.iter().map(header).collect(),
        body: body.to_owned().into(),
    }
}

/// A registry with this flow, a secret that opens it, the `Authorization` that content needs, and the secret as HTTP
/// Basic.
struct Registry {
    fake: FakeRegistry,
    secret: String,
    shown: String,
    content: bytes::Bytes,
    digest: String,
}

impl Registry {
    async fn new(flow: &Flow) -> Self {
        let fake = FakeRegistry::start().await;
        let content = confidential(flow.name);
        let digest = fake.put_blob(flow.repository, content.clone());
        fake.put_manifest(flow.repository, Some("v1"), OCI_MANIFEST, content.clone());
        let secret = match flow.user {
            "_json_key" => format!("{{\n \"private_key\": \"{}\"\n}}", secret().repeat(62)),
            _ => secret(),
        };
        let (basic, token) = (basic(flow.user, &secret), crate::private::secret());
        let shown = if flow.realm.is_empty() {
            basic.clone()
        } else {
            format!("Bearer {token}")
        };
        let realm = flow.realm;
        let at_realm = move |request: &Request| !realm.is_empty() && request.path == realm;
        let proper = basic.clone();
        let known = move |request: &Request| {
            at_realm(request) && request.header("authorization") == Some(&*proper)
        };
        let json = [("Content-Type", "application/json")];
        fake.fault(
            Match::any().when(known),
            status(200, &json, &flow.answer.replace('%', &token)),
        );
        fake.fault(
            Match::any().when(at_realm),
            status(
                401,
                &json,
                "{\"details\":\"incorrect username or password\"}",
            ),
        );
        if flow.name == "public ECR" {
            fake.fault(Match::blob().method("HEAD"), status(401, &[], ""));
        }
        let challenge = flow.challenge.replace('@', &fake.url());
        let bare = |request: &Request| request.header("authorization").is_none();
        fake.fault(
            Match::any().when(bare),
            status(401, &[("WWW-Authenticate", &challenge)], ""),
        );
        let proper = shown.clone();
        let other = move |request: &Request| request.header("authorization") != Some(&*proper);
        fake.fault(
            Match::any().when(other),
            status(403, &[], "{\"errors\":[{\"code\":\"DENIED\"}]}"),
        );
        Self {
            fake,
            secret,
            shown,
            content,
            digest,
        }
    }

    /// Pulls all the content, and gives the requests that this caused.
    async fn pulled(&self, flow: &Flow, scene: &Private, who: &Who) -> Vec<Seen> {
        self.fake.reset_counts();
        let manifest = scene.manifest(&self.fake, flow.repository, "v1");
        let blob = scene.blob(&self.fake, flow.repository, &self.digest);
        let length = self.content.len().to_string();
        let head = scene.head(who, &blob).await;
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some(&*length)),
            "{}",
            flow.name
        );
        for url in [manifest, blob] {
            let answer = scene.get(who, &url).await;
            assert_eq!(
                (answer.status, &answer.body),
                (200, &self.content),
                "{}: {}",
                flow.name,
                answer.text()
            );
        }
        self.fake.requests()
    }
}

/// Every request with the secret has the form that the registry documents.
fn check(flow: &Flow, registry: &Registry, asked: &[Seen]) {
    let name = flow.name;
    let basic = basic(flow.user, &registry.secret);
    let with_basic: Vec<&Seen> = asked
        .iter()
        .filter(|seen| seen.authorization.as_deref() == Some(&*basic))
        .collect();
    for seen in asked {
        assert!(
            seen.headers
                .iter()
                .any(|(name, value)| name == "user-agent" && value.starts_with("larder/"))
        );
        assert!(
            !seen.path.contains(&registry.secret)
                && !seen
                    .query
                    .as_deref()
                    .unwrap_or_default()
                    .contains(&registry.secret)
        );
    }
    if flow.realm.is_empty() {
        assert!(
            with_basic
                .iter()
                .all(|seen| matches!(seen.kind, Kind::Manifest | Kind::Blob)),
            "{name}"
        );
    } else {
        let [token] = &with_basic[..] else {
            panic!("{name}: {} requests with the secret", with_basic.len());
        };
        assert_eq!(
            (&*token.method, &*token.path, token.query.as_deref()),
            ("GET", flow.realm, Some(flow.query)),
            "{name}"
        );
    }
    let content: Vec<_> = asked
        .iter()
        .filter(|seen| {
            matches!(seen.kind, Kind::Manifest | Kind::Blob) && matches!(seen.status, 200 | 206)
        })
        .collect();
    assert!(content.len() >= 2, "{name}: {asked:?}");
    assert!(
        content
            .iter()
            .all(|seen| seen.authorization.as_deref() == Some(&*registry.shown)),
        "{name}"
    );
}

#[tokio::test]
async fn a_pods_secret_is_shown_as_the_registry_has_it() {
    for flow in &FLOWS {
        let registry = Registry::new(flow).await;
        let scene = Private::before(&[&registry.fake]).await;
        let who = Who::User(flow.user.to_owned(), registry.secret.clone());
        let asked = registry.pulled(flow, &scene, &who).await;
        check(flow, &registry, &asked);
        // Another secret opens nothing.
        let stranger = Who::new(flow.user);
        let url = scene.blob(&registry.fake, flow.repository, &registry.digest);
        let answer = scene.get(&stranger, &url).await;
        crate::private::refused(flow.name, &answer, &registry.content);
        scene.end(&[&registry.fake]).await;
    }
}

#[tokio::test]
async fn the_nodes_secret_is_shown_as_the_registry_has_it() {
    for flow in &FLOWS {
        let registry = Registry::new(flow).await;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config.json");
        let config = serde_json::json!({"auths": {registry.fake.host(): {"username": flow.user, "password": registry.secret}}});
        std::fs::write(&path, config.to_string()).expect("a file");
        let config = format!(
            "[upstreams.\"{}\"]\nendpoints = [\"{}\"]\naccess = \"shared\"\ncredentials = {{ docker_config = \"{}\" }}\n",
            registry.fake.host(),
            registry.fake.url(),
            path.display()
        );
        let scene = Private::start(Node::builder().config(config)).await;
        let asked = registry.pulled(flow, &scene, &Who::Nobody).await;
        check(flow, &registry, &asked);
        scene.end(&[&registry.fake]).await;
    }
}

/// ACR, and other registries that give identity tokens: a refresh token in a form, never in HTTP Basic.
#[tokio::test]
async fn an_identity_token_is_posted() {
    let fake = FakeRegistry::start().await;
    let content = confidential("acr");
    let digest = fake.put_blob("app", content.clone());
    let identity = secret();
    fake.require_bearer("app", &[(larder_tests::fake::IDENTITY_TOKEN, &identity)]);
    let scene = Private::before(&[&fake]).await;
    let who = Who::User("<token>".to_owned(), identity.clone());
    let url = scene.blob(&fake, "app", &digest);
    assert_eq!(scene.get(&who, &url).await.body, content);
    let shown = basic("<token>", &identity);
    let tokens: Vec<_> = fake
        .requests()
        .into_iter()
        .filter(|seen| seen.kind == Kind::Token && seen.method == "POST")
        .collect();
    let [token] = &tokens[..] else {
        panic!("{tokens:?}");
    };
    assert_eq!(
        (&*token.method, &token.query, &token.authorization),
        ("POST", &None, &None)
    );
    let form = (
        "content-type".to_owned(),
        "application/x-www-form-urlencoded".to_owned(),
    );
    assert!(token.headers.contains(&form));
    assert_eq!(
        fake.count(|seen| seen.authorization.as_deref() == Some(&*shown)),
        0
    );
    scene.end(&[&fake]).await;
}
