//! FUSE connections: opening, mounting, reading requests, answering, controlling, aborting.
//!
//! A connection lives as long as any process has its descriptor open. Descriptors do not block: the flag belongs to the
//! connection, and so to every process that has it.

use std::{
    fs,
    io::{self, IoSlice, Read as _, Write as _},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    path::Path,
    sync::Arc,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl, open, openat},
    libc,
    mount::{MntFlags, MsFlags},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{stat::Mode, uio::writev},
    unistd::{getegid, geteuid, read},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::polled::polled;

/// The error numbers that a file server answers with, or meets.
pub const EIO: i32 = libc::EIO;
pub const ENOENT: i32 = libc::ENOENT;
pub const ENOSYS: i32 = libc::ENOSYS;
pub const ESTALE: i32 = libc::ESTALE;
pub const EINVAL: i32 = libc::EINVAL;
pub const EPROTO: i32 = libc::EPROTO;

/// A connection that is not mounted yet.
///
/// # Errors
/// The kernel has no FUSE, or this process may not use it.
pub fn connection() -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    Ok(open("/dev/fuse", flags, Mode::empty())?)
}

/// Mounts a connection. Only this user may use the mount. A file system on top of its files reads them with the rights
/// of the process that mounted that file system.
pub fn mount(connection: BorrowedFd<'_>, source: &str, at: &Path) -> io::Result<()> {
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        connection.as_raw_fd(),
        geteuid(),
        getegid()
    );
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(nix::mount::mount(
        Some(source),
        at,
        Some("fuse"),
        flags,
        Some(options.as_str()),
    )?)
}

/// Detaches the topmost mount at this path. Files in use stay usable, without a path.
pub fn detach(at: &Path) -> io::Result<()> {
    let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    Ok(nix::mount::umount2(at, flags)?)
}

/// Whether a connection is over: unmounted everywhere, or aborted.
pub fn is_over(connection: BorrowedFd<'_>) -> bool {
    let mut asked = [PollFd::new(connection, PollFlags::empty())];
    let answered = poll(&mut asked, PollTimeout::ZERO);
    let said = asked[0].revents().unwrap_or(PollFlags::empty());
    answered.is_ok() && said.contains(PollFlags::POLLERR)
}

/// Sets how far the kernel reads ahead for a reader, on the file system of this device. If it is set before the
/// connection's first answer, this is one bound, and the answer's own is another.
pub fn read_ahead(device: u32, kib: u32) -> io::Result<()> {
    fs::write(
        format!("/sys/class/bdi/0:{device}/read_ahead_kb"),
        kib.to_string(),
    )
}

/// The kernel's control file system for FUSE connections, mounted nowhere. It shows their state and can abort them.
#[derive(Debug)]
pub struct Control(OwnedFd);

impl Control {
    /// # Errors
    /// The kernel has no such file system, or this process may not mount.
    pub fn open() -> io::Result<Self> {
        const CLOSE_ON_EXEC: libc::c_long = 1;
        const CREATE: libc::c_long = 6;
        const NO_SUID_DEV_EXEC: libc::c_long = 2 | 4 | 8;
        let null = std::ptr::null::<libc::c_char>();
        let name = c"fusectl".as_ptr();
        let context = call(|| {
            // SAFETY: the kernel reads the name, which is static.
            #[allow(unsafe_code)]
            unsafe {
                libc::syscall(libc::SYS_fsopen, name, CLOSE_ON_EXEC)
            }
        })?;
        let context = owned(context);
        let fd = libc::c_long::from(context.as_raw_fd());
        call(|| {
            // SAFETY: this command takes neither key nor value.
            #[allow(unsafe_code)]
            unsafe {
                libc::syscall(libc::SYS_fsconfig, fd, CREATE, null, null, 0)
            }
        })?;
        let mounted = call(|| {
            // SAFETY: the call takes numbers only.
            #[allow(unsafe_code)]
            unsafe {
                libc::syscall(libc::SYS_fsmount, fd, CLOSE_ON_EXEC, NO_SUID_DEV_EXEC)
            }
        })?;
        Ok(Self(owned(mounted)))
    }

    /// How many requests wait to be read or answered.
    pub fn waiting(&self, device: u32) -> io::Result<u64> {
        let mut text = String::new();
        self.file(device, "waiting", OFlag::O_RDONLY)?
            .read_to_string(&mut text)?;
        let number = text.trim().parse();
        number.map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Aborts the connection: pending requests fail, and so do later ones.
    pub fn abort(&self, device: u32) -> io::Result<()> {
        self.file(device, "abort", OFlag::O_WRONLY)?.write_all(b"1")
    }

    fn file(&self, device: u32, name: &str, way: OFlag) -> io::Result<fs::File> {
        let path = format!("{device}/{name}");
        let opened = openat(
            &self.0,
            path.as_str(),
            way | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        Ok(opened.into())
    }
}

/// The requests of one connection, as they arrive. At most one of these may exist for one descriptor.
#[derive(Debug)]
pub struct Requests(AsyncFd<Arc<OwnedFd>>);

impl Requests {
    /// Must be called within a runtime.
    pub fn of(connection: Arc<OwnedFd>) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&*connection, FcntlArg::F_GETFL)?);
        fcntl(&*connection, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self(polled(connection, Interest::READABLE)?))
    }

    /// The next request; `None` if the connection is over. The future can be dropped without losing a request.
    pub async fn next(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            let mut ready = self.0.readable().await?;
            let tried = ready.try_io(|fd| Ok(read(fd.get_ref(), buffer)?));
            let Ok(read) = tried else { continue };
            match read {
                Ok(length) => return Ok(Some(length)),
                Err(error) => match error.raw_os_error() {
                    // The kernel took the request back while it was read, or a signal came.
                    Some(libc::ENOENT | libc::EINTR) => {}
                    Some(libc::ENODEV | libc::ECONNABORTED) => return Ok(None),
                    _ => return Err(error),
                },
            }
        }
    }
}

/// Writes an answer, or a notification by the server, in one piece.
///
/// # Errors
/// `NotFound` if no process waits for the answer any more.
pub fn answer(connection: BorrowedFd<'_>, head: &[u8], body: &[u8]) -> io::Result<()> {
    let parts = [IoSlice::new(head), IoSlice::new(body)];
    let parts = if body.is_empty() {
        &parts[..1]
    } else {
        &parts[..]
    };
    writev(connection.as_fd(), parts)?;
    Ok(())
}

fn call(call: impl Fn() -> libc::c_long) -> io::Result<libc::c_long> {
    match call() {
        -1 => Err(io::Error::last_os_error()),
        done => Ok(done),
    }
}

#[allow(unsafe_code)]
fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) }
}
