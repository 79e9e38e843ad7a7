use std::time::Instant;

use http::HeaderValue;
use larder_shared::{Digest, Range, Role};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{body::PATIENCE, *};
use crate::trace::Trace;

#[tokio::test]
async fn a_token_never_leaves_in_plain_text() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let member = listener.local_addr().unwrap();
    let text =
        format!("[cluster]\nlisten = \"127.7.0.1:7422\"\ntls = \"off\"\nmembers = [\"{member}\"]");
    let config = Config::parse(&text, std::path::Path::new("t")).unwrap();
    let config = Arc::new(ArcSwap::from_pointee(config));
    let members = Arc::new(Members::new(Arc::clone(&config)));
    let peers = Arc::new(Peers::new(config, members, Arc::new(Metrics::new())));
    let heard = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            head.truncate(length);
            let head = String::from_utf8(head).unwrap().to_lowercase();
            if head.contains("/blobs/") {
                return head;
            }
        }
    });
    let ask = PeerRequest {
        registry: "registry.test".parse().unwrap(),
        repository: "team/app".parse().unwrap(),
        subject: PeerSubject::Has(Digest::sha256(b"x")),
        role: Role::Root,
        within: SOON,
        lent: Some(HeaderValue::from_static("Bearer lent")),
        trace: Trace::none(),
    };
    assert!(matches!(
        peers.ask(member, &ask).await,
        Err(PeerFailure::Miss(_))
    ));
    let heard = heard.await.unwrap();
    assert!(
        heard.contains("larder-role") && !heard.contains("lent"),
        "{heard}"
    );
}

/// A relay whose root brings nothing for long, but receives something, tells its own readers to wait.
#[tokio::test]
async fn a_root_that_receives_is_waited_for_and_vouches_for_its_relay() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let member = listener.local_addr().unwrap();
    let text =
        format!("[cluster]\nlisten = \"127.7.0.2:7422\"\ntls = \"off\"\nmembers = [\"{member}\"]");
    let config = Config::parse(&text, std::path::Path::new("t")).unwrap();
    let config = Arc::new(ArcSwap::from_pointee(config));
    let members = Arc::new(Members::new(Arc::clone(&config)));
    let peers = Arc::new(Peers::new(config, members, Arc::new(Metrics::new())));
    let (asked, mut questions) = tokio::sync::mpsc::unbounded_channel();
    let (bring, brought) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (asked, mut brought) = (asked.clone(), brought.clone());
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut head).await {
                    let text = String::from_utf8_lossy(&head[..length]).into_owned();
                    let answer: &[u8] = if text.contains("/blobs/") {
                        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/9\r\nContent-Length: 4\r\n\r\n"
                    } else {
                        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n10"
                    };
                    stream.write_all(answer).await.unwrap();
                    if text.contains("/blobs/") {
                        brought.wait_for(|bring| *bring).await.unwrap();
                        stream.write_all(b"here").await.unwrap();
                    } else if text.contains("?role=") {
                        asked.send(text).unwrap();
                    }
                }
            });
        }
    });
    let ask = PeerRequest {
        registry: "registry.test".parse().unwrap(),
        repository: "team/app".parse().unwrap(),
        subject: PeerSubject::Blob(Digest::sha256(b"x"), Range::new(0, 4)),
        role: Role::Root,
        within: SOON,
        lent: None,
        trace: Trace::none(),
    };
    let mut body = peers.ask(member, &ask).await.unwrap().body;
    let begun = Instant::now();
    let waits = async {
        // The second question is the one after which a member without any receipts is given up.
        for _ in 0..3 {
            let question = questions.recv().await.unwrap();
            assert!(
                question.contains("/larder/v1/alive?role=root "),
                "{question}"
            );
        }
        assert!(begun.elapsed() >= PATIENCE);
        let flow = &peers.flow;
        assert!(
            flow.since(Role::Relay)
                .is_some_and(|since| since < PATIENCE)
        );
        assert_eq!(
            flow.since(Role::Root),
            None,
            "nothing came from its own sources"
        );
        bring.send(true).unwrap();
    };
    let (data, ()) = tokio::join!(body.next(), waits);
    assert_eq!(data.unwrap().unwrap(), "here");
}
