//! The messages between a holder, the daemon and another holder, as bytes. Pure.
//!
//! A message is a packet: `larder-h`, the version and the kind as two bytes each, little-endian, and a body.
//! docs/holder.md has the table.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 8] = b"larder-h";

/// The protocol's version. A peer of another version is refused in a form that every version understands: `REFUSED`
/// never changes.
pub(super) const VERSION: u16 = 1;

/// The longest message: a path and the fields before it.
pub(super) const LONGEST: usize = 4096 + 64;

const HEAD: usize = 12;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message {
    /// The first message of a peer.
    Hello {
        role: Role,
        program: String,
    },
    /// A connection, with its descriptor. Both sides may send several.
    Connection(Connection),
    /// All connections have been sent.
    Ready,
    /// To a daemon: a later daemon serves from now on.
    GiveWay,
    /// To a holder: another holder has all connections and listens at the socket.
    Taken,
    /// To a holder: unmount the files, and end when nobody uses them. With `force`: end now.
    Uninstall {
        force: bool,
    },
    /// The outcome of an uninstall, for people.
    Done(String),
    Refused(String),
}

/// The role of a holder's peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Daemon,
    Holder,
    Operator,
}

/// A FUSE connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Connection {
    /// A random number, drawn when the connection was made.
    pub(super) id: u64,
    /// The minor number of its file system's device; the major one is 0.
    pub(super) device: u32,
    /// Where it is mounted now. `None` if it has lost its name.
    pub(super) at: Option<PathBuf>,
}

/// Why a packet cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Unreadable {
    /// The packet is not of larder's protocol.
    Foreign,
    /// The packet is of another version.
    Version(u16),
    /// The packet is of this version, but malformed.
    Nonsense,
}

mod kind {
    pub(super) const REFUSED: u16 = 0;
    pub(super) const HELLO: u16 = 1;
    pub(super) const CONNECTION: u16 = 2;
    pub(super) const READY: u16 = 3;
    pub(super) const GIVE_WAY: u16 = 4;
    pub(super) const TAKEN: u16 = 5;
    pub(super) const UNINSTALL: u16 = 6;
    pub(super) const DONE: u16 = 7;
}

impl Message {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Refused(why) => (kind::REFUSED, why.as_bytes().to_vec()),
            Self::Hello { role, program } => {
                (kind::HELLO, [&[role.byte()], program.as_bytes()].concat())
            }
            Self::Connection(connection) => (kind::CONNECTION, connection.bytes()),
            Self::Ready => (kind::READY, Vec::new()),
            Self::GiveWay => (kind::GIVE_WAY, Vec::new()),
            Self::Taken => (kind::TAKEN, Vec::new()),
            Self::Uninstall { force } => (kind::UNINSTALL, vec![(*force).into()]),
            Self::Done(words) => (kind::DONE, words.as_bytes().to_vec()),
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(body);
        bytes.truncate(LONGEST);
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Unreadable> {
        let (head, body) = bytes.split_at_checked(HEAD).ok_or(Unreadable::Foreign)?;
        if head[..MAGIC.len()] != MAGIC[..] {
            return Err(Unreadable::Foreign);
        }
        let version = u16::from_le_bytes([head[8], head[9]]);
        let kind = u16::from_le_bytes([head[10], head[11]]);
        if kind == kind::REFUSED {
            return Ok(Self::Refused(text(body)));
        }
        if version != VERSION {
            return Err(Unreadable::Version(version));
        }
        let message = match (kind, body) {
            (kind::HELLO, [role, program @ ..]) => Role::of(*role).map(|role| Self::Hello {
                role,
                program: text(program),
            }),
            (kind::CONNECTION, body) => Connection::parse(body).map(Self::Connection),
            (kind::READY, []) => Some(Self::Ready),
            (kind::GIVE_WAY, []) => Some(Self::GiveWay),
            (kind::TAKEN, []) => Some(Self::Taken),
            (kind::UNINSTALL, [force @ (0 | 1)]) => Some(Self::Uninstall { force: *force == 1 }),
            (kind::DONE, body) => Some(Self::Done(text(body))),
            _ => None,
        };
        message.ok_or(Unreadable::Nonsense)
    }
}

impl Role {
    const BYTES: [(Self, u8); 3] = [(Self::Daemon, 1), (Self::Holder, 2), (Self::Operator, 3)];

    fn byte(self) -> u8 {
        let of = |(role, byte): &(Self, u8)| (*role == self).then_some(*byte);
        Self::BYTES.iter().find_map(of).unwrap_or_default()
    }

    fn of(byte: u8) -> Option<Self> {
        let of = |(role, known): &(Self, u8)| (*known == byte).then_some(*role);
        Self::BYTES.iter().find_map(of)
    }
}

impl Connection {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.id.to_le_bytes().to_vec();
        bytes.extend(self.device.to_le_bytes());
        // An empty path means that there is none.
        let at = self.at.as_deref().unwrap_or(Path::new(""));
        bytes.extend(at.as_os_str().as_bytes());
        bytes
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let (id, rest) = body.split_first_chunk()?;
        let (device, at) = rest.split_first_chunk()?;
        let at = Path::new(OsStr::from_bytes(at));
        Some(Self {
            id: u64::from_le_bytes(*id),
            device: u32::from_le_bytes(*device),
            at: (!at.as_os_str().is_empty()).then(|| at.to_owned()),
        })
    }
}

/// Text from a peer, for people.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(500).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all() -> Vec<Message> {
        let connection = |at: Option<&str>| {
            Message::Connection(Connection {
                id: 1 << 60,
                device: 51,
                at: at.map(PathBuf::from),
            })
        };
        let mut all: Vec<_> = [Role::Daemon, Role::Holder, Role::Operator]
            .map(|role| Message::Hello {
                role,
                program: "larder 1.2.3".to_owned(),
            })
            .into();
        all.extend([
            connection(None),
            connection(Some("/run/larder-hold/files")),
            Message::Ready,
            Message::GiveWay,
            Message::Taken,
            Message::Uninstall { force: true },
            Message::Uninstall { force: false },
            Message::Done("so it is".to_owned()),
            Message::Refused("no".to_owned()),
        ]);
        all
    }

    #[test]
    fn messages_come_through() {
        for message in all() {
            assert_eq!(Message::parse(&message.bytes()), Ok(message));
        }
    }

    #[test]
    fn a_refusal_is_understood_from_every_version() {
        let mut bytes = Message::Refused("too old".to_owned()).bytes();
        bytes[8] = 99;
        assert_eq!(
            Message::parse(&bytes),
            Ok(Message::Refused("too old".to_owned()))
        );
        let mut bytes = Message::Ready.bytes();
        bytes[8] = 99;
        assert_eq!(Message::parse(&bytes), Err(Unreadable::Version(99)));
        bytes[0] = b'L';
        assert_eq!(Message::parse(&bytes), Err(Unreadable::Foreign));
    }

    proptest! {
        #[test]
        fn anything_can_be_parsed(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
            kind in 0u16..10,
        ) {
            let _ = Message::parse(&bytes);
            let mut framed = Message::Ready.bytes();
            framed[10..12].copy_from_slice(&kind.to_le_bytes());
            framed.extend(bytes);
            if let Ok(message) = Message::parse(&framed) {
                prop_assert!(message.bytes().len() <= LONGEST);
            }
        }
    }
}
