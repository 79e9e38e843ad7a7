use std::collections::BTreeMap;

use larder_shared::runtime::{Content, Image, Report, User};
use proptest::prelude::*;

use super::{
    pace::{BURST, PER_MINUTE},
    *,
};

fn digest(name: &str) -> Digest {
    Digest::sha256(name.as_bytes())
}

fn content(name: &str, labels: &[(&str, &str)]) -> Content {
    let labels = labels.iter();
    Content {
        namespace: "k8s.io".into(),
        digest: digest(name),
        size: 1,
        labels: labels
            .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()))
            .collect::<BTreeMap<_, _>>(),
        created: None,
    }
}

fn image(names: &[&str], target: &str, manifest: &str, blobs: &[&str]) -> Image {
    Image {
        namespace: "k8s.io".into(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        target: digest(target),
        digests: Vec::new(),
        manifest: Some(digest(manifest)),
        config: blobs.first().map(|name| digest(name)),
        layers: blobs.iter().skip(1).map(|name| digest(name)).collect(),
        updated: None,
    }
}

fn report(images: Vec<Image>, users: Vec<User>, content: Vec<Content>) -> Report {
    let empty = r#"{"version": 1, "at": 0, "runtime": {"name": "containerd", "version": "2"}, "images": [], "users": []}"#;
    Report {
        images,
        users,
        content,
        ..serde_json::from_str(empty).unwrap()
    }
}

fn words(guesses: &[Guess]) -> Vec<String> {
    let names = ["index", "manifest", "config", "layer", "other"];
    let name = |wanted: &Digest| {
        let known = names.into_iter().find(|name| digest(name) == *wanted);
        known.unwrap_or("?")
    };
    let word = |guess: &Guess| {
        let what = match &guess.what {
            What::Tag(tag, digest) => format!(":{tag} {}", name(digest)),
            What::Manifest(digest) => format!(" manifest {}", name(digest)),
            What::Blob(digest) => format!(" blob {}", name(digest)),
        };
        format!("{}/{}{what}", guess.registry, guess.repository)
    };
    guesses.iter().map(word).collect()
}

#[test]
fn names_nominate_what_the_content_store_holds() {
    let all = ["index", "manifest", "config", "layer"];
    let held = |names: &[&str]| names.iter().map(|name| content(name, &[])).collect();
    let images = vec![image(
        &["a.io:5000/team/app:v1", "sha256:0123", "nothing"],
        "index",
        "manifest",
        &["config", "layer"],
    )];
    let found = guesses(&report(images.clone(), Vec::new(), held(&all)), &[]);
    assert_eq!(
        words(&found),
        [
            "a.io:5000/team/app:v1 index",
            "a.io:5000/team/app manifest index",
            "a.io:5000/team/app manifest manifest",
            "a.io:5000/team/app blob config",
            "a.io:5000/team/app blob layer",
        ]
    );
    // The runtime may discard layers once they are unpacked, and CRI-O has no content store at all.
    let found = guesses(
        &report(images.clone(), Vec::new(), held(&["manifest"])),
        &[],
    );
    assert_eq!(words(&found), ["a.io:5000/team/app manifest manifest"]);
    assert_eq!(guesses(&report(images, Vec::new(), Vec::new()), &[]), []);
}

#[test]
fn by_digest_there_is_no_tag_and_what_is_used_comes_first() {
    let by_digest = format!("a.io/x/y@{}", digest("index"));
    let images = vec![
        image(&[&by_digest], "index", "index", &[]),
        image(&["a.io/x/z:v1"], "other", "other", &[]),
    ];
    let user = r#"{"namespace": "k8s.io", "kind": "container", "id": "1", "image": "a.io/x/z:v1"}"#;
    let user: User = serde_json::from_str(user).unwrap();
    let held = vec![content("index", &[]), content("other", &[])];
    let found = guesses(&report(images, vec![user], held), &[]);
    assert_eq!(
        words(&found),
        [
            "a.io/x/z:v1 other",
            "a.io/x/z manifest other",
            "a.io/x/y manifest index",
        ]
    );
}

/// A label drops the port: every registry that is known at a port of the host may be meant.
#[test]
fn labels_nominate_every_registry_that_they_may_mean_and_few_repositories() {
    let source = "containerd.io/distribution.source.127.0.0.1";
    let names = "containerd.io/gc.ref.content.l.0";
    let configured = ["127.0.0.1:5001", "127.0.0.12:1", "b.io"].map(|name| name.parse().unwrap());
    let held = vec![
        content("layer", &[(source, "x/y,x/z"), ("other.label", "q")]),
        content("manifest", &[(source, "x/y"), (names, "sha256:…")]),
        content(
            "other",
            &[(
                "containerd.io/distribution.source.docker.io",
                "library/a,NO",
            )],
        ),
    ];
    let found = guesses(&report(Vec::new(), Vec::new(), held), &configured);
    assert_eq!(
        words(&found),
        [
            "127.0.0.1/x/y blob layer",
            "127.0.0.1/x/z blob layer",
            "127.0.0.1:5001/x/y blob layer",
            "127.0.0.1:5001/x/z blob layer",
            "127.0.0.1/x/y manifest manifest",
            "127.0.0.1:5001/x/y manifest manifest",
            "docker.io/library/a blob other",
        ]
    );
    let many: Vec<String> = (0..1000).map(|i| format!("x/y{i}")).collect();
    let held = vec![content("layer", &[(source, &many.join(","))])];
    let found = guesses(&report(Vec::new(), Vec::new(), held), &[]);
    assert!(found.len() <= 8, "{}", found.len());
}

#[test]
fn there_are_never_more_guesses_than_are_followed() {
    let held = (0..GUESSES + 10).map(|i| {
        content(
            &i.to_string(),
            &[("containerd.io/distribution.source.a.io", "x/y")],
        )
    });
    let found = guesses(&report(Vec::new(), Vec::new(), held.collect()), &[]);
    assert_eq!(found.len(), GUESSES);
}

fn guess(registry: u8, what: u8) -> Guess {
    Guess {
        registry: format!("r{registry}.io").parse().unwrap(),
        repository: "a/b".parse().unwrap(),
        what: What::Blob(digest(&what.to_string())),
    }
}

/// The tag's answer brings the manifest's bytes, and a tag that moved says nothing of the manifest.
#[test]
fn a_tag_that_is_proven_proves_its_manifest() {
    let now = Instant::now();
    let of = |what| Guess {
        what,
        ..guess(0, 0)
    };
    let target = digest("index");
    let tag = of(What::Tag("v1".parse().unwrap(), target));
    for (answered, manifest_is_asked) in [(Answered::Proven, false), (Answered::Elsewhere, true)] {
        let mut adoption = Adoption::default();
        adoption.nominate(
            vec![tag.clone(), of(What::Manifest(target))],
            Instant::now(),
        );
        assert_eq!(adoption.next_to_ask(now), Next::Nothing, "not hashed");
        assert_eq!(adoption.next_to_hash(now), Some(target));
        adoption.hashed(&target, true, now);
        assert_eq!(adoption.next_to_ask(now), Next::Ask(tag.clone()));
        adoption.answered(&tag, answered, now, 0.5);
        let next = adoption.next_to_ask(now);
        assert_eq!(matches!(next, Next::Ask(_)), manifest_is_asked, "{next:?}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Hash { sound: bool },
    Ask(Answered),
    Pass(u16),
    Nominate(u8),
}

fn answers() -> impl Strategy<Value = Answered> {
    prop_oneof![
        4 => Just(Answered::Proven),
        1 => Just(Answered::Elsewhere),
        1 => Just(Answered::Refused),
        1 => Just(Answered::Missing),
        1 => Just(Answered::Differs),
        2 => prop::option::of(0u64..100).prop_map(|s| Answered::Later(s.map(Duration::from_secs))),
        1 => Just(Answered::Unread),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0u8..4).prop_map(|n| Event::Hash { sound: n > 0 }),
        6 => answers().prop_map(Event::Ask),
        3 => (0u16..400).prop_map(Event::Pass),
        1 => (1u8..60).prop_map(Event::Nominate),
    ]
}

proptest! {
    /// Whatever happens, only guesses that are hashed and not proven are asked, never sooner than was said, and never
    /// faster than the pace of a registry allows.
    #[test]
    fn questions_keep_their_bounds(events in prop::collection::vec(events(), 1..400), jitter in 0.0f64..1.0) {
        let begun = Instant::now();
        let mut now = begun;
        let mut adoption = Adoption::default();
        let all = |n: u8| (0..n).map(|i| guess(i % 3, i)).collect::<Vec<_>>();
        adoption.nominate(all(40), now);
        let mut hashed: HashSet<Digest> = HashSet::new();
        let mut proven: HashSet<Guess> = HashSet::new();
        let mut not_before: HashMap<Guess, Instant> = HashMap::new();
        let mut left_alone: HashMap<RegistryName, Instant> = HashMap::new();
        let mut asked: HashMap<RegistryName, u32> = HashMap::new();
        for event in events {
            match event {
                Event::Pass(seconds) => now += Duration::from_secs(u64::from(seconds)),
                Event::Nominate(n) => {
                    adoption.nominate(all(n), now);
                    let stay: HashSet<Guess> = all(n).into_iter().collect();
                    proven.retain(|guess| stay.contains(guess));
                    not_before.retain(|guess, _| stay.contains(guess));
                    hashed.retain(|digest| stay.iter().any(|guess| guess.digest() == digest));
                }
                Event::Hash { sound } => {
                    if let Some(digest) = adoption.next_to_hash(now) {
                        prop_assert!(!hashed.contains(&digest));
                        adoption.hashed(&digest, sound, now);
                        if sound {
                            hashed.insert(digest);
                        }
                    }
                }
                Event::Ask(answered) => {
                    let next = adoption.next_to_ask(now);
                    if let Next::Wait(at) = next {
                        prop_assert!(at > now);
                    }
                    let Next::Ask(guess) = next else { continue };
                    prop_assert!(hashed.contains(guess.digest()));
                    prop_assert!(!proven.contains(&guess));
                    prop_assert!(not_before.get(&guess).is_none_or(|at| *at <= now));
                    prop_assert!(left_alone.get(&guess.registry).is_none_or(|at| *at <= now));
                    let count = asked.entry(guess.registry.clone()).or_default();
                    *count += 1;
                    let minutes = (now - begun).as_secs_f64() / 60.0;
                    prop_assert!(f64::from(*count) <= f64::from(BURST) + f64::from(PER_MINUTE) * minutes + 0.01);
                    adoption.answered(&guess, answered, now, jitter);
                    match answered {
                        Answered::Proven => {
                            proven.insert(guess);
                        }
                        Answered::Later(said) => {
                            not_before.insert(guess.clone(), now + LATER.mul_f64(0.75));
                            left_alone.insert(guess.registry, now + said.unwrap_or_default());
                        }
                        Answered::Unread => {
                            hashed.remove(guess.digest());
                        }
                        _ => {
                            not_before.insert(guess, now + REFUSED.mul_f64(0.75));
                        }
                    }
                }
            }
        }
        let standing = adoption.standing();
        prop_assert_eq!(standing.proven, proven.len() as u64);
    }

    /// An origin that confirms everything is heard in the end, at the pace.
    #[test]
    fn everything_true_is_proven_in_the_end(n in 1u8..200) {
        let mut now = Instant::now();
        let begun = now;
        let mut adoption = Adoption::default();
        adoption.nominate((0..n).map(|i| guess(0, i)).collect(), Instant::now());
        while let Some(digest) = adoption.next_to_hash(now) {
            adoption.hashed(&digest, true, now);
        }
        loop {
            match adoption.next_to_ask(now) {
                Next::Ask(guess) => adoption.answered(&guess, Answered::Proven, now, 0.5),
                Next::Wait(at) => now = at,
                Next::Nothing => break,
            }
        }
        prop_assert_eq!(adoption.standing().proven, u64::from(n));
        let minutes = f64::from(u32::from(n).saturating_sub(BURST)) / f64::from(PER_MINUTE);
        prop_assert!((now - begun).as_secs_f64() <= minutes * 60.0 + 5.0);
    }
}
