//! Hosts: limits and cuts take effect, and nothing is left of a host afterwards. Takes root.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use larder_tests::fake::{Content, FakeRegistry, Fault, Match};
use larder_tests::hosts::{Host, Names, Net, Shape, host_address};
use larder_tests::http;

const MB: u64 = 1_000_000;

/// Downloads a blob in a host, and gives how many bytes came in what time.
async fn download(host: &Host, fake: &FakeRegistry, digest: &str) -> (u64, Duration) {
    let url = format!("{}/v2/a/blobs/{digest}", fake.url());
    let start = Instant::now();
    let got = host.run(async move { http::get_digest(&url, &[]).await });
    let got = got.await.expect("an answer");
    assert_eq!((got.status, got.error), (200, None));
    assert_eq!(got.digest, digest);
    (got.len, start.elapsed())
}

#[tokio::test]
async fn a_shaped_link_is_as_fast_as_it_was_told_and_counts() {
    let net = Net::new(2);
    let fake = FakeRegistry::start_in(net.upstream()).await;
    let size = 6 * MB;
    let digest = fake.put_blob_of("a", 1, size);
    let shape = Shape::mbit(40);
    net.host(0).shape(shape);
    let before = [0, 1].map(|i| net.host(i).counts());
    let (len, slow) = download(net.host(0), &fake, &digest).await;
    assert_eq!(len, size);
    let rate = size as f64 / slow.as_secs_f64();
    let limit = shape.bytes_per_second();
    assert!(
        (limit * 0.75..limit * 1.1).contains(&rate),
        "{rate} of {limit} bytes a second"
    );
    let after = [0, 1].map(|i| net.host(i).counts());
    let there = after[0].since(before[0]);
    assert!(
        (size..size * 11 / 10).contains(&there.received) && there.sent < size / 10,
        "{there:?}"
    );
    let elsewhere = after[1].since(before[1]);
    assert!(elsewhere.received < size / 10, "{elsewhere:?}");

    // The other host is not limited.
    let (_, fast) = download(net.host(1), &fake, &digest).await;
    assert!(fast < slow / 2, "{fast:?} and {slow:?}");

    // What a host sends is limited, too.
    let served = FakeRegistry::start_in(net.host(0)).await;
    served.put_blob_of("a", 1, size);
    let before = net.host(0).counts();
    let (_, slow) = download(net.host(1), &served, &digest).await;
    let rate = size as f64 / slow.as_secs_f64();
    assert!(rate < limit * 1.1, "{rate} of {limit} bytes a second");
    let sent = net.host(0).counts().since(before).sent;
    assert!((size..size * 11 / 10).contains(&sent), "{sent}");
}

#[tokio::test]
async fn a_cut_link_stalls_and_goes_on_when_it_is_mended() {
    let net = Net::new(1);
    let fake = FakeRegistry::start_in(net.upstream()).await;
    let content = Content::synthetic(1, 4 * MB);
    let digest = fake.put_content("a", &content);
    fake.fault(Match::blob(), Fault::ThrottleBytesPerSecond(2 * MB));
    let url = format!("{}/v2/a/blobs/{digest}", fake.url());
    let host = net.host(0);
    let opened = host.run(async move { http::open(&url, &[]).await }).await;
    let mut stream = opened.expect("an answer");
    let first = stream.read_exactly(500_000).await.expect("the first bytes");
    assert!(*first == content.read(0..500_000));
    host.cut();
    // Bytes on their way still arrive; then nothing does.
    let silence = Duration::from_millis(600);
    let mut came = 500_000;
    let silent = loop {
        match tokio::time::timeout(silence, stream.next_chunk()).await {
            Err(_) => break true,
            Ok(Ok(Some(chunk))) => came += chunk.len() as u64,
            Ok(_) => break false,
        }
    };
    assert!(silent && came < content.len(), "{came} bytes came");
    host.mend();
    let rest = stream.rest().await;
    assert_eq!(rest.error, None);
    assert_eq!(came + rest.body.len() as u64, content.len());
}

#[tokio::test]
async fn a_partition_parts_hosts_but_not_from_the_upstream() {
    async fn reaches(host: &Host, fake: &FakeRegistry) -> bool {
        let url = format!("{}/v2/", fake.url());
        let get = host.run(async move { http::get(&url, &[]).await });
        let answer = tokio::time::timeout(Duration::from_millis(700), get).await;
        matches!(answer, Ok(Ok(answer)) if answer.status == 200)
    }
    let mut net = Net::new(3);
    let upstream = FakeRegistry::start_in(net.upstream()).await;
    let fakes = [0, 1, 2].map(|i| net.host(i).clone());
    let fakes = [
        FakeRegistry::start_in(&fakes[0]).await,
        FakeRegistry::start_in(&fakes[1]).await,
        FakeRegistry::start_in(&fakes[2]).await,
    ];
    for parted in [false, true, false] {
        if parted {
            net.part(&[0, 1], &[2]);
        } else {
            net.heal();
        }
        for from in 0..3 {
            assert!(reaches(net.host(from), &upstream).await);
            for (to, fake) in fakes.iter().enumerate() {
                let same_side = (from == 2) == (to == 2);
                let can = reaches(net.host(from), fake).await;
                assert_eq!(can, same_side || !parted, "{from} {to} {parted}");
            }
        }
    }
}

#[tokio::test]
async fn hosts_see_only_each_other_and_a_registry_starts_again_there() {
    let net = Net::new(2);
    assert_eq!(net.host(1).address(), host_address(1));
    let fake = FakeRegistry::start_in(net.host(1)).await;
    assert!(fake.host().starts_with("10.77.0.11:"), "{}", fake.host());
    let url = format!("{}/v2/", fake.url());
    let get = |url: String| async move { http::get(&url, &[]).await };
    assert!(net.host(0).run(get(url.clone())).await.is_ok());
    let here = tokio::time::timeout(Duration::from_millis(500), get(url.clone())).await;
    assert!(!matches!(here, Ok(Ok(_))), "reached from outside");
    fake.stop().await;
    assert!(net.host(0).run(get(url.clone())).await.is_err());
    fake.start_again().await;
    assert!(net.host(0).run(get(url)).await.is_ok());
    // A fault on the socket's level works there, too.
    let digest = fake.put_blob_of("a", 1, MB);
    fake.fault(Match::blob(), Fault::ResetAfter(1000));
    let url = format!("{}/v2/a/blobs/{digest}", fake.url());
    let answer = net.host(0).run(get(url)).await.expect("a head");
    assert_eq!(answer.error, Some(http::Broken::Reset));
    assert_eq!(answer.body.len(), 1000);
}

fn there(namespace: &str) -> bool {
    Path::new("/run/netns").join(namespace).exists()
        || Path::new("/etc/netns").join(namespace).exists()
}

#[tokio::test]
async fn nothing_is_left_of_a_net_not_even_after_a_panic() {
    let net = Net::new(2);
    net.host(0).ask_names_at(net.upstream().address());
    let names = net.namespaces();
    assert_eq!(names.len(), 4);
    assert!(names.iter().all(|name| there(name)));
    drop(net);
    assert!(!names.iter().any(|name| there(name)));

    let (tell, told) = std::sync::mpsc::channel();
    let panics = std::thread::spawn(move || {
        let net = Net::new(1);
        tell.send(net.namespaces()).expect("a listener");
        panic!("on purpose");
    });
    assert!(panics.join().is_err());
    let names = told.recv().expect("names");
    assert_eq!(names.len(), 3);
    assert!(!names.iter().any(|name| there(name)));
}

#[tokio::test]
async fn what_a_killed_test_left_is_removed_by_the_next() {
    // No process has a number above the kernel's limit of 2^22.
    let left = format!("larder-t{}-0-h0", 1 << 23);
    let add = Command::new("ip").args(["netns", "add", &left]).status();
    assert!(add.expect("ip").success());
    assert!(there(&left));
    drop(Net::new(0));
    assert!(!there(&left));
}

#[tokio::test]
async fn names_are_answered_in_a_host_and_here() {
    let net = Net::new(1);
    let mut inside = Names::start_in(net.upstream()).await;
    let mut here = Names::start_here().await;
    for names in [&mut inside, &mut here] {
        let peers = "peers.test";
        assert_eq!(names.ask(peers).await, Some(vec![]));
        names.set(peers, &[host_address(1), host_address(0)]).await;
        let both = vec![host_address(0), host_address(1)];
        assert_eq!(names.ask(peers).await, Some(both));
        names.set("other.test", &[Ipv4Addr::new(10, 1, 2, 3)]).await;
        names.set(peers, &[host_address(1)]).await;
        assert_eq!(names.ask(peers).await, Some(vec![host_address(1)]));
        names.set(peers, &[]).await;
        assert_eq!(names.ask(peers).await, Some(vec![]));
    }

    // A program in the other host finds it by its own resolv.conf.
    inside.set("peers.test", &[host_address(7)]).await;
    net.host(0).ask_names_at(inside.address().ip());
    let output = net
        .host(0)
        .exec("getent")
        .args(["ahostsv4", "peers.test"])
        .output()
        .expect("getent");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("10.77.0.17"), "{text} {output:?}");
}
