//! A read-only mapping of a file that stands for the file's bytes; its memory is never read.
//!
//! hyper wants bodies as memory. A mapping gives it memory whose address says which bytes of which file are meant;
//! the socket ([`super::FileSocket`]) turns such addresses into sendfile(2). The pages are never touched by larder, so
//! neither page faults nor SIGBUS arise, even if the file is cut short on disk.

use std::{
    fs::File,
    io,
    num::NonZeroUsize,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// `len` bytes of address space that stand for the first `len` bytes of `file`.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<std::ffi::c_void>,
    len: usize,
    file: Arc<File>,
    damaged: AtomicBool,
}

// SAFETY: the mapping is read-only, owned by this value only, and unmapped only on drop.
#[allow(unsafe_code)]
unsafe impl Send for Mapping {}
// SAFETY: as above: shared access never writes.
#[allow(unsafe_code)]
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file`. `len` must not be zero and may exceed the file: only the addresses matter.
    #[allow(unsafe_code)]
    pub fn new(file: Arc<File>, len: NonZeroUsize) -> io::Result<Self> {
        // SAFETY: a fresh shared read-only mapping at an address of the kernel's choosing aliases nothing of ours.
        let base = unsafe {
            mmap(
                None,
                len,
                ProtFlags::PROT_READ,
                MapFlags::MAP_SHARED,
                &*file,
                0,
            )
        }?;
        Ok(Self {
            base,
            len: len.get(),
            file,
            damaged: AtomicBool::new(false),
        })
    }

    /// The addresses of the mapping as `Bytes`, which keep it alive. Slices of them cost nothing.
    pub fn bytes(self: &Arc<Self>) -> Bytes {
        Bytes::from_owner(Owner(Arc::clone(self)))
    }

    /// Whether sending from the file has failed because of the file.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    pub(super) fn set_damaged(&self) {
        self.damaged.store(true, Ordering::Relaxed);
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The position within the file of `slice`, if it lies in this mapping.
    pub(super) fn offset_of(&self, slice: &[u8]) -> Option<u64> {
        let base = self.base.as_ptr() as usize;
        let at = slice.as_ptr() as usize;
        (at >= base && at + slice.len() <= base + self.len).then(|| (at - base) as u64)
    }
}

impl Drop for Mapping {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: base and len are what mmap returned; every `Bytes` of the mapping holds an Arc of it, so none is left.
        let unmapped = unsafe { munmap(self.base, self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

struct Owner(Arc<Mapping>);

impl AsRef<[u8]> for Owner {
    #[allow(unsafe_code)]
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the range is mapped readable for as long as the Arc lives. Its contents may change while a partial
        // grows; larder never reads them, it only hands the addresses to the kernel.
        unsafe { std::slice::from_raw_parts(self.0.base.as_ptr().cast::<u8>(), self.0.len) }
    }
}
