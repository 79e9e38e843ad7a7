//! The kubelet's plugins as real processes.

use std::fmt::Write as _;

use super::*;

const V1: &str = "credentialprovider.kubelet.k8s.io/v1";

/// A configuration with one provider `name` for each pattern, with further lines `more`.
fn configure(node: &Node, providers: &[(&str, &str, &str)]) -> config::Credentials {
    let mut text =
        "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n"
            .to_owned();
    for (name, pattern, more) in providers {
        writeln!(
            text,
            "- name: {name}\n  matchImages: [\"{pattern}\"]\n  apiVersion: {V1}\n  {more}"
        )
        .unwrap();
    }
    config::Credentials::Kubelet {
        config: node.write("kubelet.yaml", text),
        bin_dir: node.dir.path().to_owned(),
    }
}

const HOUR: &str = "defaultCacheDuration: 1h";

/// A plugin that records each image it is asked about, and answers with the image as the username.
fn plugin(node: &Node, name: &str, fields: &str, pattern: &str) {
    let answer = format!(
        "{{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"{V1}\",{fields},\"auth\":{{\"{pattern}\":{{\"username\":\"'$image'\",\"password\":\"p\"}}}}}}"
    );
    node.script(
        name,
        &format!(
            "image=$(sed -n 's/.*\"image\":\"\\([^\"]*\\)\".*/\\1/p')\necho \"$image\" >> calls\nwhile [ -e wait ]; do sleep 0.01; done\necho '{answer}'"
        ),
    );
}

#[tokio::test]
async fn a_plugin_is_asked_as_the_kubelet_asks() {
    let node = Node::new();
    let key = json_key();
    let answer = serde_json::json!({
        "kind": "CredentialProviderResponse", "apiVersion": V1, "cacheKeyType": "Registry",
        "auth": {
            "*.example.com": {"username": "glob", "password": "1"},
            "reg.example.com:5000/team": {"username": "_json_key", "password": key},
            "other.example.com": {"username": "other", "password": "2"},
            "reg.example.com:5000": {"username": "", "password": ""},
        },
    });
    node.write("answer", answer.to_string());
    node.script(
        "cloud",
        "cat > request; echo \"$@\" > args; echo \"$GREETING $HOME\" > env; exec cat answer",
    );
    let source = configure(
        &node,
        &[(
            "cloud",
            "*.example.com:5000",
            "defaultCacheDuration: 0s\n  args: [get, \"a b\"]\n  env: [{name: GREETING, value: hello}]",
        )],
    );
    let image = "reg.example.com:5000/team/app";
    assert_eq!(
        node.lookup(image, &source).await,
        Ok(vec![basic("_json_key", &key)])
    );
    let request: serde_json::Value =
        serde_json::from_slice(&fs::read(node.path("request")).unwrap()).unwrap();
    assert_eq!(
        request,
        serde_json::json!({"kind": "CredentialProviderRequest", "apiVersion": V1, "image": image})
    );
    assert_eq!(node.lines("args"), ["get a b"]);
    // The environment is larder's own, with the configured variables on top.
    let home = std::env::var("HOME").unwrap_or_default();
    assert_eq!(node.lines("env"), [format!("hello {home}").trim_end()]);
    // The first image is not for this plugin, and the second is not for these credentials.
    assert_eq!(
        node.lookup("docker.io/library/nginx", &source).await,
        Ok(vec![])
    );
    assert_eq!(
        node.lookup("reg.example.com:5000/other", &source).await,
        Ok(vec![])
    );
}

#[tokio::test]
async fn answers_are_kept_for_what_and_as_long_as_they_say() {
    let images = [
        "a.example.com/one",
        "a.example.com/two",
        "b.example.com/one",
    ];
    for (fields, default, expected) in [
        ("\"cacheKeyType\":\"Image\"", HOUR, &images[..]),
        (
            "\"cacheKeyType\":\"Registry\"",
            HOUR,
            &[images[0], images[2]],
        ),
        ("\"cacheKeyType\":\"Global\"", HOUR, &images[..1]),
        (
            "\"cacheKeyType\":\"Global\",\"cacheDuration\":\"1h0m0s\"",
            "defaultCacheDuration: 0s",
            &images[..1],
        ),
    ] {
        let node = Node::new();
        plugin(&node, "cloud", fields, "*.example.com");
        let source = configure(&node, &[("cloud", "*.example.com", default)]);
        for _ in 0..3 {
            for image in images {
                assert_eq!(node.lookup(image, &source).await.unwrap().len(), 1);
            }
        }
        assert_eq!(node.lines("calls"), expected, "{fields}");
    }
    for (fields, default) in [
        ("\"cacheKeyType\":\"Global\"", "defaultCacheDuration: 0s"),
        ("\"cacheKeyType\":\"Global\",\"cacheDuration\":\"0s\"", HOUR),
        (
            "\"cacheKeyType\":\"Global\",\"cacheDuration\":\"-5m\"",
            HOUR,
        ),
    ] {
        let node = Node::new();
        plugin(&node, "cloud", fields, "*.example.com");
        let source = configure(&node, &[("cloud", "*.example.com", default)]);
        for calls in 1..=3 {
            node.lookup(images[0], &source).await.unwrap();
            assert_eq!(node.lines("calls").len(), calls, "{fields}");
        }
    }
}

#[tokio::test]
async fn an_answer_ends_with_its_time_and_with_its_configuration() {
    let node = Node::new();
    plugin(
        &node,
        "cloud",
        "\"cacheKeyType\":\"Global\",\"cacheDuration\":\"20ms\"",
        "*.example.com",
    );
    let image = "a.example.com/app";
    let source = configure(&node, &[("cloud", "*.example.com", HOUR)]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while node.lines("calls").len() < 2 {
        assert!(Instant::now() < deadline);
        node.lookup(image, &source).await.unwrap();
    }

    plugin(
        &node,
        "cloud",
        "\"cacheKeyType\":\"Global\"",
        "*.example.com",
    );
    let source = configure(
        &node,
        &[("cloud", "*.example.com", "defaultCacheDuration: 2h")],
    );
    fs::remove_file(node.path("calls")).unwrap();
    for _ in 0..2 {
        node.lookup(image, &source).await.unwrap();
    }
    assert_eq!(node.lines("calls").len(), 1);
    let more = "defaultCacheDuration: 2h\n  args: [other-account]";
    let source = configure(&node, &[("cloud", "*.example.com", more)]);
    node.lookup(image, &source).await.unwrap();
    assert_eq!(node.lines("calls").len(), 2);
}

#[tokio::test]
async fn simultaneous_askers_share_a_run_and_may_leave() {
    for (scope, calls) in [("Registry", 1), ("Global", 1), ("Image", 8)] {
        let node = Node::new();
        node.write("wait", "");
        plugin(
            &node,
            "cloud",
            &format!("\"cacheKeyType\":\"{scope}\""),
            "*.example.com",
        );
        let source = configure(&node, &[("cloud", "*.example.com", HOUR)]);
        let images: Vec<String> = (0..8).map(|n| format!("a.example.com/app{n}")).collect();
        let left = node.lookup(&images[0], &source);
        let started = node.until_lines("calls", 1);
        tokio::select! {
            _ = left => panic!("the plugin waits"),
            () = started => {}
        }
        let askers = images.iter().map(|image| node.lookup(image, &source));
        let askers = futures_util::future::join_all(askers);
        let release = async {
            // If there were a second run, it would start now.
            let second =
                tokio::time::timeout(Duration::from_millis(200), node.until_lines("calls", 2));
            assert!(second.await.is_err(), "{scope}");
            fs::remove_file(node.path("wait")).unwrap();
        };
        let (found, ()) = tokio::join!(askers, release);
        for (image, found) in images.iter().zip(found) {
            // An answer for many images names the image in the question.
            let asked = if scope == "Image" { image } else { &images[0] };
            assert_eq!(found, Ok(vec![basic(asked, "p")]), "{scope}");
        }
        assert_eq!(node.lines("calls").len(), calls, "{scope}");
    }
}

#[tokio::test]
async fn a_plugin_that_answers_badly_is_named() {
    let head = format!("\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"{V1}\"");
    for (answer, expected) in [
        (
            "hunter2",
            "did not answer in the plugins' format: not JSON, at line 1, column 1: is it the right program?",
        ),
        (
            "{}",
            "its answer's `kind` is not CredentialProviderResponse",
        ),
        (
            "{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1beta1\"}",
            "its answer's `apiVersion` is not credentialprovider.kubelet.k8s.io/v1: configure the one that it speaks",
        ),
        (
            &format!("{{{head},\"cacheKeyType\":\"Pod\"}}"),
            "its answer's `cacheKeyType` is not Image, Registry or Global",
        ),
        (
            &format!("{{{head},\"cacheKeyType\":\"Image\",\"cacheDuration\":\"soon\"}}"),
            "its answer's `cacheDuration` is not a time such as \"12h\"",
        ),
        (
            &format!("{{{head},\"cacheKeyType\":\"Image\",\"auth\":{{\"a\":\"hunter2\"}}}}"),
            "did not answer in the plugins' format: JSON, but not of the expected form, at line 1, column 133: is it the right program?",
        ),
    ] {
        let node = Node::new();
        node.write("answer", answer);
        node.script("cloud", "exec cat answer");
        let source = configure(&node, &[("cloud", "*.example.com", HOUR)]);
        assert_eq!(
            node.refused("a.example.com/app", &source).await,
            format!("cloud: {expected}")
        );
    }
}

#[tokio::test]
async fn others_make_up_for_a_plugin_that_fails() {
    let node = Node::new();
    node.script("broken", "exit 1");
    plugin(
        &node,
        "cloud",
        "\"cacheKeyType\":\"Image\"",
        "*.example.com",
    );
    let providers = [
        ("broken", "*.example.com", HOUR),
        ("cloud", "a.example.com", HOUR),
    ];
    let source = configure(&node, &providers);
    assert_eq!(
        node.lookup("a.example.com/app", &source).await,
        Ok(vec![basic("a.example.com/app", "p")])
    );
    let error = node.lookup("b.example.com/app", &source).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Program);
    assert_eq!(error.place(), node.path("broken").display().to_string());
}

#[tokio::test]
async fn a_plugin_that_hangs_is_late_and_the_doctor_names_what_is_missing() {
    let node = Node::with_time(Duration::from_secs(2));
    node.script("cloud", "echo $$ > pid; exec sleep 1000");
    let wants_token =
        "defaultCacheDuration: 1h\n  tokenAttributes: {serviceAccountTokenAudience: a}";
    let source = configure(
        &node,
        &[
            ("cloud", "*.example.com", HOUR),
            ("absent", "absent.example.com", HOUR),
            ("identity", "pod.example.com", wants_token),
        ],
    );
    let error = node.lookup("a.example.com/app", &source).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Timeout);
    let pid = &node.lines("pid")[0];
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists());

    // No provider is for this image, so there are no node credentials.
    assert_eq!(
        node.lookup("pod.example.org/app", &source).await,
        Ok(vec![])
    );
    let findings = node.credentials.findings_of(&source).await;
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[0].contains("the provider \"identity\" is skipped"));
    assert_eq!(
        findings[1],
        format!(
            "{}: does not exist: put the plugin there",
            node.path("absent").display()
        )
    );
}
