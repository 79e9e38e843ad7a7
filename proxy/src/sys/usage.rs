//! The processor time, memory and files that this process uses, from the kernel.

use std::{fs, io};

use nix::{
    sys::{
        resource::{Resource, UsageWho, getrlimit, getrusage},
        time::TimeValLike as _,
    },
    unistd::{SysconfVar, sysconf},
};

/// What a process uses.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Processor time in user and kernel mode, in seconds.
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub open_files: u64,
    pub max_files: u64,
}

/// Asks the kernel (blocking, for two reads of `/proc`).
pub fn usage() -> io::Result<Usage> {
    let times = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = times.user_time().num_microseconds() + times.system_time().num_microseconds();
    // "size resident shared …", in pages; proc(5).
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    let page = sysconf(SysconfVar::PAGE_SIZE)?.unwrap_or(4096);
    Ok(Usage {
        cpu_seconds: micros as f64 / 1e6,
        resident_bytes: pages * page as u64,
        // The listing's own descriptor is one of them.
        open_files: (fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1),
        max_files: getrlimit(Resource::RLIMIT_NOFILE)?.0,
    })
}

#[cfg(test)]
mod tests {
    use super::usage;

    #[test]
    fn what_is_opened_and_used_is_seen() {
        let before = usage().unwrap();
        let files: Vec<_> = (0..50)
            .map(|_| std::fs::File::open("/proc/self/statm").unwrap())
            .collect();
        let after = usage().unwrap();
        // Other tests of this process open and close files at the same time.
        assert!(after.open_files + 25 > before.open_files + files.len() as u64);
        assert!(after.resident_bytes > 1 << 20 && after.max_files > after.open_files);
        assert!(after.cpu_seconds >= before.cpu_seconds && after.cpu_seconds > 0.0);
    }
}
