//! What a node reports about its cluster, and what happens to a port whose section is removed from the configuration.

use std::fs;
use std::time::{Duration, Instant};

use larder_tests::fake::FakeRegistry;
use larder_tests::http::Call;
use larder_tests::image::build;
use larder_tests::members::Cluster;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{REPOSITORY, beside, layers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_peers_show_the_members_and_what_went_between_them() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[9]));
    let cluster = Cluster::of(3).upstream(&fake).start().await;
    for number in 0..2 {
        let door = cluster.door(number, &fake, REPOSITORY);
        door.pull("v1", &image).await.expect("an image");
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    let status = cluster.node(1).admin("/status").await;
    let members = status["cluster"]["members"].as_array().expect("members");
    assert_eq!(members.len(), 3);
    let own: Vec<_> = members.iter().filter(|m| m["own"] == true).collect();
    assert_eq!(own.len(), 1);
    assert_eq!(own[0]["address"], cluster.peer_address(1).to_string());
    let bytes = |what: &str| status["cluster"][what].as_u64().expect("bytes");
    assert!(bytes("received_bytes") > 0, "{status}");
    // The root of each run has sent it. Sent bytes are counted when the request is over.
    let mut sent = 0;
    while sent < bytes("received_bytes") {
        sent = 0;
        for number in [0, 2] {
            let status = cluster.node(number).admin("/status").await;
            sent += status["cluster"]["sent_bytes"].as_u64().expect("bytes");
        }
        assert!(Instant::now() < deadline, "{sent} bytes: {status}");
    }

    let said = cluster.node(1).cli(&["peers"]).await;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success(), "{text}");
    for number in 0..3 {
        let address = cluster.peer_address(number).to_string();
        assert!(text.contains(&address), "{text}");
    }
    assert_eq!(text.matches("this node").count(), 1, "{text}");
    let json = cluster.node(1).cli(&["peers", "--json"]).await;
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["members"].as_array().map(Vec::len), Some(3));
    let said = cluster.node(1).cli(&["status"]).await;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(text.contains("3 members, 3 of them ok"), "{text}");
}

/// A node's request to another member for a client has the client's request id, and is a child span in its trace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_has_the_same_ids_on_all_nodes() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[9]));
    let cluster = Cluster::of(2).upstream(&fake).start().await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let node = cluster.node(0);
    let digest = &image.layers[0].digest;
    let url = format!(
        "{}/v2/{REPOSITORY}/blobs/{digest}?ns={}",
        node.url(),
        fake.host()
    );
    let answer = Call::get(url)
        .header("x-request-id", "pull-7")
        .header("traceparent", &format!("00-{trace}-b7ad6b7169203331-01"))
        .send();
    assert!(answer.await.expect("an answer").complete);
    // A layer of 9 MiB has three runs, and every request between members is logged once it is over.
    let own = node.log();
    let own = own.lines().find(|line| line.contains("port=\"registry\""));
    let ids = |line: &str| {
        let (_, ids) = line.split_once("request_id=").expect("ids");
        let words: Vec<&str> = ids.split_whitespace().take(3).collect();
        let [request, trace, span] = words[..].try_into().expect("three ids");
        [request, trace, span].map(str::to_owned)
    };
    let [_, _, span] = ids(own.expect("its line"));
    let theirs = || {
        let log = cluster.node(1).log();
        let lines = log.lines().filter(|line| line.contains("port=\"root\""));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    larder_tests::scene::eventually("a line there", || !theirs().is_empty()).await;
    for line in theirs() {
        let [request, their_trace, step] = ids(&line);
        assert_eq!(request, "\"pull-7\"");
        assert_eq!(their_trace, format!("trace_id={trace}"));
        assert_ne!(step, span, "a step of its own");
    }
    // The upstream gets the same id, whichever member asks.
    let blobs = fake.requests();
    let blobs = blobs.iter().filter(|seen| seen.reference == *digest);
    for seen in blobs {
        let mut headers = seen.headers.iter();
        let id = headers.find(|(name, _)| name == "x-request-id");
        assert_eq!(id.map(|(_, id)| &**id), Some("pull-7"), "{seen:?}");
    }
}

/// A member that had to show a certificate yesterday must not get in without one today.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_out_of_the_configuration_answers_nobody() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[1]));
    let cluster = Cluster::of(2).upstream(&fake).start().await;
    let door = cluster.door(0, &fake, REPOSITORY);
    door.pull("v1", &image).await.expect("an image");
    let node = cluster.node(0);
    let file = node.config_file();
    let text = fs::read_to_string(&file).expect("a configuration");
    let begin = text.find("[cluster]").expect("a section");
    fs::write(&file, &text[..begin]).expect("a configuration");
    larder_tests::scene::eventually("it is read again", || node.log().contains("is in force"))
        .await;
    let mut stream = TcpStream::connect(cluster.peer_address(0))
        .await
        .expect("a connection");
    let digest = &image.layers[0].digest;
    let ask = format!(
        "GET /v2/{REPOSITORY}/blobs/{digest}?ns={} HTTP/1.1\r\nhost: a\r\nlarder-role: holder\r\n\r\n",
        fake.host()
    );
    let mut answer = Vec::new();
    let _ = stream.write_all(ask.as_bytes()).await;
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{} bytes", answer.len());
    // The node serves pulls without the cluster.
    let image = build(&fake, REPOSITORY, "v2", &layers(2, &[1]));
    door.pull("v2", &image).await.expect("an image");
}
