//! How a repository's tags are listed (promise P31): every way to list chooses the same images, what a list costs its
//! registry, and what stays while a registry gives no list.

use anyhow::Result;
use larder_tests::clouds::{
    CloudServer, Ecr, EcrPassword, Gar, GoogleTokens, Images, Metadata, Pushed, Session,
};
use larder_tests::fake::{Armed, Fault, Match, digest_of};
use larder_tests::image::{build, oci_layout};
use larder_tests::real::DockerRegistry;

use super::*;

const GAR: &str = "us-central1-docker.pkg.dev";
const ECR: &str = "123456789012.dkr.ecr.eu-central-1.amazonaws.com";
const ACR: &str = "team.azurecr.io";
const PARENT: &str = "projects/p/locations/us-central1/repositories/r";
/// A repository's name whose last part is the image's name in a Google repository.
const REPOSITORY: &str = "p/r/lab";

/// The tags of the images that the policy must choose of [`repository`].
const CHOSEN: [&str; 4] = ["w_2026_10", "w_2026_11", "r29_0_10", "w_2026_9"];

const POLICY: &str = r#"tags = ["recommended"]
newest = [{ match = "w_#_#", count = 3 }, { match = "r#_#_#", count = 1 }]
skip = ["*-arm64"]
"#;

/// A registry with the images, and the list that its cloud would give of them.
struct Place {
    fake: FakeRegistry,
    images: Images,
    digests: Vec<(String, String)>,
}

impl Place {
    async fn new() -> Self {
        let fake = FakeRegistry::start().await;
        let (mut digests, mut pushed) = (Vec::new(), Vec::new());
        let tags = [
            "d_2026_11_28",
            "r28_0_0",
            "r29_0_10",
            "r29_0_9",
            "w_2026_10",
            "w_2026_11",
            "w_2026_12-arm64",
            "w_2026_8",
            "w_2026_9",
        ];
        for (seed, tag) in (1..).zip(tags) {
            let image = build(&fake, REPOSITORY, tag, &[LayerSpec::new(seed, 1000)]);
            let mut tags = vec![tag.to_owned()];
            if tag == "w_2026_10" {
                tags.push("recommended".to_owned());
                fake.retag(REPOSITORY, "recommended", &image.manifest_digest);
            }
            // Another tag of the same image does not count again.
            if tag == "w_2026_11" {
                tags.push("w_2026_11_rsp3".to_owned());
                fake.retag(REPOSITORY, "w_2026_11_rsp3", &image.manifest_digest);
            }
            pushed.push(Pushed {
                image: "lab".to_owned(),
                digest: image.manifest_digest.clone(),
                tags,
                size: 1000,
                at: 1_700_000_000 + seed,
            });
            digests.push((tag.to_owned(), image.manifest_digest));
        }
        // The cloud's repository also has other images, and content without a tag.
        pushed.push(Pushed {
            image: "lab2".to_owned(),
            digest: digest_of(b"other"),
            tags: vec!["w_2099_1".to_owned()],
            size: 1,
            at: 1_800_000_000,
        });
        pushed.push(Pushed {
            image: "lab".to_owned(),
            digest: digest_of(b"untagged"),
            tags: Vec::new(),
            size: 1,
            at: 1_800_000_000,
        });
        let images = Images::default();
        images.set(pushed);
        Self {
            fake,
            images,
            digests,
        }
    }

    /// Images of this name only, as ECR and Azure list them.
    fn own(&self) -> Images {
        let images = Images::default();
        let own = self.images.get().into_iter();
        images.set(own.filter(|one| one.image == "lab").collect());
        images
    }

    fn chosen(&self) -> Vec<String> {
        let digest = |tag: &&str| {
            let found = self.digests.iter().find(|(of, _)| of == tag);
            found.expect("an image of that tag").1.clone()
        };
        let mut chosen: Vec<_> = CHOSEN.iter().map(digest).collect();
        chosen.sort();
        chosen
    }

    fn answers_tags(&self, body: String) -> Armed {
        self.fake.fault(Match::tags(), says(200, body))
    }

    /// A node whose set lists this repository by this API.
    async fn node(&self, registry: &str, list: &str, upstream: &str) -> Node {
        let url = self.fake.url();
        let config = format!(
            "[upstreams.\"{registry}\"]\nendpoints = [\"{url}\"]\n{upstream}\n[warm]\nrefresh = \"1s\"\n[[warm.sets.labs.from]]\nrepository = \"{registry}/{REPOSITORY}\"\nlist = \"{list}\"\n{POLICY}"
        );
        Node::builder().config(config).start().await
    }

    fn manifests(&self, method: &str) -> usize {
        self.fake
            .count(|seen| seen.method == method && seen.path.contains("/manifests/"))
    }
}

fn says(code: u16, body: impl Into<Bytes>) -> Fault {
    Fault::Status {
        code,
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: body.into(),
    }
}

fn hashes(set: &Value, key: &str) -> Vec<String> {
    let images = list(set, key).iter();
    let mut hashes: Vec<_> = images
        .map(|image| image["image_hash"].as_str().unwrap_or_default().to_owned())
        .collect();
    hashes.sort();
    hashes
}

/// Waits until every chosen image is here.
async fn until_here(node: &Node, place: &Place) -> Value {
    let chosen = place.chosen();
    until(node, "the set is here", |set| {
        hashes(set, "available_images") == chosen && hashes(set, "images_to_cache").is_empty()
    })
    .await
}

pub(super) async fn lists(node: &Node, outcome: &str) -> f64 {
    let sample = format!("larder_warm_lists_total{{outcome=\"{outcome}\"}}");
    node.metric(&sample).await.unwrap_or(0.0)
}

/// Waits for two more refreshes that fetch nothing new.
async fn rounds(node: &Node) {
    let before = lists(node, "unchanged").await;
    let deadline = Instant::now() + PATIENCE;
    while lists(node, "unchanged").await < before + 2.0 {
        assert!(Instant::now() < deadline, "no refresh: {}", node.log());
        tokio::time::sleep(GLANCE).await;
    }
}

/// The set is chosen and fetched without a HEAD, and further rounds ask for no manifest.
async fn chooses(node: &Node, place: &Place, servers: &[&CloudServer]) {
    until_here(node, place).await;
    assert_eq!(place.manifests("HEAD"), 0, "the list has the digests");
    let before = place.manifests("GET");
    rounds(node).await;
    assert_eq!(
        place.manifests("GET"),
        before,
        "an unchanged round asks for none"
    );
    assert_eq!(place.manifests("HEAD"), 0);
    for server in servers {
        server.assert_exact();
    }
}

#[tokio::test]
async fn artifact_registrys_api_chooses_the_same_images() {
    let place = Place::new().await;
    let tokens = GoogleTokens::default();
    tokens.set("ya29.of-the-node", 3599);
    let scopes = "https://www.googleapis.com/auth/cloud-platform\n";
    let metadata = Metadata::start(&tokens, "larder@p.iam.gserviceaccount.com", scopes).await;
    let api = Gar::start(&tokens, PARENT, &place.images, 4).await;
    let google = format!(
        "access = \"shared\"\ncredentials = {{ identity = \"google\", metadata_endpoint = \"{}\", api_endpoint = \"{}\" }}",
        metadata.url(),
        api.url()
    );
    let node = place.node(GAR, "gar", &google).await;
    chooses(&node, &place, &[&metadata, &api]).await;
    assert_eq!(
        place.fake.count(|seen| seen.path.ends_with("/tags/list")),
        0
    );
    assert_no_secret(&node, "ya29.of-the-node").await;
}

#[tokio::test]
async fn what_google_adds_to_the_list_chooses_the_same_images_by_one_request() {
    let place = Place::new().await;
    let _armed = place.answers_tags(place.images.google_tags(REPOSITORY, "lab"));
    let node = place.node(GAR, "auto", "").await;
    until_here(&node, &place).await;
    let listed = place.fake.count(|seen| seen.path.ends_with("/tags/list"));
    let refreshes = lists(&node, "listed").await + lists(&node, "unchanged").await;
    // One list may be under way.
    assert!(
        (0..=1).contains(&(listed - refreshes as usize)),
        "{listed} for {refreshes}"
    );
    chooses(&node, &place, &[]).await;
}

#[tokio::test]
async fn ecrs_api_chooses_the_same_images() {
    let place = Place::new().await;
    let dir = tempfile::tempdir().expect("a directory");
    let keys = dir.path().join("keys");
    let secret = "wJalrXUtnFEMI/K7MDENG";
    let session = Session::of_file(secret);
    let text = format!(
        "[default]\naws_access_key_id = {}\naws_secret_access_key = {secret}\n",
        session.keys().id
    );
    std::fs::write(&keys, text).expect("a file");
    let password = EcrPassword::default();
    password.set("of-ecr", 12 * 3600);
    let own = place.own();
    let region = "eu-central-1";
    let api = Ecr::start_listing(&password, &session, region, REPOSITORY, &own, 2).await;
    let aws = format!(
        "access = \"shared\"\ncredentials = {{ identity = \"aws\", key_file = \"{}\", api_endpoint = \"{}\" }}",
        keys.display(),
        api.url()
    );
    let node = place.node(ECR, "ecr", &aws).await;
    chooses(&node, &place, &[&api]).await;
    assert_no_secret(&node, secret).await;
}

#[tokio::test]
async fn azures_list_chooses_the_same_images() {
    let place = Place::new().await;
    let path = format!("/acr/v1/{REPOSITORY}/_tags");
    let body = place.own().acr_tags(ACR, REPOSITORY);
    let wanted = Match::any().when(move |request| request.path == path);
    let _armed = place.fake.fault(wanted, says(200, body));
    let node = place.node(ACR, "acr", "").await;
    chooses(&node, &place, &[]).await;
}

/// A list without digests costs a HEAD for each chosen image, and no other request.
#[tokio::test]
async fn a_plain_list_chooses_the_same_images() {
    let place = Place::new().await;
    let node = place.node("plain.test", "auto", "").await;
    until_here(&node, &place).await;
    let before = place.manifests("GET");
    rounds(&node).await;
    assert_eq!(
        place.manifests("GET"),
        before,
        "an unchanged round asks for none"
    );
    for tag in [
        "w_2026_8",
        "r28_0_0",
        "r29_0_9",
        "d_2026_11_28",
        "w_2026_12-arm64",
    ] {
        let asked = place
            .fake
            .count(|seen| seen.path.ends_with(&format!("/manifests/{tag}")));
        assert_eq!(asked, 0, "{tag} is not chosen");
    }
}

/// A right to pull is no right to list: images with named tags come, and the message says which others are missing.
#[tokio::test]
async fn named_tags_come_where_the_list_is_refused() {
    let place = Place::new().await;
    let body = r#"{"errors":[{"code":"DENIED","message":"a text that may hold anything"}]}"#;
    let _armed = place.fake.fault(Match::tags(), says(403, body));
    let node = place.node("plain.test", "auto", "").await;
    let recommended = &place.digests[4].1;
    let seen = until(&node, "the recommended image is here", |set| {
        hashes(set, "available_images") == [recommended.clone()]
    })
    .await;
    let error = seen["error"].as_str().unwrap_or_default();
    assert!(error.contains("does not let this node list"), "{seen:#}");
    assert!(
        error.contains("`tags`") && !error.contains("may hold anything"),
        "{error}"
    );
}

/// A registry that is emptied, limits requests or goes down leaves the set as it was, and the status says so.
#[tokio::test]
async fn a_registry_in_trouble_leaves_the_set() {
    let place = Place::new().await;
    let node = place.node("plain.test", "auto", "").await;
    let before = until_here(&node, &place).await;
    assert!(before["error"].is_null(), "{before:#}");
    let limited = Fault::Status {
        code: 429,
        headers: vec![("retry-after".to_owned(), "3000".to_owned())],
        body: Bytes::new(),
    };
    let armed = place.fake.fault(Match::tags(), limited);
    let seen = until(&node, "it is limited", |set| {
        set["error"]
            .as_str()
            .is_some_and(|error| error.contains("limits requests"))
    })
    .await;
    assert_eq!(hashes(&seen, "available_images"), place.chosen());
    let asked = place.fake.count(|seen| seen.path.ends_with("/tags/list"));
    let failed = lists(&node, "limited").await;
    let deadline = Instant::now() + PATIENCE;
    while lists(&node, "limited").await < failed + 2.0 {
        assert!(Instant::now() < deadline, "no refresh: {}", node.log());
        tokio::time::sleep(GLANCE).await;
    }
    let now = place.fake.count(|seen| seen.path.ends_with("/tags/list"));
    assert_eq!(now, asked, "a registry that limits requests is left alone");
    armed.lift();
}

/// larder believes a registry that suddenly lists nothing only the fourth time. Until then the set stays as it was, and
/// the status says so.
#[tokio::test]
async fn an_emptied_registry_is_believed_in_the_end() {
    let place = Place::new().await;
    let node = place.node("plain.test", "auto", "").await;
    until_here(&node, &place).await;
    let armed = place.answers_tags(format!(r#"{{"name":"{REPOSITORY}","tags":[]}}"#));
    let seen = until(&node, "it says so", |set| {
        set["error"]
            .as_str()
            .is_some_and(|error| error.contains("lists no tags any more"))
    })
    .await;
    assert_eq!(hashes(&seen, "available_images"), place.chosen());
    // Named tags come without a list.
    let recommended = place.digests[4].1.clone();
    let seen = until(&node, "the list counts", |set| {
        hashes(set, "desired_images") == [recommended.clone()]
    })
    .await;
    assert_eq!(list(&seen, "left").len(), CHOSEN.len() - 1, "{seen:#}");
    assert!(lists(&node, "empty").await >= 3.0);
    armed.lift();
    until_here(&node, &place).await;
}

async fn assert_no_secret(node: &Node, secret: &str) {
    let shown = [
        node.log(),
        node.metrics().await,
        status(node).await.to_string(),
    ];
    for text in shown {
        assert!(!text.contains(secret), "{text}");
    }
}

/// Debian's docker-registry, whose list has only names.
#[tokio::test]
async fn docker_registry_is_listed_and_asked_for_what_is_chosen_alone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let registry = DockerRegistry::start(&dir.path().join("registry")).await?;
    let mut digests = Vec::new();
    for (seed, tag) in (1..).zip(["w_2", "w_9", "w_10"]) {
        let layout = dir.path().join(tag);
        let image = oci_layout(&layout, tag, &[LayerSpec::new(seed, 1000)], None)?;
        let name = format!("team/lab:{tag}");
        registry.push_layout(&layout, &name).await?;
        digests.push(image.manifest_digest);
    }
    let before = registry.requests().await?;
    let (host, url) = (registry.host(), registry.url());
    let config = format!(
        "[upstreams.\"{host}\"]\nendpoints = [\"{url}\"]\n[warm]\nrefresh = \"1s\"\n[[warm.sets.labs.from]]\nrepository = \"{host}/team/lab\"\nnewest = [{{ match = \"w_#\", count = 2 }}]\n"
    );
    let node = Node::builder().config(config).start().await;
    let mut chosen = digests[1..].to_vec();
    chosen.sort();
    until(&node, "the two newest are here", |set| {
        hashes(set, "available_images") == chosen
    })
    .await;
    rounds(&node).await;
    let asked = registry.requests().await?.since(&before);
    assert!(asked.manifest_heads().len() >= 2, "{asked:?}");
    let of_old = asked.only(|one| one.path.contains("/manifests/w_2"));
    assert!(of_old.is_empty(), "{of_old:?}");
    Ok(())
}
