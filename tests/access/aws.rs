//! AWS credentials (promise P18): each way to a role's keys, a check of every signature, the cost of an outage, and
//! what each known error tells the operator.

use larder_tests::clouds::{
    AwsSts, CloudServer, Ecr, EcrPassword, Imds, Mood, PodIdentity, Reply, Session, Trust,
    TrustedBy, token_of_pod,
};

use crate::clouds::{CloudPlace, REPOSITORY};
use crate::private::{Private, secret};

const NAME: &str = "123456789012.dkr.ecr.eu-central-1.amazonaws.com";
const REGION: &str = "eu-central-1";
const ROLE: &str = "arn:aws:iam::123456789012:role/larder";

/// The object store's keys. They are in the same environment, and must never be shown to a registry's cloud.
const FOREIGN: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "AKIAOFTHEOBJECTSTORE"),
    ("AWS_SECRET_ACCESS_KEY", "of the object store"),
    ("AWS_SESSION_TOKEN", "of-the-object-store"),
    ("AWS_REGION", "us-west-2"),
];

/// A registry of ECR, whose API takes what these keys sign.
struct Aws {
    place: CloudPlace,
    password: EcrPassword,
    session: Session,
    ecr: CloudServer,
}

impl Aws {
    async fn new() -> Self {
        let place = CloudPlace::new(NAME).await;
        let (password, session) = (EcrPassword::default(), Session::new(&secret()));
        let ecr = Ecr::start(&password, &session, REGION).await;
        let aws = Self {
            place,
            password,
            session,
            ecr,
        };
        aws.turn(12 * 3600);
        aws
    }

    /// A new password. From now on it alone opens the repository.
    fn turn(&self, seconds: u64) {
        let password = secret();
        self.password.set(&password, seconds);
        // ECR wants Basic, without a token server.
        self.place.fake.require_basic(REPOSITORY, "AWS", &password);
    }

    /// The configuration's credentials: this source, the API's address and these keys.
    fn said(&self, keys: &str) -> String {
        let api = self.ecr.url();
        format!("identity = \"aws\", api_endpoint = \"{api}\"{keys}")
    }

    /// The node pulls the image, and `larder upstreams --check` names the identity.
    async fn pulls(&self, scene: &Private, words: &[&str]) {
        self.place.opens(scene).await;
        let (code, said) = self.place.checked(scene).await;
        assert_eq!(code, Some(0), "{said}");
        for words in words {
            assert!(said.contains(words), "{words:?} is not in {said}");
        }
        assert_eq!(self.ecr.asked().len(), 1, "one token is good for hours");
    }
}

fn irsa(token: &str) -> Trust {
    Trust {
        role: ROLE.to_owned(),
        by: TrustedBy::Token(token.to_owned()),
    }
}

#[tokio::test]
async fn a_role_of_the_service_account_by_irsa() {
    let aws = Aws::new().await;
    let token = token_of_pod("sts.amazonaws.com", 86_400, &secret());
    let file = aws.place.write("token", &token);
    let sts = AwsSts::start(irsa(&token), &aws.session).await;
    let endpoint = format!(", token_endpoint = \"{}\"", sts.url());
    // The role comes from the webhook's variables here, and from the configuration below.
    let webhook = [
        ("AWS_ROLE_ARN", ROLE),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", &*file),
    ];
    let webhook = [&webhook[..], &FOREIGN[..]].concat();
    let scene = aws.place.node(&aws.said(&endpoint), &webhook).await;
    let by =
        format!("the aws identity {ROLE} by the token {file}, exchanged at the STS, good for 1");
    aws.pulls(&scene, &[&by, "accepted"]).await;
    aws.place.end(scene, &[&sts, &aws.ecr]).await;

    let aws = Aws::new().await;
    let file = aws.place.write("token", &token);
    let sts = AwsSts::start(irsa(&token), &aws.session).await;
    let said = format!(
        ", token_file = \"{file}\", role = \"{ROLE}\", token_endpoint = \"{}\"",
        sts.url()
    );
    let scene = aws.place.node(&aws.said(&said), &FOREIGN).await;
    aws.pulls(&scene, &[ROLE]).await;
    aws.place.end(scene, &[&sts, &aws.ecr]).await;
}

#[tokio::test]
async fn a_role_of_the_service_account_by_eks_pod_identity() {
    let aws = Aws::new().await;
    let token = format!("eks.{}", secret());
    let file = aws.place.write("token", &token);
    let agent = PodIdentity::start(&aws.session, &token).await;
    let url = format!("{}{}", agent.url(), PodIdentity::PATH);
    let webhook = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*url),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &file),
    ];
    let webhook = [&webhook[..], &FOREIGN[..]].concat();
    let scene = aws.place.node(&aws.said(""), &webhook).await;
    aws.pulls(
        &scene,
        &["of account 123456789012 by EKS Pod Identity's agent"],
    )
    .await;
    assert_eq!(agent.asked().len(), 1);
    aws.place.end(scene, &[&agent, &aws.ecr]).await;
}

#[tokio::test]
async fn the_nodes_own_role() {
    let aws = Aws::new().await;
    let imds = Imds::start(&aws.session, "eks-node").await;
    let said = format!(", metadata_endpoint = \"{}\"", imds.url());
    let scene = aws.place.node(&aws.said(&said), &FOREIGN).await;
    aws.pulls(
        &scene,
        &["the aws identity eks-node by the metadata server"],
    )
    .await;
    aws.place.end(scene, &[&imds, &aws.ecr]).await;
}

/// Keys in a file, and a role of another account that they assume.
#[tokio::test]
async fn static_keys_and_the_role_that_they_take_on() {
    let aws = Aws::new().await;
    let own = aws.session.keys();
    let session = own.session.unwrap_or_default();
    let text = format!(
        "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\naws_session_token = {session}\n",
        own.id, own.secret
    );
    let file = aws.place.write("credentials", &text);
    let scene = aws
        .place
        .node(&aws.said(&format!(", key_file = \"{file}\"")), &FOREIGN)
        .await;
    aws.pulls(&scene, &[&format!("the aws identity by the keys {file}")])
        .await;
    aws.place.end(scene, &[&aws.ecr]).await;

    let aws = Aws::new().await;
    let own = Session::of_file(&secret());
    let keys = own.keys();
    let text = format!(
        "aws_access_key_id={}\naws_secret_access_key={}\n",
        keys.id, keys.secret
    );
    let file = aws.place.write("credentials", &text);
    let trust = Trust {
        role: ROLE.to_owned(),
        by: TrustedBy::Keys(own, REGION.to_owned()),
    };
    let sts = AwsSts::start(trust, &aws.session).await;
    let said = format!(
        ", key_file = \"{file}\", role = \"{ROLE}\", token_endpoint = \"{}\"",
        sts.url()
    );
    let scene = aws.place.node(&aws.said(&said), &FOREIGN).await;
    let by = format!("{ROLE} by the keys {file}, which takes on {ROLE}");
    aws.pulls(&scene, &[&by]).await;
    aws.place.end(scene, &[&sts, &aws.ecr]).await;
}

/// ECR Public has its own API, in one region, and its password is for a token server.
#[tokio::test]
async fn the_public_registry_has_an_api_of_its_own() {
    let place = CloudPlace::new("public.ecr.aws").await;
    let (password, session) = (EcrPassword::default(), Session::new(&secret()));
    let ecr = Ecr::start_public(&password, &session).await;
    let text = secret();
    password.set(&text, 3600);
    place.fake.require_bearer(REPOSITORY, &[("AWS", &text)]);
    let imds = Imds::start(&session, "node").await;
    let said = format!(
        "identity = \"aws\", api_endpoint = \"{}\", metadata_endpoint = \"{}\"",
        ecr.url(),
        imds.url()
    );
    let scene = place.node(&said, &[]).await;
    place.opens(&scene).await;
    place.end(scene, &[&imds, &ecr]).await;
}

/// As with every cloud: the right outlives the password, and larder uses the next password when the API is back.
#[tokio::test]
async fn a_right_outlives_the_password_by_which_it_was_proven() {
    let aws = Aws::new().await;
    aws.turn(3);
    let imds = Imds::start(&aws.session, "node").await;
    let said = format!(", metadata_endpoint = \"{}\"", imds.url());
    let scene = aws.place.node(&aws.said(&said), &[]).await;
    aws.place.opens(&scene).await;
    aws.ecr.stop().await;
    aws.place.until_said(&scene, "without a token now").await;
    aws.place.until_said(&scene, "the API of ECR").await;
    aws.place.opens(&scene).await;
    let warning = aws.place.manifest(&scene).await;
    let warning = warning.header("warning").expect("a warning");
    assert!(warning.contains("credentials"), "{warning}");
    aws.turn(3600);
    aws.ecr.start_again().await;
    aws.place.until_said(&scene, "good for 59 min").await;
    let another = aws.place.another();
    assert_eq!(aws.place.blob(&scene, &another).await.status, 200);
    aws.place.end(scene, &[&imds, &aws.ecr]).await;
}

/// Each server's refusals, and what larder tells the operator about them.
#[tokio::test]
async fn what_aws_refuses_is_said_with_its_fix() {
    let aws = Aws::new().await;
    let imds = Imds::start(&aws.session, "node").await;
    let said = format!(", metadata_endpoint = \"{}\"", imds.url());
    let text = |status, body: &str| Mood::Says(Reply::new(status, "text/plain", body));
    let api = |status, kind: &str| Mood::Says(Ecr::error(status, kind));
    let scene = {
        imds.mood(Mood::Silent);
        aws.place.node(&aws.said(&said), &[]).await
    };
    let hops =
        "no answer within 3s: an ordinary pod does not reach it where the node's hop limit is 1";
    aws.place
        .refuses(&scene, &["the aws identity by the metadata server", hops])
        .await;
    for (mood, words) in [
        (text(403, ""), "is switched off for this node (403)"),
        (text(500, ""), "answered 500"),
        (text(401, ""), "answered 401"),
    ] {
        imds.mood(mood);
        aws.place.refuses(&scene, &[words]).await;
    }
    imds.mood(Mood::Well);
    for (mood, words) in [
        (
            api(400, "AccessDeniedException"),
            "(400 AccessDeniedException): the role's policy must allow ecr:GetAuthorizationToken",
        ),
        (api(400, "ExpiredTokenException"), "the keys have expired"),
        (
            api(400, "InvalidSignatureException"),
            "the secret key is wrong, or this node's clock is",
        ),
        (api(503, "ServerException"), "answered 503"),
        (text(200, "<html>"), "its answer is no token"),
    ] {
        aws.ecr.mood(mood);
        aws.place.refuses(&scene, &["the API of ECR", words]).await;
    }
    // ECR's API throttles with 400, and larder respects that.
    aws.ecr.mood(api(400, "ThrottlingException"));
    aws.place
        .refuses(&scene, &["limits requests (ThrottlingException)"])
        .await;
    let asked = aws.ecr.asked().len();
    aws.place
        .refuses(&scene, &["limits requests (ThrottlingException)"])
        .await;
    assert_eq!(aws.ecr.asked().len(), asked);
    aws.ecr.mood(Mood::Well);
    aws.place.refuses_no_more(&scene).await;
    aws.place.opens(&scene).await;
    // The registry accepts the password, but the repository's policy refuses it.
    aws.place
        .fake
        .require_basic(REPOSITORY, "AWS", "another account's");
    aws.place
        .refuses(&scene, &["refuses them", "ecr:BatchGetImage"])
        .await;
    aws.place.end(scene, &[&imds, &aws.ecr]).await;
}

/// A node without a role; unknown keys; a token without a role, for another role, or of another cluster; a Pod Identity
/// agent that has no association; a server that is no such agent.
#[tokio::test]
async fn a_wrong_role_or_token_is_said_with_its_fix() {
    let aws = Aws::new().await;
    let imds = Imds::start(&aws.session, "").await;
    let token = token_of_pod("sts.amazonaws.com", 3600, &secret());
    let other = token_of_pod("elsewhere", 3600, &secret());
    let [file, wrong] =
        [("token", &token), ("wrong", &other)].map(|(name, text)| aws.place.write(name, text));
    let key = aws.place.write(
        "key",
        "[default]\naws_access_key_id=A\naws_secret_access_key=S\n",
    );
    let half = aws.place.write("half", "[default]\naws_access_key_id=A\n");
    let sts = AwsSts::start(irsa(&token), &aws.session).await;
    let by_token = |file: &str, role: &str| {
        let url = sts.url();
        format!(", token_endpoint = \"{url}\", token_file = \"{file}\"{role}")
    };
    let role = |arn: &str| format!(", role = \"{arn}\"");
    for (said, words) in [
        (
            format!(", metadata_endpoint = \"{}\"", imds.url()),
            "knows no role of this node: attach an instance profile",
        ),
        (
            format!(", key_file = \"{key}\""),
            "(400 UnrecognizedClientException): there is no such key",
        ),
        (
            format!(", key_file = \"{half}\""),
            "write it as `aws configure` does",
        ),
        (by_token(&file, ""), "is a token without a role"),
        (
            by_token(&file, &role("arn:aws:iam::1:role/x")),
            "(403 AccessDenied): the role's trust policy",
        ),
        (
            by_token(&wrong, &role(ROLE)),
            "(400 InvalidIdentityToken): the cluster's OIDC provider",
        ),
    ] {
        let scene = aws.place.node(&aws.said(&said), &FOREIGN).await;
        aws.place.refuses(&scene, &[words]).await;
        aws.place.end(scene, &[&sts, &imds]).await;
    }
    sts.mood(Mood::Says(AwsSts::error(400, "Throttling")));
    let scene = aws
        .place
        .node(&aws.said(&by_token(&file, &role(ROLE))), &FOREIGN)
        .await;
    aws.place
        .refuses(&scene, &["the STS", "limits requests (Throttling)"])
        .await;
    aws.place.end(scene, &[&sts]).await;

    let agent = PodIdentity::start(&aws.session, &token).await;
    let url = format!("{}{}", agent.url(), PodIdentity::PATH);
    for (url, mood, words) in [
        (
            &url,
            Mood::Says(PodIdentity::error(404, "ResourceNotFoundException")),
            "create-pod-identity-association",
        ),
        (
            &url,
            Mood::Says(PodIdentity::error(403, "AccessDeniedException")),
            "must trust pods.eks.amazonaws.com",
        ),
        (
            &url,
            Mood::Says(Reply::new(429, "text/plain", "")),
            "limits requests (429)",
        ),
        (
            &"http://203.0.113.1/v1/credentials".to_owned(),
            Mood::Well,
            "names no agent of this node",
        ),
    ] {
        agent.mood(mood);
        let webhook = [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &**url),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &*file),
        ];
        let scene = aws.place.node(&aws.said(""), &webhook).await;
        aws.place
            .refuses(&scene, &["EKS Pod Identity's agent", words])
            .await;
        aws.place.end(scene, &[&agent]).await;
    }
}

/// The keys sign for ECR alone: a registry outside AWS gets no credential, and larder asks AWS nothing for it.
#[tokio::test]
async fn a_registry_that_is_none_of_awss_gets_no_token() {
    let aws = Aws::new().await;
    let imds = Imds::start(&aws.session, "node").await;
    let place = CloudPlace::new("registry.example").await;
    let said = format!(", metadata_endpoint = \"{}\"", imds.url());
    let scene = place.node(&aws.said(&said), &[]).await;
    place
        .refuses(&scene, &["registry.example", "is no registry of AWS"])
        .await;
    assert!(imds.asked().is_empty() && aws.ecr.asked().is_empty());
    place.end(scene, &[&imds, &aws.ecr]).await;
}
