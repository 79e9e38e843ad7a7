//! Takes the network, and the right to start programs, from this process.
//!
//! The kernel runs the filter before each system call of this thread, and of every thread that it starts from now on. A
//! process cannot remove the filter again.

use std::io;

use nix::libc::{self, sock_filter, sock_fprog};

/// The architecture's number in the kernel. System calls have other numbers on each, so a filter checks it first.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xC000_003E);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xC000_00B7);
#[cfg(target_arch = "riscv64")]
const ARCHITECTURE: Option<u32> = Some(0xC000_00F3);
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
const ARCHITECTURE: Option<u32> = None;

/// On x86-64, the numbers from here on are x32 calls, which would bypass the filter.
const X32: u32 = 0x4000_0000;

/// The offsets of the number, the architecture and the first argument in `struct seccomp_data`. All architectures above
/// are little-endian, so the argument's lower half comes first.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// The filter. After a comparison stand two jumps: the first says how many instructions to skip if it holds.
fn filter(architecture: u32) -> Vec<sock_filter> {
    let load = |at| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
    let equal = |k, yes, no| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, yes, no, k);
    let at_least = |k, yes, no| op(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, yes, no, k);
    let answer = |k| op(libc::BPF_RET | libc::BPF_K, 0, 0, k);
    let refuse = |errno: i32| answer(libc::SECCOMP_RET_ERRNO | errno as u32);
    let number = |call: libc::c_long| call as u32;
    vec![
        load(ARCH),
        equal(architecture, 1, 0),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
        at_least(X32, 6, 0),
        equal(number(libc::SYS_socket), 7, 0),
        equal(number(libc::SYS_socketpair), 6, 0),
        // With a ring, a process makes sockets without a system call for each.
        equal(number(libc::SYS_io_uring_setup), 3, 0),
        equal(number(libc::SYS_execve), 3, 0),
        equal(number(libc::SYS_execveat), 2, 0),
        answer(libc::SECCOMP_RET_ALLOW),
        refuse(libc::ENOSYS),
        refuse(libc::EPERM),
        load(FIRST_ARGUMENT),
        equal(libc::AF_UNIX as u32, 1, 0),
        refuse(libc::EAFNOSUPPORT),
        answer(libc::SECCOMP_RET_ALLOW),
    ]
}

fn op(code: u32, yes: u8, no: u8, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: yes,
        jf: no,
        k,
    }
}

/// From now on, this thread and the threads that it starts can make sockets of the family AF_UNIX only, and can start
/// no program. Call it before any other thread is started.
///
/// # Errors
/// The kernel has no seccomp filters, or larder has no filter for this architecture.
#[allow(unsafe_code)]
pub fn leave_unix_sockets_alone() -> io::Result<()> {
    let architecture = ARCHITECTURE.ok_or(io::ErrorKind::Unsupported)?;
    let mut filter = filter(architecture);
    let program = sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // The kernel lets a process without privileges install a filter only after this.
    // SAFETY: the call takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel copies the program, which lives until the call returns.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        net::{TcpListener, UdpSocket},
        os::unix::net::UnixStream,
        process::Command,
    };

    use super::*;

    /// The filter belongs to the thread: the other tests of this process keep their sockets.
    #[test]
    fn unix_sockets_alone_are_left_and_no_program_starts() {
        let confined = std::thread::spawn(|| {
            leave_unix_sockets_alone().unwrap();
            let refused = |error: io::Error| error.raw_os_error();
            for family in [libc::AF_INET, libc::AF_INET6] {
                let address = if family == libc::AF_INET {
                    "127.0.0.1:0"
                } else {
                    "[::1]:0"
                };
                let no_family = Some(libc::EAFNOSUPPORT);
                assert_eq!(
                    TcpListener::bind(address).map_err(refused).err(),
                    Some(no_family)
                );
                assert_eq!(
                    UdpSocket::bind(address).map_err(refused).err(),
                    Some(no_family)
                );
            }
            for family in [
                nix::sys::socket::AddressFamily::Netlink,
                nix::sys::socket::AddressFamily::Packet,
                nix::sys::socket::AddressFamily::Vsock,
            ] {
                let made = nix::sys::socket::socket(
                    family,
                    nix::sys::socket::SockType::Raw,
                    nix::sys::socket::SockFlag::empty(),
                    None,
                );
                assert_eq!(made.err(), Some(nix::errno::Errno::EAFNOSUPPORT));
            }
            let (mut one, _other) = UnixStream::pair().unwrap();
            one.write_all(b"heard").unwrap();
            let ran = Command::new("/bin/true").status();
            assert_eq!(ran.map_err(refused).err(), Some(Some(libc::EPERM)));
        });
        confined.join().unwrap();
        TcpListener::bind("127.0.0.1:0").unwrap();
    }
}
