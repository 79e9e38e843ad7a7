//! What glibc's heap does with memory that was freed.

/// Allocations below this come from the heap rather than from mappings of their own.
const MAPPED_FROM: i32 = 4 << 20;

/// Free memory at the end of each of the heaps that is not returned to the kernel at once.
const KEPT: i32 = 8 << 20;

/// Lets buffers of a download be used again. By default each is a mapping of its own, or is given back when it is freed,
/// and every page of the next is cleared and mapped anew: a tenth of the processor time of a cold pull.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub fn keep_freed_memory() {
    use nix::libc::{M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt};
    for (option, value) in [(M_MMAP_THRESHOLD, MAPPED_FROM), (M_TRIM_THRESHOLD, KEPT)] {
        // SAFETY: it takes two numbers and changes nothing but the heap's own settings, under the heap's lock.
        unsafe { mallopt(option, value) };
    }
}

/// Other C libraries have no such settings.
#[cfg(not(target_env = "gnu"))]
pub fn keep_freed_memory() {}

/// Gives all free pages of the heap back to the kernel: what a flood of requests took is not kept for ever (blocking).
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub fn give_freed_memory_back() {
    // SAFETY: it takes a number, and touches only memory that is not allocated, under the heap's lock.
    unsafe { nix::libc::malloc_trim(0) };
}

/// Other C libraries do so by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_freed_memory_back() {}
