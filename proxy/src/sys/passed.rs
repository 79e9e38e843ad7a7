//! Sockets of this machine that carry whole messages, and descriptors along with them.

use std::{
    fs, io,
    io::{IoSlice, IoSliceMut},
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::fs::{PermissionsExt as _, chown},
    },
    path::Path,
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
        UnixAddr, accept4, bind, connect, getsockopt, listen, recvmsg, sendmsg, socket, sockopt,
    },
    unistd::geteuid,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::polled::polled;

/// How many descriptors one message may carry. The kernel closes any beyond.
const MOST: usize = 4;

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// A socket at a path, to which peers connect.
#[derive(Debug)]
pub struct Listener(AsyncFd<OwnedFd>);

/// A conversation with one peer, message by message.
#[derive(Debug)]
pub struct Packets(AsyncFd<OwnedFd>);

/// The user that this process acts as.
pub fn own_uid() -> u32 {
    geteuid().as_raw()
}

impl Listener {
    /// Listens at `path`, and replaces a socket that is there: a peer reaches either the old one or the new one. Only
    /// this user may connect, and `other` if given.
    pub fn bind(path: &Path, other: Option<u32>) -> io::Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = path.with_file_name(name);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let fd = unix()?;
        bind(fd.as_raw_fd(), &UnixAddr::new(&new)?)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
        if other.is_some_and(|other| other != own_uid()) {
            chown(&new, other, None)?;
        }
        listen(&fd, Backlog::new(16)?)?;
        fs::rename(&new, path)?;
        Ok(Self(polled(fd, BOTH)?))
    }

    /// The next peer.
    pub async fn accept(&self) -> io::Result<Packets> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        loop {
            let mut ready = self.0.readable().await?;
            let tried = ready.try_io(|fd| Ok(accept4(fd.as_raw_fd(), flags)?));
            if let Ok(accepted) = tried {
                return Ok(Packets(polled(owned(accepted?), BOTH)?));
            }
        }
    }
}

impl Packets {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let fd = unix()?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self(polled(fd, BOTH)?))
    }

    /// The user of the peer's process when it connected, or began to listen.
    pub fn peer_uid(&self) -> io::Result<u32> {
        Ok(getsockopt(self.0.get_ref(), sockopt::PeerCredentials)?.uid())
    }

    /// Sends one message, optionally with a copy of a descriptor.
    pub async fn send(&self, message: &[u8], with: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let fds: Vec<RawFd> = with.iter().map(std::os::fd::AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let rights = if fds.is_empty() { &[] } else { &rights[..] };
        loop {
            let mut ready = self.0.writable().await?;
            let tried = ready.try_io(|fd| {
                let parts = [IoSlice::new(message)];
                let flags = MsgFlags::MSG_NOSIGNAL;
                Ok(sendmsg::<()>(fd.as_raw_fd(), &parts, rights, flags, None)?)
            });
            if let Ok(sent) = tried {
                return sent.map(|_| ());
            }
        }
    }

    /// The next message's length and its descriptors; 0 if the peer has gone. The future can be dropped without losing
    /// a message.
    ///
    /// # Errors
    /// `InvalidData` if a message is longer than the buffer.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        loop {
            let mut ready = self.0.readable().await?;
            let tried = ready.try_io(|fd| take(fd.as_raw_fd(), buffer));
            match tried {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(taken) => return taken,
                Err(_) => {}
            }
        }
    }
}

fn take(fd: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = cmsg_space!([RawFd; MOST]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(fd, &mut parts, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    // The descriptors get an owner before any later step can fail.
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(passed) = control {
            fds.extend(passed.into_iter().map(owned));
        }
    }
    if message.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((message.bytes, fds))
}

fn unix() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None);
    made.map_err(|error: Errno| error.into())
}

#[allow(unsafe_code)]
fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just given us this descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::fd::AsFd as _};

    use super::*;

    #[tokio::test]
    async fn a_message_carries_a_descriptor_and_a_peer_has_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let file = dir.path().join("file");
        fs::write(&file, "what it says").unwrap();
        let listener = Listener::bind(&path, None).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let one = Packets::connect(&path).unwrap();
        let other = listener.accept().await.unwrap();
        assert_eq!(other.peer_uid().unwrap(), own_uid());
        let sent = fs::File::open(&file).unwrap();
        one.send(b"with", Some(sent.as_fd())).await.unwrap();
        one.send(b"without", None).await.unwrap();
        let mut buffer = [0; 16];
        let (length, mut fds) = other.receive(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..length], fds.len()), (&b"with"[..], 1));
        let mut said = String::new();
        let mut passed = fs::File::from(fds.remove(0));
        passed.read_to_string(&mut said).unwrap();
        assert_eq!(said, "what it says");
        assert_eq!(other.receive(&mut buffer).await.unwrap().0, 7);
        one.send(&[0; 17], None).await.unwrap();
        let long = other.receive(&mut buffer).await;
        assert_eq!(long.unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(one);
        assert_eq!(other.receive(&mut buffer).await.unwrap().0, 0);
    }

    #[tokio::test]
    async fn a_later_listener_takes_the_place_of_an_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let first = Listener::bind(&path, None).unwrap();
        let second = Listener::bind(&path, None).unwrap();
        let peer = Packets::connect(&path).unwrap();
        peer.send(b"x", None).await.unwrap();
        let heard = second.accept().await.unwrap();
        assert_eq!(heard.receive(&mut [0; 8]).await.unwrap().0, 1);
        drop(first);
        assert!(Packets::connect(&path).is_ok());
    }
}
