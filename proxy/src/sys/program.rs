//! The pages of the program itself.

use std::ffi::{c_int, c_void};

use nix::{
    libc::{
        Elf64_Phdr, MADV_DONTNEED, PF_W, PT_LOAD, dl_iterate_phdr, dl_phdr_info, madvise, size_t,
    },
    unistd::{SysconfVar, sysconf},
};

/// Releases the mapped pages of this program's code and constants. Pages that it needs again come back from the page
/// cache, which all processes of the program share. Without this, a process that does nothing for half a minute counts
/// as large as all code that it has ever run, until the kernel reclaims the pages.
#[allow(unsafe_code)]
pub fn let_go_of_program() {
    // SAFETY: the callback runs only before this returns, and gets no data of ours.
    unsafe { dl_iterate_phdr(Some(let_go), std::ptr::null_mut()) };
}

/// The C library calls this for each loaded object. The first is the program, and the only one that counts.
#[allow(unsafe_code)]
unsafe extern "C" fn let_go(info: *mut dl_phdr_info, _: size_t, _: *mut c_void) -> c_int {
    // SAFETY: the C library gives a description that is valid during this call, with as many headers as it says.
    let (base, headers) = unsafe {
        let headers = std::slice::from_raw_parts((*info).dlpi_phdr, (*info).dlpi_phnum.into());
        ((*info).dlpi_addr, headers)
    };
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.unwrap_or(4096) as u64;
    // Pages that were ever writable contain relocations, which are in no file.
    let constant = |header: &&Elf64_Phdr| header.p_type == PT_LOAD && header.p_flags & PF_W == 0;
    for header in headers.iter().filter(constant) {
        let (from, to) = (
            base + header.p_vaddr,
            base + header.p_vaddr + header.p_memsz,
        );
        // Segments of different rights share no page, so the pages at either end belong to this segment alone.
        let from = from - from % page;
        // SAFETY: these pages are mapped from the program's file and were never written, so the next access reads the
        // same bytes from the file. If the kernel refuses, nothing changes.
        unsafe { madvise(from as *mut c_void, (to - from) as size_t, MADV_DONTNEED) };
    }
    1
}
