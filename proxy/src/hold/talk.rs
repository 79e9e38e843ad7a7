//! A conversation in messages.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use tokio::time::timeout;

use super::wire::{LONGEST, Message, Role, Unreadable};
use crate::sys::passed::Packets;

/// How long a peer may take to send an expected message.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the peer has gone")]
    Gone,
    #[error("the peer does not answer")]
    Silent,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the peer does not speak larder's protocol")]
    Foreign,
    #[error(
        "the peer speaks version {0} of the holder's protocol, and this larder version {ours}",
        ours = super::wire::VERSION
    )]
    Version(u16),
    #[error("{0}")]
    Refused(String),
}

#[derive(Debug)]
pub(super) struct Talk(Packets);

impl Talk {
    pub(super) fn with(packets: Packets) -> Self {
        Self(packets)
    }

    /// Connects, and says in which role and version this process runs.
    pub(super) async fn begin(socket: &Path, role: Role) -> Result<Self, Ended> {
        let talk = Self(Packets::connect(socket)?);
        let program = concat!("larder ", env!("CARGO_PKG_VERSION")).to_owned();
        talk.say(&Message::Hello { role, program }).await?;
        Ok(talk)
    }

    pub(super) fn peer_uid(&self) -> io::Result<u32> {
        self.0.peer_uid()
    }

    pub(super) async fn say(&self, message: &Message) -> Result<(), Ended> {
        self.say_with(message, None).await
    }

    pub(super) async fn say_with(
        &self,
        message: &Message,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), Ended> {
        match timeout(PATIENCE, self.0.send(&message.bytes(), fd)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if is_gone(&error) => match self.hear_soon().await {
                // The peer's last message may say why it went.
                Err(ended) => Err(ended),
                Ok(_) => Err(Ended::Gone),
            },
            Ok(Err(error)) => Err(Ended::Io(error)),
            Err(_) => Err(Ended::Silent),
        }
    }

    /// The next message, however long it takes, and the descriptor that came with it. Cancel-safe: no message is lost.
    pub(super) async fn hear(&self) -> Result<(Message, Option<OwnedFd>), Ended> {
        let mut buffer = [0; LONGEST];
        let mut received = self.0.receive(&mut buffer).await;
        // The peer went without reading our message. The messages that it sent before can still be read.
        if received.as_ref().is_err_and(is_gone) {
            received = self.0.receive(&mut buffer).await;
        }
        let (length, mut fds) = match received {
            Ok((0, _)) => return Err(Ended::Gone),
            Ok(heard) => heard,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Ended::Foreign);
            }
            Err(error) => return Err(Ended::Io(error)),
        };
        match Message::parse(&buffer[..length]) {
            Ok(Message::Refused(why)) => Err(Ended::Refused(why)),
            Ok(message) if fds.len() <= 1 => Ok((message, fds.pop())),
            Ok(_) | Err(Unreadable::Foreign | Unreadable::Nonsense) => Err(Ended::Foreign),
            Err(Unreadable::Version(version)) => Err(Ended::Version(version)),
        }
    }

    /// The same, for a message that the peer must send at once.
    pub(super) async fn hear_soon(&self) -> Result<(Message, Option<OwnedFd>), Ended> {
        timeout(PATIENCE, self.hear())
            .await
            .unwrap_or(Err(Ended::Silent))
    }

    /// Tells the peer why the conversation ends. The peer may have gone.
    pub(super) async fn refuse(&self, why: &str) {
        let _ = self.say(&Message::Refused(why.to_owned())).await;
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}
