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

/// Lines on their way to the client. Further events wait in the trace, which drops them if the client is too slow.
const LINES: usize = 64;

/// How often the client gets an empty line, which says that the connection lives.
const QUIET: Duration = Duration::from_secs(5);

impl Admin {
    /// Sends events until the client leaves or the daemon stops. `ref` selects events of its repository, under any tag
    /// or digest: a pull by tag continues by digests.
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
                    // The first tick is immediate: it tells the client that events are followed from now on.
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
