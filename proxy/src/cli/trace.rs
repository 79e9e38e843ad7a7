//! `larder explain --trace [REF]`: real pulls, as they happen.

use http::HeaderMap;
use larder_shared::admin::TraceEvent;

use super::{
    show::{say, size},
    socket::{SocketArgs, encoded, lines},
};

/// Prints events until the daemon stops or the reader closes the pipe.
pub fn follow(image: Option<&str>, socket: &SocketArgs) -> anyhow::Result<u8> {
    let path = match image {
        Some(image) => format!("/trace?ref={}", encoded(image)),
        None => "/trace".to_owned(),
    };
    lines(socket, &path, HeaderMap::new(), |line| {
        let line = line.trim();
        if line.is_empty() {
            return Ok(());
        }
        if socket.json {
            say(line);
        } else {
            say(&words(&serde_json::from_str(line)?));
        }
        Ok(())
    })?;
    Ok(0)
}

fn words(event: &TraceEvent) -> String {
    match event {
        TraceEvent::Begin {
            request,
            request_id,
            method,
            path,
            registry,
            agent,
            ..
        } => format!("#{request:<6} {method} {path} of {registry}, by {agent}, id {request_id}"),
        TraceEvent::Step {
            request,
            step,
            outcome,
            detail,
            after_ms,
        } => format!("#{request:<6} {after_ms:>9.1} ms  {step:<9} {outcome:<16} {detail}"),
        TraceEvent::Answered {
            request,
            status,
            tier,
            outcome,
            after_ms,
        } => {
            format!("#{request:<6} {after_ms:>9.1} ms  answered  {status}, tier {tier}, {outcome}")
        }
        TraceEvent::End {
            request,
            outcome,
            sent_bytes,
            after_ms,
        } => format!(
            "#{request:<6} {after_ms:>9.1} ms  end       {outcome}, {}",
            size(*sent_bytes)
        ),
        TraceEvent::Missed { events } => {
            format!("{events} events are left out, because they came too fast")
        }
    }
}
