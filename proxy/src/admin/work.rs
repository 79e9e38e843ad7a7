//! `POST /pull`, `/verify`, `/gc`: long work, whose progress is sent line by line.
//!
//! A client that closes the connection ends the work. A blob that is being downloaded is completed all the same.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Response, StatusCode, header};
use larder_shared::admin::{Acted, Event, Failed};
use serde::Serialize;
use tokio::sync::mpsc;

use super::{Admin, Query, line, lines, text};
use crate::{
    body::Body,
    credentials::Credential,
    pull::{Caller, Platforms},
    store::Counts,
    trace::Trace,
};

/// The time between two lines of progress.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Lines that wait for a slow client. A line of progress for which there is no room is dropped.
const LINES: usize = 16;

/// Stops the work when the client has gone.
struct StopOnDrop(Arc<Counts>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Admin {
    /// `POST /pull?ref=IMAGE[&platform=OS/ARCH…|&platform=all]`; `Authorization: Basic` says on whose behalf.
    pub(super) fn pull(&self, query: &Query<'_>, headers: &HeaderMap) -> Response<Body> {
        let image = match query.image() {
            Ok(image) => image,
            Err(why) => return text(StatusCode::BAD_REQUEST, &why),
        };
        let named = query.all("platform");
        let platforms = if named.is_empty() {
            Platforms::own()
        } else if named.iter().any(|name| name == "all") {
            Platforms::All
        } else {
            Platforms::These(named)
        };
        let trace = Trace::of(headers);
        let caller = match headers.get(header::AUTHORIZATION) {
            None => Caller::anonymous(trace),
            Some(value) => {
                let pair = value.to_str().ok().and_then(|v| v.strip_prefix("Basic "));
                let Some(credential) = pair.and_then(Credential::from_basic) else {
                    let why = "the Authorization is not HTTP Basic\n";
                    return text(StatusCode::BAD_REQUEST, why);
                };
                Caller {
                    identity: self.pull.key.credential(credential),
                    registry: Some(image.registry.clone()),
                    presented: true,
                    trace,
                }
            }
        };
        let pull = Arc::clone(&self.pull);
        told(async move |counts| Box::pin(pull.warm(&image, &platforms, caller, &counts)).await)
    }

    pub(super) fn verify(&self) -> Response<Body> {
        let pull = Arc::clone(&self.pull);
        told(async move |counts| pull.verify(counts).await)
    }

    pub(super) fn gc(&self) -> Response<Body> {
        let pull = Arc::clone(&self.pull);
        told(async move |counts| {
            let kept = pull.keep_counted(counts).await;
            pull.sweep(Duration::ZERO).await;
            kept.map_err(|error| {
                format!("the tier could not be measured against its bounds: {error}")
            })
            .map(|evicted| Acted {
                blobs: evicted.blobs,
                bytes: evicted.bytes,
            })
        })
    }
}

/// Runs the work in a task of its own, and sends its progress and outcome as lines.
fn told<T, W, F>(work: W) -> Response<Body>
where
    W: FnOnce(Arc<Counts>) -> F,
    F: Future<Output = Result<T, String>> + Send + 'static,
    T: Serialize + Send + 'static,
{
    let (tell, told) = mpsc::channel(LINES);
    let counts = Arc::new(Counts::default());
    let work = work(Arc::clone(&counts));
    tokio::spawn(async move {
        let counts = StopOnDrop(counts);
        tokio::pin!(work);
        let mut tick = tokio::time::interval(TELL_EVERY);
        loop {
            tokio::select! {
                done = &mut work => {
                    let last = done.map_or_else(|error| Event::Failed(Failed { error }), Event::Done);
                    let _ = tell.send(line(&last)).await;
                    return;
                }
                _ = tick.tick() => {
                    let progress: Event<T> = Event::Progress(counts.0.progress());
                    if let Err(mpsc::error::TrySendError::Closed(_)) = tell.try_send(line(&progress)) {
                        return;
                    }
                }
            }
        }
    });
    lines(told)
}
