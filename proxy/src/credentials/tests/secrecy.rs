//! No secret is ever printed: not by a value, not by an error, not by a log line at info.

use std::sync::Mutex;

use super::*;

const SECRET: &str = "hunter2-correct-horse";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn values_do_not_print_their_secrets() {
    let secret = Secret::new(SECRET);
    assert_eq!(
        format!("{secret} {secret:?} {secret:#?}"),
        "[secret] [secret] [secret]"
    );
    assert_eq!(secret.expose(), SECRET);
    let all = [basic(SECRET, SECRET), token(SECRET)];
    assert!(!format!("{all:?} {all:#?}").contains(SECRET));
}

/// Files hold the secret at unexpected places, and programs print it. No error and no log line repeats it.
#[tokio::test]
async fn no_error_and_no_log_line_holds_a_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_writer(move || writer.clone())
        .finish();
    // The test's runtime has one thread, so this holds for its tasks too.
    let _log = tracing::subscriber::set_default(subscriber);

    let node = Node::with_time(Duration::from_secs(30));
    let docker = config::Credentials::DockerConfig {
        path: node.path("config.json"),
    };
    let pair = config::Credentials::Files {
        username: node.path("username"),
        password: node.path("password"),
    };
    let helper = config::Credentials::Helper {
        name: "test".to_owned(),
    };
    let kubelet = config::Credentials::Kubelet {
        config: node.path("kubelet.yaml"),
        bin_dir: node.dir.path().to_owned(),
    };
    let image = "reg.example.com/app";
    let mut said = Vec::new();
    let mut note = |result: Result<Vec<Credential>, CredentialError>| {
        let error = result.expect_err("every one of these is broken");
        said.push(format!(
            "{error} {error:?} {error:#?} {}",
            error.fault().as_str()
        ));
    };

    for text in [
        format!("\"{SECRET}\""),
        format!("{{\"auths\": \"{SECRET}\"}}"),
        format!("{{\"auths\": {{\"reg.example.com\": {{\"auth\": [\"{SECRET}\"]}}}}}}"),
        format!("{{\"auths\": {{\"reg.example.com\": {{\"auth\": \"{SECRET}\"}}}}}}"),
        format!("{{\"auths\": {{\"reg.example.com\": {{\"password\": \"{SECRET}\\x\"}}}}}}"),
        format!("{{\"credsStore\": \"{SECRET}/x\"}}"),
    ] {
        node.write("config.json", text);
        note(node.lookup(image, &docker).await);
    }
    node.write("username", format!("me:{SECRET}"));
    node.write("password", SECRET);
    note(node.lookup(image, &pair).await);
    node.write("username", format!("{SECRET}\u{0}").into_bytes());
    node.write("password", [SECRET.as_bytes(), b"\xff"].concat());
    note(node.lookup(image, &pair).await);

    let config = |env: &str| {
        format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: cloud\n  matchImages: [\"*.example.com\"]\n  defaultCacheDuration: 1h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  args: [\"--key={SECRET}\"]\n  env: {env}\n- {{name: identity, tokenAttributes: {{audience: {SECRET}}}}}\n"
        )
    };
    for env in [
        format!("[{{name: KEY, value: [{SECRET}]}}]"),
        SECRET.to_owned(),
        format!("[{{name: KEY, value: \"{SECRET}}}]"),
    ] {
        node.write("kubelet.yaml", config(&env));
        note(node.lookup(image, &kubelet).await);
    }
    node.write(
        "kubelet.yaml",
        config(&format!("[{{name: KEY, value: {SECRET}}}]")),
    );
    for body in [
        format!("echo {SECRET}; echo {SECRET} >&2; exit 1"),
        format!("echo {SECRET}; echo {SECRET} >&2"),
        format!("echo '\"{SECRET}\"'"),
        format!("echo '{{\"kind\":\"{SECRET}\",\"Username\":[\"{SECRET}\"]}}'"),
        format!("echo {SECRET} >&2; kill -9 $$"),
    ] {
        node.script("docker-credential-test", &body);
        node.script("cloud", &body);
        note(node.lookup(image, &helper).await);
        note(node.lookup(image, &kubelet).await);
    }
    said.push(format!("{:?}", node.credentials));
    for source in [&docker, &pair, &helper, &kubelet] {
        said.extend(node.credentials.findings_of(source).await);
    }
    let providers = node.credentials.providers(&node.path("kubelet.yaml")).await;
    said.push(format!("{providers:?}"));

    assert!(said.len() > 20);
    for text in &said {
        assert!(!text.contains("hunter2"), "{text}");
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("is skipped"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}
