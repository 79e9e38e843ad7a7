//! Work of idle priority.

use nix::libc;

/// From `<linux/ioprio.h>`: the calling thread, and the class that uses the disk only when no other process does.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_IDLE: libc::c_int = 3 << 13;

/// From now on, this thread and the threads that it starts run when no other thread wants the processor, and use the
/// disk when no other does. If the kernel refuses that, they run as before.
#[allow(unsafe_code)]
pub fn be_idle() {
    // SAFETY: the structure consists of numbers, and zero is valid for each. The kernel reads it during the call, and
    // changes this thread only.
    let _ = unsafe {
        let none: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const none)
    };
    // SAFETY: the call takes numbers only.
    let _ = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            IOPRIO_CLASS_IDLE,
        )
    };
}
