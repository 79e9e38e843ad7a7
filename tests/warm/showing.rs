//! The status of a set: Cachemachine's keys, the command line, readiness, and what other clients may not see.

use larder_tests::fake::Match;
use larder_tests::http;
use serde_json::json;

use super::*;

const SOURCE: &str = "newest = [{ match = \"w_#_#\", count = 2 }]";

/// Whether this is an image as in Cachemachine's lists.
fn is_image(image: &Value) -> bool {
    jsonschema::is_valid(&image_schema(), image)
}

fn image_schema() -> Value {
    json!({
        "type": "object",
        "required": ["image_url", "image_hash", "name"],
        "additionalProperties": false,
        "properties": {
            "image_url": {"type": "string", "pattern": "^[^@]+:[^:/]+$"},
            "image_hash": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
            "name": {"type": "string", "minLength": 1}
        }
    })
}

/// A set's status has all that Cachemachine's documentation lists, in the same types. Further keys do not harm its
/// clients.
fn assert_cachemachines(status: &Value) {
    let images = json!({"type": "array", "items": image_schema()});
    let schema = json!({
        "type": "object",
        "required": [
            "name", "labels", "common_cache", "all_images", "available_images", "desired_images", "images_to_cache"
        ],
        "properties": {
            "name": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "common_cache": {"type": "array", "items": {
                "type": "object",
                "required": ["image_url", "image_hash", "tags"],
                "additionalProperties": false,
                "properties": {
                    "image_url": {"type": "string"},
                    "image_hash": {"type": "string"},
                    "tags": {"type": "array", "items": {"type": "string"}}
                }
            }},
            "all_images": images, "available_images": images, "desired_images": images, "images_to_cache": images
        }
    });
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let errors: Vec<_> = validator
        .iter_errors(status)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}\n{status:#}");
}

/// The keys of Cachemachine's documentation, and their values while one image is held back, and afterwards.
#[tokio::test]
async fn the_status_has_the_keys_of_cachemachine_and_names_exactly_what_is_missing() {
    let labs = Labs::with(&["w_2026_1", "w_2026_2"], |_| String::new()).await;
    let held = labs.put("w_2026_2", 1);
    let layer = held.layers[0].digest.clone();
    let gate = labs.scene.fake.gate(Match::blob().reference(&layer), 1000);
    let warm = "path = \"/cachemachine\"\nat_once = 2";
    labs.configure(&newest(&labs.scene.fake, warm, "nodes = {}", SOURCE));
    labs.until("one is here", |status| {
        list(status, "available_images").len() == 1
    })
    .await;
    let (code, status) = shown(labs.node(), "/cachemachine/labs").await;
    assert_eq!(code, 200);
    assert_cachemachines(&status);
    let host = labs.scene.fake.host();
    let url = |tag: &str| format!("{host}/labs/lab:{tag}");
    assert_eq!(status["name"], "labs");
    assert_eq!(status["labels"], json!({}));
    let missing = json!([{
        "image_url": url("w_2026_2"),
        "image_hash": held.manifest_digest,
        "name": "w_2026_2",
    }]);
    assert_eq!(status["images_to_cache"], missing);
    assert_eq!(status["common_cache"][0]["image_url"], url("w_2026_1"));
    assert_eq!(status["common_cache"][0]["tags"], json!([]));
    assert_eq!(list(&status, "desired_images").len(), 2);
    assert_eq!(list(&status, "all_images").len(), 2);
    assert_eq!(shown(labs.node(), "/cachemachine/labs/ready").await.0, 503);
    let told = labs.node().cli(&["warm", "labs"]).await;
    assert_eq!(told.status.code(), Some(3));
    gate.open();
    labs.until_here(&["w_2026_2", "w_2026_1"]).await;
    let (_, status) = shown(labs.node(), "/cachemachine/labs").await;
    assert_eq!(status["images_to_cache"], json!([]));
    assert_cachemachines(&status);
    assert_eq!(shown(labs.node(), "/cachemachine/labs/ready").await.0, 200);
    for what in ["available", "desired"] {
        let (code, images) = shown(labs.node(), &format!("/cachemachine/labs/{what}")).await;
        assert_eq!((code, list(&images, "images").len()), (200, 2), "{what}");
        assert!(list(&images, "all").iter().all(is_image), "{images:#}");
    }
    assert_eq!(
        shown(labs.node(), "/cachemachine/").await.1,
        json!(["labs"])
    );
    for path in ["/cachemachine/other", "/cachemachine/labs/other"] {
        let (code, detail) = shown(labs.node(), path).await;
        assert_eq!(code, 404, "{path}");
        assert!(detail["detail"].is_string(), "{path}: {detail}");
    }
    let url = format!("http://{}/cachemachine/labs", labs.node().telemetry());
    let answer = http::Call::new("POST", url)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status, 405);
}

#[tokio::test]
async fn the_command_line_says_why_each_tag_was_chosen_and_waits() {
    let tags = ["w_2026_1", "w_2026_2", "w_2026_3", "latest"];
    let labs = Labs::with(&tags, |fake| newest(fake, "", "", SOURCE)).await;
    labs.until("it was read", |status| !status.is_null()).await;
    let waited = labs
        .node()
        .cli(&["warm", "labs", "--wait", "--within", "1m"])
        .await;
    let text = String::from_utf8_lossy(&waited.stdout).into_owned();
    assert_eq!(waited.status.code(), Some(0), "{text}");
    assert!(text.contains("every node has every image"), "{text}");
    let plan = labs.node().cli(&["warm", "labs", "--plan"]).await;
    let text = String::from_utf8_lossy(&plan.stdout).into_owned();
    for (tag, why) in [
        ("w_2026_3", "number 1 of the newest 2 for w_#_#"),
        ("w_2026_1", "older than the newest 2 for w_#_#"),
        ("latest", "no pattern of `newest` matches"),
    ] {
        let mut lines = text.lines();
        let line = lines.find(|line| line.starts_with(tag)).unwrap_or_default();
        assert!(line.contains(why), "{tag}: {text}");
    }
    let sets = labs.node().cli(&["warm", "--json"]).await;
    let sets: Value = serde_json::from_slice(&sets.stdout).expect("JSON");
    assert_eq!(sets[0]["name"], "labs");
    // A tag that is added now shows at once.
    let new = labs.put("w_2026_4", 44);
    let refreshed = labs
        .node()
        .cli(&["warm", "labs", "--refresh", "--wait"])
        .await;
    assert_eq!(refreshed.status.code(), Some(0), "{refreshed:?}");
    assert!(has(labs.node(), &new));
    let metrics = labs.node().metrics().await;
    assert!(
        metrics.contains("larder_warm_images{set=\"labs\",state=\"here\"} 2"),
        "{metrics}"
    );
    assert!(!metrics.contains("w_2026_4"), "metrics name no image");
}

/// The exposed address shows nothing of a set unless the operator allows it, and then nothing private.
#[tokio::test]
async fn names_of_private_repositories_stay_on_the_node() {
    let labs = Labs::with(&[], |_| String::new()).await;
    let fake = &labs.scene.fake;
    fake.require_basic("labs/lab", "robot", "secret");
    let dir = tempfile::tempdir().expect("a directory");
    let word = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (username, password) = (word("u", "robot"), word("p", "secret"));
    labs.put("w_2026_1", 1);
    image::build(fake, "open/app", "v1", &[LayerSpec::new(9, 1000)]);
    let config = format!(
        "[upstreams.\"{host}\"]\ncredentials = {{ username_file = \"{username}\", password_file = \"{password}\" }}\n\
         [telemetry]\nexpose = \"127.0.0.3:0\"\n{set}[[warm.sets.labs.from]]\nimages = [\"{host}/open/app:v1\"]\n",
        host = fake.host(),
        set = newest(fake, "", "", SOURCE),
    );
    let node = Node::builder()
        .upstream(fake)
        .config(config.as_str())
        .start()
        .await;
    until(&node, "all is here", |status| {
        is_here(status, &["w_2026_1", "v1"])
    })
    .await;
    let exposed = node.admin("/status").await["listen"]["exposed"].clone();
    let exposed = exposed.as_str().expect("an address").to_owned();
    let there = async |path: &str| {
        let url = format!("http://{exposed}{path}");
        let answer = http::get(&url, &[]).await.expect("an answer");
        (
            answer.status,
            String::from_utf8_lossy(&answer.body).into_owned(),
        )
    };
    assert_eq!(there("/warm/labs").await.0, 404);
    fs::write(
        node.config_file(),
        config.replace("[warm]\n", "[warm]\nexpose = true\n"),
    )
    .expect("a file");
    let deadline = Instant::now() + PATIENCE;
    let text = loop {
        let (code, text) = there("/warm/labs").await;
        if code == 200 && text.contains("open/app") {
            break text;
        }
        assert!(Instant::now() < deadline, "{code}: {text}");
        tokio::time::sleep(GLANCE).await;
    };
    assert!(!text.contains("labs/lab"), "{text}");
    assert_eq!(there("/warm/labs/ready").await.0, 200);
    // On loopback all of it is shown, but not to pages of other sites.
    assert!(
        shown(&node, "/warm/labs")
            .await
            .1
            .to_string()
            .contains("labs/lab")
    );
    let url = format!("http://{}/warm/labs", node.telemetry());
    for headers in [
        &[("host", "evil.example")][..],
        &[("sec-fetch-site", "cross-site")],
    ] {
        let answer = http::get(&url, headers).await.expect("an answer");
        assert!(answer.status >= 400, "{headers:?}: {}", answer.status);
    }
}

/// `larder doctor` says why a set has no nodes, and the page shows which images are here.
#[tokio::test]
async fn doctor_and_the_page_tell_of_sets() {
    let labs = Labs::with(&["w_2026_1", "w_2026_2"], |_| String::new()).await;
    let set = "nodes = { pool = \"labs\" }";
    let found = async |warm: &str, wanted: &str| {
        labs.configure(&newest(&labs.scene.fake, warm, set, SOURCE));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, diagnosis) = asked(labs.node(), "/doctor").await;
            let mut findings = list(&diagnosis, "findings").iter();
            let found = findings.find(|one| one["check"] == "warm").cloned();
            let found = found.unwrap_or_default();
            if found["found"]
                .as_str()
                .is_some_and(|text| text.contains(wanted))
            {
                return found["severity"].as_str().unwrap_or_default().to_owned();
            }
            assert!(Instant::now() < deadline, "{wanted}: {diagnosis:#}");
            tokio::time::sleep(GLANCE).await;
        }
    };
    assert_eq!(found("", "knows no labels of this node").await, "warning");
    let file = "labels_file = \"/nowhere/labels\"";
    assert_eq!(found(file, "/nowhere/labels").await, "warning");
    let other = "labels = { pool = \"base\" }";
    assert_eq!(found(other, "no node has pool=labs").await, "warning");
    let own = "labels = { pool = \"labs\" }";
    assert_eq!(found(own, "2 of 2 images are here").await, "ok");
    let url = format!("http://{}/", labs.node().telemetry());
    let page = http::get(&url, &[]).await.expect("a page");
    let page = String::from_utf8_lossy(&page.body).into_owned();
    let (_, section) = page.split_once("Warm sets").expect("a section");
    assert!(
        section.contains("<b>labs</b>") && section.contains("2 of 2"),
        "{section}"
    );
}

#[tokio::test]
async fn without_sets_nothing_is_asked_and_nothing_is_shown() {
    let scene = Scene::new().await;
    assert_eq!(shown(&scene.node, "/warm/").await.0, 404);
    assert_eq!(asked(&scene.node, "/warm").await, (200, json!([])));
    assert!(!scene.node.store().join("warm").exists());
    assert_eq!(scene.fake.requests().len(), 0);
}
