//! How far a refusal reaches: what the registry says of one subject is no word on its repository, and what no registry says
//! is no word at all (promises P14, P16, P17).

use std::time::{Duration, Instant};

use larder_tests::fake::{Armed, FakeRegistry, Fault, Kind, Match, Target};
use larder_tests::http::{Call, Response};
use larder_tests::image::{Image, LayerSpec, build};
use larder_tests::scene::{committed, eventually};

use crate::private::{Private, Who, refused};

const REPOSITORY: &str = "team/app";

/// How long something that heals within seconds may take on a machine that has other things to do.
const HEALS: Duration = Duration::from_secs(20);

/// Two images in one repository, both pulled by `who`.
struct Place {
    fake: FakeRegistry,
    scene: Private,
    who: Who,
    first: Image,
    second: Image,
}

impl Place {
    async fn of(who: Who, toml: &str) -> Self {
        Self::beside(&[], who, toml).await
    }

    /// The same where these places may be led to.
    async fn beside(others: &[&FakeRegistry], who: Who, toml: &str) -> Self {
        let fake = FakeRegistry::start().await;
        let first = build(&fake, REPOSITORY, "first", &[LayerSpec::new(1, 1000)]);
        let second = build(&fake, REPOSITORY, "second", &[LayerSpec::new(2, 1000)]);
        if let Who::User(..) = who {
            fake.require_bearer(REPOSITORY, &[who.pair()]);
        }
        let all: Vec<&FakeRegistry> = [&fake].into_iter().chain(others.iter().copied()).collect();
        let scene = Private::configured(&all, toml).await;
        let place = Self {
            fake,
            scene,
            who,
            first,
            second,
        };
        for (tag, image) in [("first", &place.first), ("second", &place.second)] {
            place.pulls(tag, image).await;
            let layers = image.layers.iter().map(|layer| &layer.digest);
            for digest in [&image.manifest_digest, &image.config_digest]
                .into_iter()
                .chain(layers)
            {
                let store = place.scene.node.store();
                eventually("it is committed", || committed(store, digest)).await;
            }
        }
        place.fake.reset_counts();
        place
    }

    /// The two kinds of callers that a test is about.
    async fn each(toml: &str) -> [Self; 2] {
        [
            Self::of(Who::Nobody, toml).await,
            Self::of(Who::new("owner"), toml).await,
        ]
    }

    fn url(&self, rest: &str) -> String {
        self.scene.path(&self.fake, &format!("{REPOSITORY}/{rest}"))
    }

    async fn get(&self, rest: &str) -> Response {
        self.scene.get(&self.who, &self.url(rest)).await
    }

    async fn head(&self, rest: &str) -> Response {
        self.scene.head(&self.who, &self.url(rest)).await
    }

    /// What a pull by tag asks for, as runtimes do: HEAD of the tag, then everything by digest.
    fn paths(tag: &str, image: &Image) -> Vec<String> {
        let mut paths = vec![
            format!("manifests/{tag}"),
            format!("manifests/{}", image.manifest_digest),
            format!("blobs/{}", image.config_digest),
        ];
        let layers = image.layers.iter();
        paths.extend(layers.map(|layer| format!("blobs/{}", layer.digest)));
        paths
    }

    /// A whole pull; nothing of it is missing.
    async fn pulls(&self, tag: &str, image: &Image) {
        let paths = Self::paths(tag, image);
        let head = self.head(&paths[0]).await;
        assert_eq!(head.status, 200, "{tag} {:?}", self.who);
        assert_eq!(
            head.header("docker-content-digest"),
            Some(&*image.manifest_digest)
        );
        for path in &paths[1..] {
            let answer = self.get(path).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            assert!(answer.complete && !answer.body.is_empty(), "{path}");
        }
    }

    /// Nothing of an image, but for what is of these paths.
    async fn gets_nothing(&self, what: &str, paths: &[String]) {
        for path in paths {
            refused(what, &self.get(path).await, b"schemaVersion");
            let head = self.head(path).await;
            assert!(head.status >= 400, "{what}: {path} {}", head.status);
        }
    }

    /// Waits until a request is answered with this status.
    async fn until(&self, path: &str, status: u16) {
        let deadline = Instant::now() + HEALS;
        loop {
            let answer = self.get(path).await;
            if answer.status == status {
                return;
            }
            let told = answer.text();
            assert!(
                Instant::now() < deadline,
                "{path}: {} {told}",
                answer.status
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the registry was asked for what it is known to hold, after it refused something else.
    async fn until_looked_into(&self, status: u16) {
        let held: Vec<String> = [("first", &self.first), ("second", &self.second)]
            .iter()
            .flat_map(|(tag, image)| Self::paths(tag, image))
            .collect();
        eventually("it was asked for something else", || {
            let looked = |seen: &larder_tests::fake::Seen| {
                let is = held.iter().any(|path| seen.path.ends_with(&**path));
                is && seen.status == status && seen.finished
            };
            self.fake.count(looked) > 0
        })
        .await;
    }

    async fn end(self) {
        self.scene.end(&[&self.fake]).await;
    }
}

/// What no registry says, in the place of each of its answers.
fn no_answers(portal: &FakeRegistry) -> Vec<Fault> {
    let redirect = || Fault::Redirect {
        to: Target::Url(format!("{}/v2/login/manifests/now", portal.url())),
        status: 302,
    };
    vec![
        Fault::page(403),
        Fault::page(401),
        Fault::status(403),
        Fault::status(401),
        Fault::page(200),
        redirect(),
    ]
}

/// A portal that every request may be led to.
async fn portal(says: Fault) -> FakeRegistry {
    let portal = FakeRegistry::start().await;
    portal.fault(Match::any(), says);
    portal
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_registry_says_closes_nothing_that_is_public() {
    let portal = portal(Fault::page(200)).await;
    for (ttl, fault) in no_answers(&portal)
        .into_iter()
        .flat_map(|fault| [("10m", fault.clone()), ("0s", fault)])
    {
        let toml = format!("[access]\nttl = \"{ttl}\"\ngrace = \"0s\"\n");
        let mut place = Place::beside(&[&portal], Who::Nobody, &toml).await;
        let armed = place.fake.fault(Match::any(), fault.clone());
        for _ in 0..2 {
            place.pulls("first", &place.first).await;
        }
        let answer = place.get("manifests/first").await;
        assert!(answer.header("warning").is_some(), "{fault:?}");
        assert!(armed.hits() > 0, "{fault:?}");
        // An outage follows, and a restart in it.
        place.fake.stop().await;
        place.pulls("first", &place.first).await;
        place.scene.node.restart().await;
        place.pulls("first", &place.first).await;
        armed.lift();
        place.fake.start_again().await;
        let answer = place.get("manifests/first").await;
        assert_eq!((answer.status, answer.header("warning")), (200, None));
        place.end().await;
    }
}

/// A right that was proven a moment ago stands; what is older is not prolonged by a page, as it is by an outage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_registry_says_prolongs_no_right_and_ends_none() {
    let mut portals = vec![
        portal(Fault::page(200)).await,
        portal(Fault::page(403)).await,
    ];
    portals.push(portal(Fault::denied(403)).await);
    let toml = "[access]\nttl = \"2s\"\ngrace = \"1h\"\n";
    let all: Vec<&FakeRegistry> = portals.iter().collect();
    let redirects = |portal| no_answers(portal).pop();
    let mut faults = no_answers(&portals[0]);
    faults.extend(portals[1..].iter().filter_map(redirects));
    for fault in faults {
        let place = Place::beside(&all, Who::new("owner"), toml).await;
        let paths = Place::paths("first", &place.first);
        // The last acceptance is behind: from here on, nothing but age ends the right.
        let armed = place.fake.fault(Match::any(), fault.clone());
        place.until(&paths[2], 503).await;
        for path in &paths {
            let answer = place.get(path).await;
            assert!(
                matches!(answer.status, 401 | 503),
                "{fault:?} {path}: {}",
                answer.status
            );
            refused(&format!("{fault:?}"), &answer, b"schemaVersion");
        }
        assert!(armed.hits() > 0, "{fault:?}");
        // It was no refusal: an outage is bridged, as it would have been before.
        place.fake.stop().await;
        place.pulls("first", &place.first).await;
        armed.lift();
        place.fake.start_again().await;
        place.until(&paths[0], 200).await;
        place.pulls("first", &place.first).await;
        place.end().await;
    }
}

/// Registries that refuse HEAD without a word, or for good, and serve GET.
#[tokio::test]
async fn a_refusal_without_a_body_is_asked_once_more_by_get() {
    for code in [401, 403] {
        for place in Place::each("[access]\nttl = \"0s\"\n").await {
            let head = Match::any().method("HEAD");
            let armed = place.fake.fault(head, Fault::status(code));
            place.pulls("first", &place.first).await;
            let answer = place.get("manifests/first").await;
            assert_eq!((answer.status, answer.header("warning")), (200, None));
            assert!(armed.hits() > 0);
            // What GET says counts.
            place.fake.fault(Match::any(), Fault::denied(403));
            place.until("manifests/first", 401).await;
            place.end().await;
        }
    }
}

/// What of the first image is blocked.
fn blocks(first: &Image) -> Vec<(Vec<Match>, Vec<String>)> {
    let tag = || Match::manifest().reference("first");
    let digest = || Match::manifest().reference(&first.manifest_digest);
    let layer = &first.layers[0].digest;
    let by_tag = "manifests/first".to_owned();
    let by_digest = format!("manifests/{}", first.manifest_digest);
    vec![
        (
            vec![tag(), digest()],
            vec![by_tag.clone(), by_digest.clone()],
        ),
        (vec![tag()], vec![by_tag]),
        (vec![digest()], vec![]),
        (
            vec![Match::blob().reference(layer)],
            vec![format!("blobs/{layer}")],
        ),
    ]
}

/// As scanners and firewalls do it: the registry's own word, for one artifact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_blocked_artifact_closes_nothing_else() {
    for block in 0..4 {
        for (code, mut place) in [403, 401]
            .into_iter()
            .zip(Place::each("[access]\nttl = \"10m\"\n").await)
        {
            let (matches, paths) = blocks(&place.first).swap_remove(block);
            let armed: Vec<Armed> = matches
                .into_iter()
                .map(|which| place.fake.fault(which, Fault::denied(code)))
                .collect();
            let what = format!("block {block} of {:?}", place.who);
            // Only who asks hears of it: a layer that is here is asked for when the right to it is.
            if let Some(path) = paths.first() {
                if path.starts_with("blobs/") {
                    place.scene.node.restart().await;
                }
                let answer = place.get(path).await;
                if path.starts_with("manifests/") {
                    assert_eq!(answer.status, 401, "{what}: {}", answer.text());
                    place.until_looked_into(200).await;
                }
            }
            place.pulls("second", &place.second).await;
            if block < 2 {
                place.gets_nothing(&what, &paths).await;
                // The tag's digest is refused with it.
                let by_digest = format!("manifests/{}", place.first.manifest_digest);
                if block == 0 {
                    place.gets_nothing(&what, &[by_digest]).await;
                }
                // What of it is not refused is a right like any other.
                place.pulls("second", &place.second).await;
                let answer = place.get("manifests/second").await;
                assert_eq!((answer.status, answer.header("warning")), (200, None));
            }
            // Neither an outage nor a restart in it opens the one or closes the other.
            place.fake.stop().await;
            for _ in 0..2 {
                place.pulls("second", &place.second).await;
                if block < 2 {
                    place.gets_nothing(&what, &paths).await;
                }
                place.scene.node.restart().await;
            }
            for armed in armed {
                armed.lift();
            }
            place.fake.start_again().await;
            place.until("manifests/first", 200).await;
            place.pulls("first", &place.first).await;
            place.end().await;
        }
    }
}

/// Until the registry has served something else, nothing is cached for who was refused, and no outage is bridged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_looked_into_is_none_yet() {
    for mut place in Place::each("[access]\nttl = \"10m\"\ngrace = \"1h\"\n").await {
        let tag = Match::manifest().reference("first");
        place.fake.fault(tag, Fault::denied(403));
        let rest = place.fake.fault(
            Match::any().when(|request| matches!(request.kind, Kind::Manifest | Kind::Blob)),
            Fault::status(500),
        );
        assert_eq!(place.get("manifests/first").await.status, 401);
        eventually("it was asked for something else", || rest.hits() > 0).await;
        let paths = Place::paths("second", &place.second);
        place.gets_nothing("the registry fails", &paths).await;
        place.fake.stop().await;
        place.gets_nothing("an outage", &paths).await;
        place.scene.node.restart().await;
        place.gets_nothing("a restart", &paths).await;
        place.fake.start_again().await;
        place.gets_nothing("the registry fails again", &paths).await;
        rest.lift();
        if place.who != Who::Nobody {
            // Nobody's right is asked for again by who comes with none, and that has been answered.
            place.pulls("second", &place.second).await;
        }
        place.end().await;
    }
}

/// Whatever the registry says instead of serving what it is known to hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_was_taken_away_is_void_at_once() {
    for (code, looked) in [(403, 403), (403, 401), (401, 404), (403, 404)] {
        for mut place in Place::each("[access]\nttl = \"10m\"\ngrace = \"1h\"\n").await {
            let tag = Match::manifest().reference("first");
            place.fake.fault(tag, Fault::denied(code));
            let rest = Match::any().when(|request| {
                matches!(request.kind, Kind::Manifest | Kind::Blob) && request.reference != "first"
            });
            let rest = place.fake.fault(rest, Fault::denied(looked));
            assert_eq!(place.get("manifests/first").await.status, 401);
            eventually("it was asked for something else", || rest.hits() > 1).await;
            let paths = Place::paths("second", &place.second);
            place.gets_nothing("refused", &paths).await;
            place.fake.stop().await;
            place.gets_nothing("in an outage", &paths).await;
            place.scene.node.restart().await;
            place.gets_nothing("after a restart", &paths).await;
            place.end().await;
        }
    }
}

/// A refusal of everything that lasts a moment, as of a registry that is being upgraded, with all defaults.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_everything_is_asked_again_soon() {
    for place in Place::each("").await {
        let armed = place.fake.fault(Match::any(), Fault::denied(403));
        place.until("manifests/first", 401).await;
        let blob = format!("blobs/{}", place.first.layers[0].digest);
        place.until(&blob, 401).await;
        armed.lift();
        place.until("manifests/first", 200).await;
        place.pulls("first", &place.first).await;
        place.end().await;
    }
}

/// Docker Hub says 401 for what does not exist yet. A pod may come before its image.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deployed_before_it_is_pushed_heals_within_seconds() {
    let fake = FakeRegistry::start().await;
    let owner = Who::new("owner");
    // Tokens are had, and open nothing.
    fake.require_bearer("other/app", &[owner.pair()]);
    fake.allow_anonymous("other/app");
    let scene = Private::configured(&[&fake], "").await;
    for (who, repository) in [(&Who::Nobody, "new/public"), (&owner, "new/private")] {
        fake.require_bearer(repository, &[]);
        let url = scene.manifest(&fake, repository, "v1");
        for _ in 0..4 {
            assert_eq!(scene.head(who, &url).await.status, 401, "{who:?}");
        }
        let image = build(&fake, repository, "v1", &[LayerSpec::new(7, 1000)]);
        match who {
            Who::Nobody => fake.allow_anonymous(repository),
            _ => fake.require_bearer(repository, &[owner.pair()]),
        }
        let deadline = Instant::now() + HEALS;
        while scene.head(who, &url).await.status != 200 {
            assert!(Instant::now() < deadline, "{who:?}: it is still refused");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for path in Place::paths("v1", &image) {
            let url = scene.path(&fake, &format!("{repository}/{path}"));
            assert_eq!(scene.get(who, &url).await.status, 200, "{path}");
        }
        // A loop of callers is no load: there are pauses between the questions.
        let asked = fake.count(|seen| seen.kind == Kind::Manifest && seen.status == 401);
        assert!(asked <= 40, "{asked} questions");
    }
    scene.end(&[&fake]).await;
}

/// Who was refused learns nothing from how long the answer takes: the look at the repository is not waited for.
#[tokio::test]
async fn nobody_waits_for_the_look_at_the_repository() {
    let place = Place::of(Who::new("owner"), "").await;
    let stranger = Who::new("stranger");
    place.fake.require_bearer(REPOSITORY, &[place.who.pair()]);
    // The stranger's tokens are had, and open nothing here.
    place.fake.require_bearer("other/app", &[stranger.pair()]);
    let gate = larder_tests::fake::Gate::new(0);
    let others = Match::any().when(|request| {
        let wanted = request.reference == "first";
        request.kind != Kind::Token && !wanted
    });
    place.fake.fault(others, Fault::Hold(gate.clone()));
    let url = place.url("manifests/first");
    let asked = tokio::time::timeout(HEALS, place.scene.get(&stranger, &url)).await;
    assert_eq!(asked.expect("an answer").status, 401);
    gate.open();
    let call = Call::get(&url);
    assert_eq!(place.scene.ask(&place.who, call).await.status, 200);
    place.end().await;
}
