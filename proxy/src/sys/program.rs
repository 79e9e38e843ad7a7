//! The pages of the program itself.

use std::ffi::{c_int, c_void};

use nix::{
    libc::{
        Elf64_Phdr, MADV_DONTNEED, PF_W, PT_LOAD, dl_iterate_phdr, dl_phdr_info, madvise, size_t,
    },
    unistd::{SysconfVar, sysconf},
};

/// Lets go of the pages of this program's code and constants that this process has mapped. What it needs again comes back
/// from the page cache, which the processes of one program share. Without this a process that does nothing for half a
/// minute counts as large as all that it has ever run, and the kernel has to find out that it could do without.
#[allow(unsafe_code)]
pub fn let_go_of_program() {
    // SAFETY: the callback is called before this returns, and is given no data of ours.
    unsafe { dl_iterate_phdr(Some(let_go), std::ptr::null_mut()) };
}

/// Called for each object that is loaded; the first one is the program, and the only one that is looked at.
#[allow(unsafe_code)]
unsafe extern "C" fn let_go(info: *mut dl_phdr_info, _: size_t, _: *mut c_void) -> c_int {
    // SAFETY: the C library gives a description that is valid during this call, with as many headers as it says.
    let (base, headers) = unsafe {
        let headers = std::slice::from_raw_parts((*info).dlpi_phdr, (*info).dlpi_phnum.into());
        ((*info).dlpi_addr, headers)
    };
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.unwrap_or(4096) as u64;
    // What was ever writable has relocations in it, which are nowhere else.
    let constant = |header: &&Elf64_Phdr| header.p_type == PT_LOAD && header.p_flags & PF_W == 0;
    for header in headers.iter().filter(constant) {
        let (from, to) = (
            base + header.p_vaddr,
            base + header.p_vaddr + header.p_memsz,
        );
        // Segments of different rights share no page: the page around either end is this one's.
        let from = from - from % page;
        // SAFETY: these pages are mapped from the program's file and were never written: the next access reads the same
        // bytes from it. Where the kernel refuses, nothing changes.
        unsafe { madvise(from as *mut c_void, (to - from) as size_t, MADV_DONTNEED) };
    }
    1
}
