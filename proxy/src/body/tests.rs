//! How bodies come to their end.

use std::task::Waker;

use hyper::body::Incoming;
use larder_shared::Digest;

use super::*;
use crate::store::Store;

/// A client may ask again as soon as it has the last byte, which is before the body is dropped.
#[test]
fn a_body_that_has_given_its_last_bytes_reads_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let digest = Digest::sha256(b"some bytes");
    store
        .put(&digest, &Bytes::from_static(b"some bytes"))
        .unwrap();
    let ask = || store.blob(&digest, None).unwrap();
    store.note_served(&digest);
    let halves = [Range::new(0, 5), Range::new(5, 10)].map(Segment::Range);
    let mut body = Body::new(Content::Stored(ask()), halves);
    let mut next = || body.poll_next(&mut Context::from_waker(Waker::noop()));
    let first = next();
    assert!(matches!(first, Poll::Ready(Some(Ok(_)))));
    assert!(!store.is_suspicious(&ask()), "it is being read");
    let second = next();
    assert!(matches!(second, Poll::Ready(Some(Ok(_)))));
    assert!(store.is_suspicious(&ask()), "it was served to its end");
    assert!(matches!(next(), Poll::Ready(None)));
}

/// hyper throws away what it has buffered when a body fails; a client that was promised a head must see it.
#[tokio::test]
async fn the_head_leaves_before_a_body_fails() {
    use hyper::{Request, Response, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let (mut client, server) = tokio::io::duplex(4096);
    let service = service_fn(async |_: Request<Incoming>| {
        let brings = vec![Ok(Bytes::from_static(b"half")), Err(FillError::Digest)];
        let passing = Passing {
            passage: Passage::nowhere(),
            hold: true,
            through: Some(Through::of(brings)),
        };
        let whole = [Segment::Range(Range::new(0, 8))];
        let body = Body::new(Content::Passing(passing), whole);
        Ok::<_, std::convert::Infallible>(Response::new(body))
    });
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let ended = http1::Builder::new()
        .serve_connection(TokioIo::new(server), service)
        .await;
    assert!(ended.is_err());
    let mut got = String::new();
    client.read_to_string(&mut got).await.unwrap();
    assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got:?}");
    assert!(got.ends_with("\r\n\r\nhalf"), "{got:?}");
}
