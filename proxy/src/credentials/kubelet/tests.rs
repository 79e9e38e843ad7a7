//! The kubelet's file, as nodes have it, and with faults.

use super::*;

const YAML: &str = r#"
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  # What a cloud's node image brings
  - name: ecr-credential-provider
    matchImages:
      - "*.dkr.ecr.*.amazonaws.com"
      - public.ecr.aws
    defaultCacheDuration: "12h"
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    args: [get-credentials, "--v=3"]
    env:
      - name: AWS_PROFILE
        value: nodes
      - name: EMPTY
  - name: workload-identity
    matchImages: ["*.azurecr.io"]
    defaultCacheDuration: 0s
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    tokenAttributes:
      serviceAccountTokenAudience: registry
      cacheType: Token
      requireServiceAccount: true
"#;

const JSON: &str = r#"
	{ "kind": "CredentialProviderConfig", "apiVersion": "kubelet.config.k8s.io/v1beta1",
	  "providers": [{
		"name": "gcp", "matchImages": ["gcr.io", "*.pkg.dev"], "defaultCacheDuration": "1m30s",
		"apiVersion": "credentialprovider.kubelet.k8s.io/v1beta1", "fieldOfTheFuture": [1]
	  }] }"#;

fn parsed(texts: &[&str]) -> Result<Providers, CredentialError> {
    let contents: Vec<Content> = texts
        .iter()
        .enumerate()
        .map(|(number, text)| Content {
            path: format!("/etc/{number}.yaml").into(),
            bytes: text.as_bytes().to_vec(),
        })
        .collect();
    Providers::parse(&contents)
}

#[test]
fn yaml_and_json_are_understood() {
    let providers = parsed(&[YAML, JSON]).unwrap();
    let [ecr, gcp] = &providers.usable[..] else {
        panic!("{providers:?}");
    };
    assert_eq!(ecr.name, "ecr-credential-provider");
    assert_eq!(ecr.api_version, "credentialprovider.kubelet.k8s.io/v1");
    assert_eq!(ecr.default_cache, Duration::from_hours(12));
    assert_eq!(ecr.args, ["get-credentials", "--v=3"]);
    assert_eq!(
        ecr.env,
        [
            ("AWS_PROFILE".to_owned(), "nodes".to_owned()),
            ("EMPTY".to_owned(), String::new())
        ]
    );
    assert_eq!(gcp.default_cache, Duration::from_secs(90));
    let image = Image {
        registry: "europe.pkg.dev".parse().unwrap(),
        repository: "team/app".parse().unwrap(),
    };
    assert!(gcp.is_for(&image) && !ecr.is_for(&image));
}

#[test]
fn a_plugin_that_wants_a_pods_token_is_skipped_and_named() {
    assert_eq!(
        parsed(&[YAML]).unwrap().findings,
        [
            "/etc/0.yaml: the provider \"workload-identity\" is skipped: its `tokenAttributes` want a service account token of the pod, which larder does not have; let pods bring their own pull secrets, or configure it without"
        ]
    );
}

#[test]
fn what_the_kubelet_refuses_is_refused() {
    for (from, to, expected) in [
        (
            "kind: CredentialProviderConfig",
            "kind: KubeletConfiguration",
            "`kind` must be CredentialProviderConfig: is this the right file?",
        ),
        (
            "apiVersion: kubelet.config.k8s.io/v1",
            "apiVersion: kubelet.config.k8s.io/v9",
            "`apiVersion` must be kubelet.config.k8s.io/v1 or kubelet.config.k8s.io/v1beta1 or kubelet.config.k8s.io/v1alpha1",
        ),
        (
            "name: ecr-credential-provider",
            "name: ../ecr",
            "a provider's `name` must be the name of an executable, without directory and spaces",
        ),
        (
            "name: workload-identity",
            "name: ecr-credential-provider",
            "two providers are called \"ecr-credential-provider\": rename one",
        ),
        (
            "defaultCacheDuration: \"12h\"",
            "defaultCacheDuration: \"-12h\"",
            "the provider \"ecr-credential-provider\": `defaultCacheDuration` must be a time such as \"12h\" or \"0s\"",
        ),
        (
            "    defaultCacheDuration: \"12h\"\n",
            "",
            "the provider \"ecr-credential-provider\": `defaultCacheDuration` must be a time such as \"12h\" or \"0s\"",
        ),
        (
            "    apiVersion: credentialprovider.kubelet.k8s.io/v1\n    args",
            "    args",
            "the provider \"ecr-credential-provider\": `apiVersion` must be credentialprovider.kubelet.k8s.io/v1 or credentialprovider.kubelet.k8s.io/v1beta1 or credentialprovider.kubelet.k8s.io/v1alpha1",
        ),
        (
            "    matchImages:\n      - \"*.dkr.ecr.*.amazonaws.com\"\n      - public.ecr.aws\n",
            "",
            "the provider \"ecr-credential-provider\": `matchImages` must name at least one image",
        ),
        (
            "\"--v=3\"]",
            "\"--v=3\"}",
            "not YAML of a CredentialProviderConfig: fix it at line 12, column 11",
        ),
    ] {
        assert!(YAML.contains(from), "{from}");
        let text = YAML.replacen(from, to, 1);
        let error = parsed(&[&text]).expect_err(to).to_string();
        assert_eq!(error, format!("/etc/0.yaml: {expected}"));
    }
    let error = parsed(&["{\"kind\": 1}"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/etc/0.yaml: JSON, but not of the expected form, at line 1, column 10: fix it there"
    );
    let error = parsed(&[JSON, JSON]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/etc/1.yaml: two providers are called \"gcp\": rename one"
    );
}

#[test]
fn a_hostile_file_is_refused_not_fatal() {
    use std::fmt::Write as _;
    parsed(&[&"[".repeat(200_000)]).unwrap_err();
    parsed(&[&format!("{{\"providers\":{}", "[".repeat(200_000))]).unwrap_err();
    let mut laughs = "a0: &a0 [x, x]\n".to_owned();
    for level in 1..40 {
        let below = level - 1;
        writeln!(laughs, "a{level}: &a{level} [*a{below}, *a{below}]").unwrap();
    }
    parsed(&[&laughs]).unwrap_err();
}

#[test]
fn a_directory_is_read_in_the_order_of_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let none = read(dir.path()).err().unwrap().to_string();
    assert_eq!(
        none,
        format!(
            "{}: holds no *.json, *.yaml or *.yml: name the kubelet's --image-credential-provider-config",
            dir.path().display()
        )
    );
    for (name, text) in [("b.json", JSON), ("a.yaml", YAML), ("c.txt", "?")] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let providers = Providers::parse(&read(dir.path()).unwrap()).unwrap();
    let names: Vec<&str> = providers.usable.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["ecr-credential-provider", "gcp"]);
}

#[test]
fn times_are_read_as_go_writes_them() {
    let positive = |text| go_duration(text).and_then(GoDuration::positive);
    for (text, millis) in [
        ("0", 0),
        ("0s", 0),
        ("-0s", 0),
        ("12h", 43_200_000),
        ("12h0m0s", 43_200_000),
        ("1.5h", 5_400_000),
        (".5s", 500),
        ("1m30s", 90_000),
        ("250ms", 250),
        ("1500us", 1),
        ("1500µs", 1),
        ("2000000ns", 2),
        ("+3s", 3_000),
    ] {
        let found = positive(text).map(|time| time.as_millis());
        assert_eq!(found, Some(millis), "{text}");
    }
    for text in [
        "", "-", "12", "1h0", "h", "1d", "1 h", "1.2.3s", ".s", "1h-5m", "1e3s", "nan",
    ] {
        assert_eq!(go_duration(text), None, "{text}");
    }
    assert!(go_duration("-1s").is_some());
    assert_eq!(positive("-1s"), None);
}
