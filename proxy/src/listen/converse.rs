//! One connection, on whatever port: its requests one after another, until it ends, has to close, or larder drains.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::{
    body::Incoming,
    rt::{Read, Write},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioTimer;

use super::slots::{Slot, Work};
use crate::{body::Body, drain::Watch};

/// A request's head must be complete within this time; also how long an idle connection is kept.
const HEAD_WITHIN: Duration = Duration::from_mins(1);

/// Bytes of a request's head at the most. Tokens of large identity providers take 16 KiB.
const HEAD: usize = 64 << 10;

/// A connection that is asked to close may take this long to send what it still has to send.
const GOES_WITHIN: Duration = Duration::from_secs(5);

/// The HTTP settings of every port; `files` where the socket sends files.
pub(super) fn http(files: bool) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_header_size(HEAD)
        .writev(files);
    builder
}

/// Serves a connection that has a slot to its end.
pub(super) async fn converse<I, F, R>(
    io: I,
    http: &http1::Builder,
    slot: &Arc<Slot>,
    mut watch: Watch,
    answer: F,
) where
    I: Read + Write + Unpin,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<Body>>,
{
    let asked = AtomicBool::new(false);
    let service = service_fn(|request| {
        asked.store(true, Ordering::Relaxed);
        let work = slot.work();
        let answer = answer(request);
        async move {
            let response = answer.await;
            Ok::<_, Infallible>(response.map(|body| Working { body, _work: work }))
        }
    });
    let connection = http.serve_connection(io, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = watch.stopped() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = slot.told_to_go() => {
            // Before the first request has come whole, there is nothing to wait for. Later the end of an answer may
            // still be on its way.
            if !asked.load(Ordering::Relaxed) {
                return;
            }
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(GOES_WITHIN, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// A body whose connection works until the body is dropped.
#[derive(Debug)]
struct Working {
    body: Body,
    _work: Work,
}

impl http_body::Body for Working {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
