//! The lists of clouds: Artifact Registry, ECR, Azure.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use super::*;

const GAR: &str = "us-central1-docker.pkg.dev";
const GAR_PATH: &str = "/v1/projects/p/locations/us-central1/repositories/r/dockerImages";
const ECR: &str = "123456789012.dkr.ecr.eu-central-1.amazonaws.com";
const ACR: &str = "team.azurecr.io";

fn image(name: &str, of: &str, tags: &[&str]) -> serde_json::Value {
    let digest = Digest::sha256(of.as_bytes());
    json!({"name": format!("projects/p/locations/us-central1/repositories/r/dockerImages/{name}@{digest}"),
        "tags": tags, "imageSizeBytes": "9", "uploadTime": "2023-11-14T22:13:20Z"})
}

fn gar_node(dir: &std::path::Path, server: &Server) -> Arc<Lists> {
    let url = server.url();
    let google = format!(
        "credentials = {{ identity = \"google\", metadata_endpoint = \"{url}\", api_endpoint = \"{url}\" }}"
    );
    lists(dir, &upstream(GAR, server, &google))
}

/// The answers of the metadata server and the API. The second page fails at the first try.
fn gar(asked: &Asked, broken: &AtomicU32) -> Reply {
    if asked.path.starts_with("/computeMetadata/") {
        let token = r#"{"access_token":"ya29.hunter2","expires_in":3599,"token_type":"Bearer"}"#;
        return Reply::new(200, token).with("metadata-flavor", "Google");
    }
    if asked.path != GAR_PATH || asked.header("authorization") != Some("Bearer ya29.hunter2") {
        return Reply::new(404, "{}");
    }
    match asked.query.as_str() {
        "pageSize=1000" => Reply::new(
            200,
            &json!({"dockerImages": [image("lab", "1", &["w_1", "recommended"]), image("lab2", "2", &["w_9"])],
                "nextPageToken": "a/b="})
            .to_string(),
        ),
        "pageSize=1000&pageToken=a%2Fb%3D" if broken.fetch_add(1, Ordering::SeqCst) == 0 => {
            Reply::new(503, r#"{"error":{"message":"Authentication server unavailable"}}"#)
        }
        "pageSize=1000&pageToken=a%2Fb%3D" => Reply::new(
            200,
            &json!({"dockerImages": [image("lab", "3", &["w_3"]), image("lab", "4", &[])]}).to_string(),
        ),
        _ => Reply::new(400, "{}"),
    }
}

#[tokio::test]
async fn artifact_registry_lists_by_pages_and_one_that_fails_is_asked_for_again() {
    let broken = AtomicU32::new(0);
    let server = Server::start(move |asked: &Asked| gar(asked, &broken)).await;
    let dir = tempfile::tempdir().unwrap();
    let lists = gar_node(dir.path(), &server);
    let kept = refreshed(&lists, &wanted(GAR, ListBy::Gar)).await;
    assert_eq!(tags(&kept), "recommended+ w_1+ w_3+", "{}", why(&kept));
    assert!(kept.list.unwrap().private);
    let asked = server.asked();
    let pages = asked.iter().filter(|asked| asked.path == GAR_PATH).count();
    assert_eq!(pages, 3);
    // The registry itself was not asked.
    assert!(asked.iter().all(|asked| !asked.path.starts_with("/v2/")));
}

#[tokio::test]
async fn what_artifact_registry_refuses_has_a_fix() {
    let server = Server::start(|asked: &Asked| {
        if asked.path.starts_with("/computeMetadata/") {
            return gar(asked, &AtomicU32::new(0));
        }
        let error = json!({"error": {"code": 403, "status": "PERMISSION_DENIED", "message": "ya29.hunter2",
            "details": [{"reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}]}});
        Reply::new(403, &error.to_string())
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let lists = gar_node(dir.path(), &server);
    let why_ = why(&refreshed(&lists, &wanted(GAR, ListBy::Gar)).await);
    assert!(why_.contains("roles/artifactregistry.reader"), "{why_}");
    assert!(
        why_.contains("cloud-platform") && !why_.contains("hunter2"),
        "{why_}"
    );
    // For other names and other credentials, the message says what is wrong.
    let why_ = why(&refreshed(&lists, &wanted("r.test", ListBy::Gar)).await);
    assert!(why_.contains("is no image of Artifact Registry"), "{why_}");
    let dir = tempfile::tempdir().unwrap();
    let lists = self::lists(dir.path(), &upstream(GAR, &server, ""));
    let why_ = why(&refreshed(&lists, &wanted(GAR, ListBy::Gar)).await);
    assert!(why_.contains("identity = \"google\""), "{why_}");
}

fn ecr_node(dir: &std::path::Path, server: &Server) -> Arc<Lists> {
    let keys = dir.join("keys");
    let text = "[default]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = hunter2\n";
    std::fs::write(&keys, text).unwrap();
    let url = server.url();
    let aws = format!(
        "credentials = {{ identity = \"aws\", key_file = \"{}\", api_endpoint = \"{url}\" }}",
        keys.display()
    );
    lists(dir, &upstream(ECR, server, &aws))
}

#[tokio::test]
async fn ecr_lists_by_signed_requests() {
    let server = Server::start(|asked: &Asked| {
        let details = |of: &str, tag: &str| {
            json!([{"imageDigest": Digest::sha256(of.as_bytes()), "imageTags": [tag],
                "imageSizeInBytes": 9, "imagePushedAt": 1_700_000_000.5}])
        };
        let question: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
        let page = match question["nextToken"].as_str() {
            None => json!({"imageDetails": details("1", "w_1"), "nextToken": "more"}),
            Some("more") => json!({"imageDetails": details("2", "w_2")}),
            Some(_) => return Reply::new(400, "{}"),
        };
        Reply::new(200, &page.to_string())
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let lists = ecr_node(dir.path(), &server);
    let wanted = wanted(ECR, ListBy::Ecr);
    let kept = refreshed(&lists, &wanted).await;
    assert_eq!(tags(&kept), "w_1+ w_2+", "{}", why(&kept));
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    for asked in asked {
        let target = asked.header("x-amz-target");
        assert_eq!(
            target,
            Some("AmazonEC2ContainerRegistry_V20150921.DescribeImages")
        );
        let signed = asked.header("authorization").unwrap();
        assert!(
            signed.contains("/eu-central-1/ecr/aws4_request"),
            "{signed}"
        );
        assert!(!signed.contains("hunter2"));
        let question: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
        assert_eq!(question["registryId"], "123456789012");
        assert_eq!(question["repositoryName"], "p/r/lab");
        assert_eq!(question["filter"]["tagStatus"], "TAGGED");
    }
    // The right to pull is not the right to list. A limit in ECR's own words counts as a limit.
    let error = |kind: &'static str| {
        move |_: &Asked| {
            Reply::new(
                400,
                &json!({"__type": kind, "message": "hunter2"}).to_string(),
            )
        }
    };
    server.answer(error("com.amazonaws.ecr#AccessDeniedException"));
    let why_ = why(&refreshed(&lists, &wanted).await);
    assert!(
        why_.contains("ecr:DescribeImages") && !why_.contains("hunter2"),
        "{why_}"
    );
    let throttled = error("ThrottlingException");
    server.answer(move |asked: &Asked| throttled(asked).with("retry-after", "3000"));
    let before = server.asked().len();
    for _ in 0..3 {
        let why_ = why(&refreshed(&lists, &wanted).await);
        assert!(why_.contains("limits requests"), "{why_}");
    }
    assert_eq!(server.asked().len(), before + 1);
}

#[tokio::test]
async fn ecr_needs_an_identity_that_signs() {
    let server = Server::start(|_: &Asked| Reply::new(200, r#"{"tags":["w_1"]}"#)).await;
    let dir = tempfile::tempdir().unwrap();
    let lists = lists(dir.path(), &upstream(ECR, &server, ""));
    let why_ = why(&refreshed(&lists, &wanted(ECR, ListBy::Ecr)).await);
    assert!(why_.contains("identity = \"aws\""), "{why_}");
    assert_eq!(server.asked().len(), 0);
}

/// The public registry's API does not list the repositories of others, so the registry itself is asked.
#[tokio::test]
async fn the_public_registry_of_ecr_is_asked_itself() {
    let server = Server::start(|asked: &Asked| match asked.path.as_str() {
        PATH => Reply::new(200, r#"{"tags":["w_1"]}"#),
        _ => Reply::new(500, "{}"),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let lists = lists(dir.path(), &upstream("public.ecr.aws", &server, ""));
    let kept = refreshed(&lists, &wanted("public.ecr.aws", ListBy::Ecr)).await;
    assert_eq!(tags(&kept), "w_1", "{}", why(&kept));
}

/// The token for a list differs from the one for content, and neither is used in place of the other.
#[tokio::test]
async fn azure_lists_with_a_token_of_its_own() {
    let server = Server::start(|asked: &Asked| {
        const LIST: &str = "/acr/v1/p/r/lab/_tags";
        let (shown, host) = (asked.header("authorization"), asked.header("host"));
        let challenge = |scope: &str| {
            let realm = format!("http://{}/oauth2/token", host.unwrap());
            let value = format!("Bearer realm=\"{realm}\",service=\"{ACR}\",scope=\"{scope}\"");
            Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#)
                .with("www-authenticate", &value)
        };
        match (asked.path.as_str(), shown) {
            ("/oauth2/token", _) => {
                let scope = url::form_urlencoded::parse(asked.query.as_bytes());
                let scope = scope.filter(|(key, _)| key == "scope").last();
                let action = scope.map(|(_, scope)| scope.rsplit(':').next().unwrap().to_owned());
                let token = json!({"access_token": action.unwrap_or_default()});
                Reply::new(200, &token.to_string())
            }
            (LIST, Some("Bearer metadata_read")) => {
                let body = json!({"tags": [{"name": "w_1", "digest": Digest::sha256(b"1"),
                    "lastUpdateTime": "2023-11-14T22:13:20.1Z"}]});
                let reply = Reply::new(200, &body.to_string());
                if asked.query == "n=1000" {
                    reply.with("link", &format!("<{LIST}?last=w_1&n=1000>; rel=\"next\""))
                } else {
                    reply
                }
            }
            (LIST, _) => challenge("repository:p/r/lab:metadata_read"),
            (PATH, Some("Bearer pull")) => Reply::new(200, r#"{"tags":["w_1"]}"#),
            (PATH, _) => challenge("repository:p/r/lab:pull"),
            _ => Reply::new(404, "{}"),
        }
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let lists = lists(dir.path(), &upstream(ACR, &server, ""));
    let (acr, auto) = (wanted(ACR, ListBy::Acr), wanted(ACR, ListBy::Auto));
    for _ in 0..3 {
        let kept = refreshed(&lists, &acr).await;
        assert_eq!(tags(&kept), "w_1+", "{}", why(&kept));
        let kept = refreshed(&lists, &auto).await;
        assert_eq!(tags(&kept), "w_1", "{}", why(&kept));
    }
    let refused =
        |asked: &&Asked| asked.path != "/oauth2/token" && asked.header("authorization").is_none();
    let asked = server.asked();
    assert_eq!(
        asked.iter().filter(refused).count(),
        2,
        "one challenge each"
    );
    let wrong = asked.iter().filter(|asked| {
        let shown = asked.header("authorization");
        asked.path == PATH && shown == Some("Bearer metadata_read")
    });
    assert_eq!(wrong.count(), 0);
}
