//! The conversation of the holder with one peer.

use std::{os::fd::AsFd as _, sync::Arc};

use tokio::sync::{mpsc, oneshot};

use super::{
    mounting::Held,
    talk::{Ended, Talk},
    wire::{Message, Role},
};
use crate::sys::passed;

/// The most connections that a peer may give: more than ever exist at once.
const MOST: usize = 16;

/// What a peer asks of the holder.
#[derive(Debug)]
pub(super) enum Event {
    /// A daemon has come, with the connections that it has.
    Daemon(Peer, Vec<Held>),
    /// Another holder has come, and wants all connections.
    Holder(Peer),
    /// The other holder has all connections.
    Taken,
    Gone(u64),
    Uninstall {
        force: bool,
        answer: oneshot::Sender<String>,
    },
}

/// What the holder tells a peer.
#[derive(Debug)]
pub(super) enum Word {
    /// Sends all connections, and then that these are all.
    All(Vec<Held>),
    GiveWay,
}

/// A peer. Dropping this ends its conversation.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) number: u64,
    to: mpsc::UnboundedSender<Word>,
}

impl Peer {
    pub(super) fn tell(&self, word: Word) {
        // If the peer has gone, its session reports that.
        let _ = self.to.send(word);
    }
}

/// Hears a peer until it goes, or until the holder drops it.
pub(super) async fn session(
    talk: Talk,
    number: u64,
    daemon_uid: Option<u32>,
    events: mpsc::Sender<Event>,
) {
    let ended = match try_session(&talk, number, daemon_uid, &events).await {
        Ok(never) => match never {},
        Err(ended) => ended,
    };
    match &ended {
        Ended::Gone => {}
        Ended::Foreign | Ended::Version(_) | Ended::Refused(_) => {
            tracing::warn!(error = %ended, "a peer is refused");
            talk.refuse(&ended.to_string()).await;
        }
        Ended::Silent | Ended::Io(_) => tracing::warn!(error = %ended, "a peer is left"),
    }
    let _ = events.send(Event::Gone(number)).await;
}

async fn try_session(
    talk: &Talk,
    number: u64,
    daemon_uid: Option<u32>,
    events: &mpsc::Sender<Event>,
) -> Result<std::convert::Infallible, Ended> {
    let (Message::Hello { role, program }, None) = talk.hear_soon().await? else {
        return Err(Ended::Foreign);
    };
    let uid = talk.peer_uid()?;
    if !may(role, uid, daemon_uid) {
        let refused =
            format!("user {uid} may not connect as {role:?}: see --daemon-uid of larder hold");
        return Err(Ended::Refused(refused));
    }
    let (to, mut words) = mpsc::unbounded_channel();
    let peer = Peer { number, to };
    let event = match role {
        Role::Daemon => {
            let given = given(talk).await?;
            tracing::info!(program, connections = given.len(), "a daemon has come");
            Event::Daemon(peer, given)
        }
        Role::Holder => {
            tracing::info!(program, "another holder takes over");
            Event::Holder(peer)
        }
        Role::Operator => {
            drop(peer);
            let (Message::Uninstall { force }, None) = talk.hear_soon().await? else {
                return Err(Ended::Foreign);
            };
            let (answer, answered) = oneshot::channel();
            let _ = events.send(Event::Uninstall { force, answer }).await;
            let words = answered.await.map_err(|_| Ended::Gone)?;
            talk.say(&Message::Done(words)).await?;
            return Err(Ended::Gone);
        }
    };
    events.send(event).await.map_err(|_| Ended::Gone)?;
    loop {
        tokio::select! {
            word = words.recv() => match word {
                Some(Word::All(held)) => all(talk, &held).await?,
                Some(Word::GiveWay) => talk.say(&Message::GiveWay).await?,
                None => return Err(Ended::Gone),
            },
            heard = talk.hear() => match heard? {
                (Message::Taken, None) if role == Role::Holder => {
                    let _ = events.send(Event::Taken).await;
                }
                _ => return Err(Ended::Foreign),
            },
        }
    }
}

/// The daemon's user may only answer reads. The other roles are for root and the holder's own user.
fn may(role: Role, uid: u32, daemon_uid: Option<u32>) -> bool {
    let own = uid == 0 || uid == passed::own_uid();
    own || (role == Role::Daemon && Some(uid) == daemon_uid)
}

/// The connections that a peer gives, until it says that these are all.
pub(super) async fn given(talk: &Talk) -> Result<Vec<Held>, Ended> {
    let mut given = Vec::new();
    loop {
        match talk.hear_soon().await? {
            (Message::Connection(connection), Some(fd)) if given.len() < MOST => {
                let fd = Arc::new(fd);
                given.push(Held {
                    connection,
                    fd,
                    fresh: false,
                });
            }
            (Message::Ready, None) => return Ok(given),
            _ => return Err(Ended::Foreign),
        }
    }
}

/// Sends all connections, and then that these are all.
pub(super) async fn all(talk: &Talk, held: &[Held]) -> Result<(), Ended> {
    for Held { connection, fd, .. } in held {
        let message = Message::Connection(connection.clone());
        talk.say_with(&message, Some(fd.as_fd())).await?;
    }
    talk.say(&Message::Ready).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemons_user_may_be_a_daemon_and_nothing_else() {
        let own = passed::own_uid();
        let other = own + 65_534;
        for role in [Role::Daemon, Role::Holder, Role::Operator] {
            assert!(may(role, own, None) && may(role, 0, None));
            assert!(!may(role, other, None));
            assert_eq!(may(role, other, Some(other)), role == Role::Daemon);
        }
    }
}
