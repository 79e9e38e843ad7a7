//! `POST /trace[?ref=IMAGE]`: requests as they happen, a line of JSON each.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use larder_shared::{admin::TraceEvent, name::ImageName};
use tokio::sync::mpsc;

use super::{Admin, Query, line, lines, text};
use crate::{
    body::Body,
    events::{Heard, Next},
};

/// Lines on their way to the listener. What does not fit waits in the trace, and is lost there if it takes too long.
const LINES: usize = 64;

/// An empty line says that there is nothing to say.
const QUIET: Duration = Duration::from_secs(5);

impl Admin {
    /// Until the listener goes or the daemon stops. With a reference only what is asked of its repository, by whatever
    /// tag or digest: a pull by tag goes on by digests.
    pub(super) fn follow(&self, query: &Query<'_>) -> Response<Body> {
        let wanted = match query.get("ref").map(|image| image.parse::<ImageName>()) {
            None => None,
            Some(Ok(image)) => Some(image),
            Some(Err(error)) => return text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
        };
        let mut listener = self.pull.events.listen();
        let (tell, told) = mpsc::channel(LINES);
        tokio::spawn(async move {
            let mut quiet = tokio::time::interval(QUIET);
            loop {
                let line = tokio::select! {
                    next = listener.next() => match next {
                        Next::Event(heard) if !is_wanted(wanted.as_ref(), &heard) => continue,
                        Next::Event(heard) => line(&heard.event),
                        Next::Missed(events) => line(&TraceEvent::Missed { events }),
                        Next::End => return,
                    },
                    // The first at once: the listener knows that it is heard from now on.
                    _ = quiet.tick() => Bytes::from_static(b"\n"),
                    () = tell.closed() => return,
                };
                if tell.send(line).await.is_err() {
                    return;
                }
            }
        });
        lines(told)
    }
}

fn is_wanted(wanted: Option<&ImageName>, heard: &Heard) -> bool {
    wanted.is_none_or(|image| {
        image.registry.as_str() == heard.registry && image.repository.as_str() == heard.repository
    })
}
