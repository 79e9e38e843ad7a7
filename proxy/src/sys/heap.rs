//! How glibc's heap treats freed memory.

/// Allocations below this come from the heap rather than from mappings of their own.
const MAPPED_FROM: i32 = 4 << 20;

/// How much free memory at the end of each heap is kept, and not returned to the kernel at once.
const KEPT: i32 = 8 << 20;

/// Lets the buffers of a download be reused. By default each buffer is a mapping of its own, or is returned when it is
/// freed. Every page of the next one is then cleared and mapped anew: a tenth of the processor time of a cold pull.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub fn keep_freed_memory() {
    use nix::libc::{M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt};
    for (option, value) in [(M_MMAP_THRESHOLD, MAPPED_FROM), (M_TRIM_THRESHOLD, KEPT)] {
        // SAFETY: the call takes two numbers and changes only the heap's own settings, under the heap's lock.
        unsafe { mallopt(option, value) };
    }
}

/// Other C libraries have no such settings.
#[cfg(not(target_env = "gnu"))]
pub fn keep_freed_memory() {}

/// Returns all free pages of the heap to the kernel, so that memory for a flood of requests is not kept for ever
/// (blocking).
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub fn give_freed_memory_back() {
    // SAFETY: the call takes a number, and touches only memory that is not allocated, under the heap's lock.
    unsafe { nix::libc::malloc_trim(0) };
}

/// Other C libraries return free pages by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_freed_memory_back() {}
