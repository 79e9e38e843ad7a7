//! Work that is to disturb nothing.

use nix::libc;

/// What `<linux/ioprio.h>` has: the calling thread, and the class that reads and writes only what is left over.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_IDLE: libc::c_int = 3 << 13;

/// From now on this thread, and the threads that it starts, run when no other thread wants the processor, and use the disk
/// when no other does. Where the kernel refuses that, they run as ever.
#[allow(unsafe_code)]
pub fn be_idle() {
    // SAFETY: it is made of numbers, of which zero is one; the kernel reads it while the call lasts, and changes this thread
    // alone.
    let _ = unsafe {
        let none: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const none)
    };
    // SAFETY: it takes numbers alone.
    let _ = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            IOPRIO_CLASS_IDLE,
        )
    };
}
