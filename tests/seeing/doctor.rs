//! `larder doctor`: every planted fault is found with its mend, and nothing on a healthy node.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use larder_tests::fake::{FakeRegistry, Fault, Match};
use larder_tests::http::Call;
use larder_tests::members::{Cluster, FakePeer, Manner};
use larder_tests::node::Node;
use larder_tests::scene::eventually;
use larder_tests::schemas::assert_schema;
use serde_json::Value;
use tempfile::TempDir;

/// What the command says beside a containerd that is set up well.
async fn doctor(node: &Node) -> Vec<Value> {
    Runtime::of(node).doctor(node).await
}

/// What the command says, and that its exit code agrees.
async fn run(node: &Node, arguments: &[&str]) -> Vec<Value> {
    let arguments = [&["doctor", "--json"], arguments].concat();
    let output = node.cli(&arguments).await;
    let diagnosis: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}\n{}", node.log()));
    assert_schema(&diagnosis, "doctor");
    let findings = diagnosis["findings"].as_array().unwrap().clone();
    let wrong: Vec<_> = findings
        .into_iter()
        .filter(|finding| finding["severity"] != "ok")
        .collect();
    let code = if wrong.is_empty() { 0 } else { 3 };
    assert_eq!(output.status.code(), Some(code), "{wrong:#?}");
    wrong
}

/// The checks that found something, once each.
fn checks(wrong: &[Value]) -> Vec<&str> {
    let mut checks: Vec<_> = wrong.iter().map(|f| f["check"].as_str().unwrap()).collect();
    checks.sort_unstable();
    checks.dedup();
    checks
}

/// A finding of this check with these words in what was found and in its mend.
#[track_caller]
fn finds(wrong: &[Value], check: &str, found: &str, mend: &str) {
    let holds = |finding: &&Value| {
        let says = |what: &str, words: &str| finding[what].as_str().unwrap().contains(words);
        finding["check"] == check && says("found", found) && says("mend", mend)
    };
    assert!(
        wrong.iter().any(|finding| holds(&finding)),
        "{check}: {found}: {mend}\nis not in {wrong:#?}"
    );
}

/// containerd's files, right unless they are spoilt.
struct Runtime {
    dir: TempDir,
}

impl Runtime {
    fn of(node: &Node) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Self { dir };
        let certs = runtime.certs();
        runtime.configure(&certs.display().to_string());
        runtime.host("_default", &section(&node.url(), ""));
        runtime
    }

    fn certs(&self) -> PathBuf {
        self.dir.path().join("certs.d")
    }

    fn configure(&self, config_path: &str) {
        let text = format!(
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = {config_path:?}\n"
        );
        fs::write(self.dir.path().join("config.toml"), text).unwrap();
    }

    fn host(&self, name: &str, text: &str) {
        let dir = self.certs().join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("hosts.toml"), text).unwrap();
    }

    /// The flags that say where they lie.
    fn flags(&self) -> [String; 2] {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        [
            format!("--containerd-certs-dir={}", path("certs.d")),
            format!("--containerd-config={}", path("config.toml")),
        ]
    }

    async fn doctor(&self, node: &Node) -> Vec<Value> {
        let [certs, config] = self.flags();
        run(node, &[&certs, &config]).await
    }
}

fn section(url: &str, more: &str) -> String {
    format!("[host.\"{url}\"]\ncapabilities = [\"pull\", \"resolve\"]\n{more}\n")
}

#[tokio::test]
async fn a_healthy_node_has_no_findings() {
    let fake = FakeRegistry::start().await;
    let node = Node::builder().upstream(&fake).start().await;
    let runtime = Runtime::of(&node);
    assert_eq!(runtime.doctor(&node).await, Vec::<Value>::new());
    // Each check was made, and is told to who asks for all.
    let [certs, config] = runtime.flags();
    let all = node.cli(&["doctor", "--all", &certs, &config]).await;
    let all = String::from_utf8_lossy(&all.stdout).into_owned();
    for check in [
        "daemon",
        "ports",
        "config",
        "sources",
        "store",
        "rot",
        "disk",
        "inodes",
        "permissions",
        "limits",
        "clock",
        "dns",
        "upstream",
    ] {
        assert!(
            all.contains(&format!("ok       {check}: ")),
            "{check}: {all}"
        );
    }
    assert!(all.contains("nothing is wrong"), "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_cluster_has_no_findings_and_its_faults_are_found() {
    let fake = FakeRegistry::start().await;
    let mut cluster = Cluster::of(2).upstream(&fake).start().await;
    assert_eq!(doctor(cluster.node(0)).await, Vec::<Value>::new());
    cluster.node_mut(1).kill9().await;
    let wrong = doctor(cluster.node(0)).await;
    assert_eq!(checks(&wrong), ["members"], "{wrong:#?}");
    let gone = cluster.peer_address(1).to_string();
    finds(&wrong, "members", &gone, "NetworkPolicy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_another_version_and_one_that_refuses_are_found() {
    let fake = FakeRegistry::start().await;
    let plan = Cluster::of(1).stranger(1).upstream(&fake);
    let authority = plan.authority();
    let tls = authority.server(&authority.member());
    let other = FakePeer::start(plan.address(1), Some(tls), Manner::Honest).await;
    let cluster = plan.start().await;
    let wrong = doctor(cluster.node(0)).await;
    assert_eq!(checks(&wrong), ["version"], "{wrong:#?}");
    let address = cluster.peer_address(1).to_string();
    finds(&wrong, "version", &address, "rollout");
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_among_the_members_is_found() {
    let fake = FakeRegistry::start().await;
    let cluster = Cluster::of(1).tls_off().upstream(&fake).start().await;
    // It listens on all of its addresses, and none of them is on the list.
    let config = format!(
        "[cluster]\nlisten = \"0.0.0.0:0\"\nmembers = [\"{}\"]\ntls = \"off\"\n",
        cluster.peer_address(0)
    );
    let node = Node::builder().upstream(&fake).config(config).start().await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["members"], "{wrong:#?}");
    finds(&wrong, "members", "not among the members", "advertise");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_whose_time_is_over_is_found() {
    let fake = FakeRegistry::start().await;
    let plan = Cluster::of(1).upstream(&fake);
    let authority = std::sync::Arc::clone(plan.authority());
    let cluster = plan.start().await;
    assert_eq!(doctor(cluster.node(0)).await, Vec::<Value>::new());
    let text = fs::read_to_string(cluster.node(0).config_file()).unwrap();
    let at = text.split('"').find(|part| part.ends_with("/cert.pem"));
    let dir = Path::new(at.expect("a certificate")).parent().unwrap();
    authority.expired().write(&authority, dir);
    let wrong = doctor(cluster.node(0)).await;
    finds(&wrong, "certificate", "not valid now", "renew");
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_found() {
    let fake = FakeRegistry::start().await;
    let mut node = Node::builder().upstream(&fake).start().await;
    node.terminate();
    node.wait().await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["daemon"]);
    finds(&wrong, "daemon", "admin.sock", "start it");
}

#[tokio::test]
async fn what_keeps_containerd_from_larder_is_found() {
    let fake = FakeRegistry::start().await;
    let node = Node::builder().upstream(&fake).start().await;
    let url = node.url();
    let larder = section(&url, "");

    // Its own configuration.
    let runtime = Runtime::of(&node);
    runtime.configure("");
    let wrong = runtime.doctor(&node).await;
    finds(&wrong, "runtime", "sets no config_path", "config_path = ");
    let certs = runtime.certs().display().to_string();
    runtime.configure(&format!("{certs}:/etc/docker/certs.d"));
    let wrong = runtime.doctor(&node).await;
    assert_eq!(checks(&wrong), ["runtime"]);
    finds(&wrong, "runtime", "find no hosts.toml", "config_path = ");

    // The files.
    for (name, text, found, mend) in [
        (
            "_default",
            String::new(),
            "does not name larder",
            "larder install",
        ),
        (
            "_default",
            "[host".to_owned(),
            "ignores it",
            "mend the file",
        ),
        (
            "_default",
            format!("{}{larder}", section("https://mirror.example", "")),
            "is asked before larder",
            "move larder's section",
        ),
        (
            "_default",
            format!("server = \"{url}\"\n{larder}"),
            "nothing can be pulled while larder is down",
            "`server`",
        ),
        (
            "_default",
            section(&url, "skip_verify = true"),
            "tries TLS",
            "remove",
        ),
        (
            "_default",
            format!("[host.\"{url}\"]\ncapabilities = [\"pull\"]\n"),
            "lack pull or resolve",
            "capabilities",
        ),
        (
            "_default",
            section(&url.replace("http:", "https:"), ""),
            "plain HTTP",
            "http://",
        ),
        (
            "ghcr.io",
            section("https://mirror.example", ""),
            "hides _default",
            "larder install --registry ghcr.io",
        ),
    ] {
        let runtime = Runtime::of(&node);
        runtime.host(name, &text);
        let wrong = runtime.doctor(&node).await;
        assert_eq!(checks(&wrong), ["hosts"], "{text}: {wrong:#?}");
        finds(&wrong, "hosts", found, mend);
    }
    let runtime = Runtime::of(&node);
    fs::create_dir(runtime.certs().join("r.example_5000_")).unwrap();
    let wrong = runtime.doctor(&node).await;
    finds(
        &wrong,
        "hosts",
        "hides _default",
        "--registry r.example:5000",
    );
    fs::remove_dir_all(runtime.certs()).unwrap();
    let wrong = runtime.doctor(&node).await;
    finds(
        &wrong,
        "hosts",
        "every pull goes past larder",
        "larder install",
    );
}

#[tokio::test]
async fn somebody_else_on_the_port_and_a_source_that_is_refused_are_found() {
    let fake = FakeRegistry::start().await;
    let node = Node::builder()
        .upstream(&fake)
        .config("[registry]\nallow_from = [\"192.0.2.1\"]\n")
        .start()
        .await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["ports", "sources"], "{wrong:#?}");
    finds(&wrong, "ports", "refuses this node", "allow_from");
    finds(&wrong, "sources", "not this node's", "allow_from");

    let node = Node::builder().upstream(&fake).start().await;
    let runtime = Runtime::of(&node);
    let dir = runtime.certs().display().to_string();
    fs::remove_dir_all(runtime.certs()).unwrap();
    let install = ["install", "--containerd-certs-dir", &dir, "--address"];
    let done = node.cli(&[&install[..], &[&fake.url()]].concat()).await;
    assert!(done.status.success(), "{done:?}");
    let wrong = runtime.doctor(&node).await;
    assert_eq!(checks(&wrong), ["ports"], "{wrong:#?}");
    finds(&wrong, "ports", "it is not larder", "what listens there");
}

#[tokio::test]
async fn an_upstream_that_is_down_or_none_or_limits_is_found() {
    let fake = FakeRegistry::start().await;
    let mirror = FakeRegistry::start().await;
    let (url, second) = (fake.url(), mirror.url());
    let config = format!("[upstreams.\"r.example\"]\nendpoints = [{second:?}, {url:?}]\n");
    let node = Node::builder().config(config).start().await;
    let armed = fake.fault(Match::ping(), Fault::status(404));
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["upstream"]);
    finds(&wrong, "upstream", "404", "endpoints");
    armed.lift();

    mirror.stop().await;
    let wrong = doctor(&node).await;
    assert_eq!(wrong[0]["severity"], "warning", "the origin is there");
    finds(&wrong, "upstream", &mirror.host(), "firewalls");
    fake.stop().await;
    let wrong = doctor(&node).await;
    assert!(wrong.iter().any(|f| f["severity"] == "error"), "{wrong:#?}");

    fake.start_again().await;
    mirror.start_again().await;
    let limited = Fault::Status {
        code: 429,
        headers: vec![("Retry-After".to_owned(), "600".to_owned())],
        body: Bytes::new(),
    };
    fake.fault(Match::any(), limited);
    mirror.fault(Match::any(), Fault::status(404));
    let pull = format!("{}/v2/team/app/manifests/v1?ns=r.example", node.url());
    Call::get(pull).send().await.unwrap();
    fake.reset_counts();
    let wrong = doctor(&node).await;
    finds(&wrong, "upstream", "limits requests", "quota");
    assert_eq!(fake.count(|_| true), 0, "it asked to be left alone");
}

#[tokio::test]
async fn a_name_that_nobody_knows_and_a_clock_that_is_wrong_are_found() {
    let fake = FakeRegistry::start().await;
    let node = Node::builder()
        .upstream(&fake)
        .upstream_at("r.example", "http://no-such-name.invalid")
        .start()
        .await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["dns", "upstream"], "{wrong:#?}");
    finds(&wrong, "dns", "no-such-name.invalid", "dnsPolicy");

    let past = Fault::Status {
        code: 200,
        headers: vec![("Date".into(), "Sun, 06 Nov 1994 08:49:37 GMT".into())],
        body: Bytes::new(),
    };
    fake.fault(Match::ping(), past);
    let node = Node::builder().upstream(&fake).start().await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["clock"], "{wrong:#?}");
    finds(&wrong, "clock", "ahead of", "chronyc");
}

#[tokio::test]
async fn credentials_that_are_missing_or_refused_are_found_and_never_shown() {
    let fake = FakeRegistry::start().await;
    fake.put_blob("team/app", "x");
    fake.require_bearer("team/app", &[("node", "right-pw-1234")]);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let config = format!(
        "[upstreams.{:?}]\nendpoints = [{:?}]\ncredentials = {{ username_file = {:?}, password_file = {:?} }}\n",
        fake.host(),
        fake.url(),
        path("user"),
        path("password"),
    );
    let node = Node::builder().config(config).start().await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["credentials"], "{wrong:#?}");
    finds(&wrong, "credentials", "user", "mend");

    let put = |name: &str, text: &str| {
        fs::write(path(name), text).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
    };
    put("user", "node");
    put("password", "wrong-pw-1234");
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["credentials"], "{wrong:#?}");
    finds(&wrong, "credentials", "refuses them", "new ones");
    assert!(!format!("{wrong:?}").contains("wrong-pw"), "{wrong:?}");

    put("password", "right-pw-1234");
    assert_eq!(doctor(&node).await, Vec::<Value>::new());
    let all = node.admin("/doctor").await.to_string();
    assert!(
        all.contains("accepted") && !all.contains("right-pw"),
        "{all}"
    );

    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(path("password"), fs::Permissions::from_mode(0o644)).unwrap();
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["permissions"], "{wrong:#?}");
    finds(&wrong, "permissions", &path("password"), "chmod");
}

#[tokio::test]
async fn a_configuration_that_is_not_in_force_is_found() {
    let fake = FakeRegistry::start().await;
    let node = Node::builder()
        .upstream(&fake)
        .config("[tags]\ntimeout = \"1s\"\n")
        .start()
        .await;
    assert_eq!(doctor(&node).await, Vec::<Value>::new());
    fs::write(node.config_file(), "[tags]\ntimeuot = \"1s\"\n").unwrap();
    eventually("it is read again", || node.log().contains("timeuot")).await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["config"], "{wrong:#?}");
    finds(&wrong, "config", "timeuot", "larder config check");
}

#[tokio::test]
async fn faults_of_the_machine_are_found() {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_blob("team/app", vec![7; 100_000]);
    let node = Node::builder()
        .upstream(&fake)
        .config("[store]\nmin_free = \"1000TiB\"\n")
        .start()
        .await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["disk"], "{wrong:#?}");
    finds(&wrong, "disk", "min_free", "make room");

    let node = Node::builder().upstream(&fake).start().await;
    let pid = node.pid().to_string();
    let limited = Command::new("prlimit")
        .args(["--pid", &pid, "--nofile=512:512"])
        .status();
    assert!(limited.unwrap().success());
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["limits"], "{wrong:#?}");
    finds(&wrong, "limits", "512 files", "LimitNOFILE");

    let node = Node::builder().upstream(&fake).start().await;
    let key = node.store().join("grants.key");
    fs::set_permissions(node.store(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(
        key.parent().unwrap().parent().unwrap(),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    fs::set_permissions(key, fs::Permissions::from_mode(0o644)).unwrap();
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["permissions"], "{wrong:#?}");
    finds(&wrong, "permissions", "grants.key", "0600");

    let node = Node::builder().upstream(&fake).start().await;
    let blob = format!(
        "{}/v2/team/app/blobs/{digest}?ns={}",
        node.url(),
        fake.host()
    );
    Call::get(blob).send().await.unwrap();
    until_listed(&node, &digest).await;
    let (_, hex) = digest.split_once(':').unwrap();
    let file = node.store().join("blobs/sha256").join(&hex[..2]).join(hex);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, vec![8; 100_000]).unwrap();
    node.cli(&["verify"]).await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["rot"], "{wrong:#?}");
    finds(&wrong, "rot", "damaged", "replace it");
}

/// Waits until the node knows that it has this blob, which is a moment after its file is there.
async fn until_listed(node: &Node, digest: &str) {
    for _ in 0..1000 {
        if node.admin("/blobs").await.to_string().contains(digest) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{digest} is not listed");
}

#[tokio::test]
async fn an_object_store_that_fails_is_found() {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_blob("team/app", vec![7; 100_000]);
    let node = Node::builder()
        .upstream(&fake)
        .config("[cluster.object_store]\nurl = \"file:///proc\"\n")
        .start()
        .await;
    assert_eq!(doctor(&node).await, Vec::<Value>::new());
    let blob = format!(
        "{}/v2/team/app/blobs/{digest}?ns={}",
        node.url(),
        fake.host()
    );
    Call::get(blob).send().await.unwrap();
    let mut wrong = Vec::new();
    for _ in 0..200 {
        wrong = doctor(&node).await;
        if !wrong.is_empty() {
            break;
        }
    }
    assert_eq!(checks(&wrong), ["object-store"], "{wrong:#?}");
    finds(&wrong, "object-store", "file:///proc", "bucket");
}
