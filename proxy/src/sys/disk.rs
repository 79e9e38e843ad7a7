//! Questions about file systems, and the store's lock.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

use bytes::Bytes;
use nix::{
    fcntl::{Flock, FlockArg},
    libc,
};

/// Room on a file system, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    pub total: u64,
    /// What an unprivileged writer may still use.
    pub free: u64,
}

/// Room on the file system that holds `path`.
pub fn space(path: &Path) -> io::Result<Space> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    let unit = stat.fragment_size();
    Ok(Space {
        total: stat.blocks() * unit,
        free: stat.blocks_available() * unit,
    })
}

/// How many files the file system of `path` can hold, and how many more; `None` if it has no such limit.
pub fn inodes(path: &Path) -> io::Result<Option<(u64, u64)>> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    Ok((stat.files() > 0).then(|| (stat.files(), stat.files_available())))
}

/// The bytes that a file occupies on disk, without its holes.
pub fn allocated(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.blocks() * 512)
}

/// Whether all of `start..end` of a file is on disk or on its way there: no part of it is a hole.
pub fn has_no_hole(file: &File, start: u64, end: u64) -> io::Result<bool> {
    let hole = nix::unistd::lseek(file, start as i64, nix::unistd::Whence::SeekHole)?;
    Ok(hole as u64 >= end)
}

/// Whether a byte of a file can be read without waiting for the disk. `true` if the kernel cannot tell.
pub fn is_cached(file: &File, at: u64) -> bool {
    match read_cached(file, &mut [0], at) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

/// Reads the bytes of `file` at `at` that are in the page cache, perhaps fewer than the buffer holds. Fails with
/// `WouldBlock` if there are none, and with other errors if the file system does not support such reads.
#[allow(unsafe_code)]
pub fn read_cached(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let into = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: the kernel writes only into `bytes`, which lives until the call returns.
    let read = unsafe {
        libc::preadv2(
            file.as_raw_fd(),
            &raw const into,
            1,
            at as libc::off_t,
            libc::RWF_NOWAIT,
        )
    };
    // Only errors are negative.
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Opens a file without changing its access time, which tells when a client last wanted the file.
pub fn open_unseen(path: &Path) -> io::Result<File> {
    let unseen = File::options()
        .read(true)
        .custom_flags(libc::O_NOATIME)
        .open(path);
    match unseen {
        // Only the file's owner may open it so.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(path),
        opened => opened,
    }
}

/// Opens a file to read it. If it is a pipe, this does not wait for a writer.
pub fn open_at_once(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK;
    File::options().read(true).custom_flags(flags).open(path)
}

/// Identifies this boot of the kernel. Another id means that the page cache of before is lost.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}

/// An exclusive lock on a file, held until dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its Drop")] Flock<File>);

/// Takes the lock on `path`, or says that another process has it.
pub fn lock(path: &Path) -> io::Result<Option<Lock>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(Lock(lock))),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Writes all of `chunks` at `offset`, in as few calls as the kernel allows.
pub fn write_all_at(file: &File, chunks: &[Bytes], mut offset: u64) -> io::Result<()> {
    // IOV_MAX is 1024 on Linux.
    for group in chunks.chunks(1024) {
        let mut slices: Vec<io::IoSlice<'_>> = group.iter().map(|c| io::IoSlice::new(c)).collect();
        let mut rest = &mut slices[..];
        while rest.iter().any(|s| !s.is_empty()) {
            let written = match nix::sys::uio::pwritev(file, rest, offset as i64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            offset += written as u64;
            io::IoSlice::advance_slices(&mut rest, written);
        }
    }
    Ok(())
}
