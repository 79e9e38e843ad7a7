//! Answers of upstream that are passed on as they come, with or without a digest to check them against.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body as _;
use hyper::body::Incoming;
use larder_shared::{Digest, Hasher};
use tokio::time::{Instant, Sleep};

use crate::{
    fill::{FillError, HELD_BACK},
    metrics::Receiving,
};

/// A body that is passed on and brings nothing for this long ends short (promise P12).
const IDLE: Duration = Duration::from_secs(20);

/// A body of upstream.
#[derive(Debug)]
pub struct Passed {
    incoming: Incoming,
    idle: Pin<Box<Sleep>>,
}

impl Passed {
    pub(super) fn new(incoming: Incoming) -> Self {
        Self {
            incoming,
            idle: Box::pin(tokio::time::sleep(IDLE)),
        }
    }

    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
                ready!(self.idle.as_mut().poll(cx));
                return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
            };
            self.idle.as_mut().reset(Instant::now() + IDLE);
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// A body of upstream whose last bytes leave only when all have the digest (promise P9).
#[derive(Debug)]
pub struct Verified {
    passed: Passed,
    digest: Digest,
    /// `None` when everything has come and is right.
    hasher: Option<Hasher>,
    receiving: Receiving,
    held: VecDeque<Bytes>,
    held_bytes: u64,
}

impl Verified {
    pub(super) fn new(incoming: Incoming, digest: Digest, receiving: Receiving) -> Self {
        Self {
            passed: Passed::new(incoming),
            digest,
            hasher: Some(Hasher::new(digest.algorithm())),
            receiving,
            held: VecDeque::new(),
            held_bytes: 0,
        }
    }

    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        while let Some(hasher) = &mut self.hasher {
            let first = self.held.front().map_or(0, |bytes| bytes.len() as u64);
            if first > 0 && self.held_bytes - first >= HELD_BACK {
                self.held_bytes -= first;
                return Poll::Ready(self.held.pop_front().map(Ok));
            }
            match ready!(self.passed.poll_data(cx)) {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => {
                    self.receiving.add(bytes.len() as u64);
                    hasher.update(&bytes);
                    self.held_bytes += bytes.len() as u64;
                    self.held.push_back(bytes);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let right = self.hasher.take().map(Hasher::finish) == Some(self.digest);
                    if !right {
                        self.held.clear();
                        return Poll::Ready(Some(Err(io::Error::other(FillError::Digest))));
                    }
                }
            }
        }
        Poll::Ready(self.held.pop_front().map(Ok))
    }
}
