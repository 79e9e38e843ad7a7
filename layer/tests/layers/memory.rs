//! The memory of a build is bounded, for any layer.

use std::fs;
use std::io::Read;

use larder_layer::build;
use tar::{EntryType, Header};

use crate::made::{Format, Said, Tar};

/// A tar that is generated while it is read: as many files as an index may have, with long names.
struct Many {
    next: u32,
    bytes: Vec<u8>,
    at: usize,
}

impl Read for Many {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.bytes.len() && self.next < 199_000 {
            self.next += 1;
            let mut tar = Tar::default();
            let path = format!("{:03}/{:060}", self.next % 500, self.next);
            let said = Said {
                format: Format::Pax,
                uid: 1000,
                ..Said::default()
            };
            tar.entry(
                path.as_bytes(),
                EntryType::Regular,
                &[1; 100],
                b"",
                (0, 0),
                &said,
            );
            (self.bytes, self.at) = (tar.0, 0);
        }
        let length = buffer.len().min(self.bytes.len() - self.at);
        buffer[..length].copy_from_slice(&self.bytes[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// Resident memory of this process now.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

/// Runs in a process of its own, so that other tests do not count.
#[test]
fn a_build_of_200000_files_takes_64_mib() {
    if std::env::var_os("LARDER_MEMORY_ALONE").is_none() {
        let own = std::env::current_exe().unwrap();
        let name = "memory::a_build_of_200000_files_takes_64_mib";
        let status = std::process::Command::new(own)
            .args(["--exact", name, "--test-threads", "1"])
            .env("LARDER_MEMORY_ALONE", "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let before = resident();
    let mut many = Many {
        next: 0,
        bytes: Vec::new(),
        at: 0,
    };
    let summary = build(&mut many, &mut std::io::sink()).unwrap();
    assert_eq!(summary.inodes, 199_501);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    let took = peak * 1024 - before;
    assert!(took <= 64 << 20, "{took} bytes");
}

/// Extended headers are the only content that is held in memory, and their length is limited.
#[test]
fn an_extended_header_of_a_gigabyte_is_refused_at_once() {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_size(1 << 30);
    header.set_cksum();
    let error = build(&mut &header.as_bytes()[..], &mut std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("too large"), "{error}");
}
