//! What the watcher's process may do, and which resources of the machine it uses.

use std::collections::HashSet;
use std::fs;
use std::ops::Range;

use bytes::Bytes;
use larder_tests::fake::digest_of;
use larder_tests::watcher::{Watcher, directory};
use serde_json::json;

use crate::fake::{Fake, Fields, Reply, bare_containerd};

/// A line of `/proc/PID/status`.
fn status(pid: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(name, _)| *name == key);
    found
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

fn kib(pid: u32, key: &str) -> u64 {
    let value = status(pid, key);
    let digits = value.trim_end_matches(" kB");
    digits.parse().expect("a number of KiB")
}

/// The inodes of this process's sockets.
fn sockets(pid: u32) -> HashSet<String> {
    let files = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("it runs")
        .flatten();
    let links = files.filter_map(|file| fs::read_link(file.path()).ok());
    let inodes = links.filter_map(|link| {
        let link = link.to_string_lossy().into_owned();
        Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    });
    inodes.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_has_unix_sockets_alone_and_can_make_no_other() {
    let dir = directory();
    let socket = dir.path().join("containerd.sock");
    let _fake = Fake::start(&socket, bare_containerd);
    let mut watcher = Watcher::start(&socket, &["--every", "1h"]);
    watcher.until("a file", |_| true).await;
    let pid = watcher.pid();
    assert_eq!(status(pid, "Seccomp"), "2", "a filter");
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    assert_eq!(status(pid, "Threads"), "1");
    let unix = fs::read_to_string(format!("/proc/{pid}/net/unix")).expect("it runs");
    let known: HashSet<&str> = unix
        .lines()
        .filter_map(|line| line.split_whitespace().nth(6))
        .collect();
    let own = sockets(pid);
    assert!(!own.is_empty(), "it is connected");
    let other: Vec<_> = own
        .iter()
        .filter(|inode| !known.contains(inode.as_str()))
        .collect();
    assert!(other.is_empty(), "sockets of another family: {other:?}");

    #[cfg(target_arch = "x86_64")]
    {
        let (inet, inet6, netlink, vsock) = (2, 10, 16, 40);
        for family in [inet, inet6, netlink, vsock] {
            let made = injected::socket(pid, family);
            let refused = -i64::from(nix::errno::Errno::EAFNOSUPPORT as i32);
            assert_eq!(made, refused, "family {family}");
        }
        assert!(injected::socket(pid, 1) >= 0, "AF_UNIX is left");
    }
    watcher.terminate();
}

/// Makes another process run a system call.
#[cfg(target_arch = "x86_64")]
mod injected {
    use nix::sys::ptrace;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::Pid;

    /// The numbers of the calls.
    const SOCKET: u64 = 41;
    /// Runs `int socket(family, SOCK_STREAM, 0)` in the process, as if it called it itself. Gives the kernel's answer.
    pub(super) fn socket(pid: u32, family: u64) -> i64 {
        let pid = Pid::from_raw(pid.cast_signed());
        ptrace::attach(pid).expect("the tests may trace");
        assert!(matches!(waitpid(pid, None), Ok(WaitStatus::Stopped(..))));
        let before = ptrace::getregs(pid).expect("its registers");
        // The process waits in a system call, so the instruction before is `syscall`, two bytes long.
        let instruction = ptrace::read(pid, (before.rip - 2) as ptrace::AddressType);
        assert_eq!(
            instruction.expect("its code") & 0xffff,
            0x050f,
            "it is in no call"
        );
        let mut call = before;
        call.rip -= 2;
        (call.rax, call.orig_rax) = (SOCKET, u64::MAX);
        (call.rdi, call.rsi, call.rdx) = (family, 1, 0);
        ptrace::setregs(pid, call).expect("registers");
        ptrace::step(pid, None).expect("a step");
        assert!(matches!(waitpid(pid, None), Ok(WaitStatus::Stopped(..))));
        let answer = ptrace::getregs(pid)
            .expect("its registers")
            .rax
            .cast_signed();
        // The call in which it waited looks interrupted, and the process makes it again.
        let mut after = before;
        if (-516..=-512).contains(&after.rax.cast_signed()) {
            after.rax = (-4_i64).cast_unsigned();
        }
        after.orig_rax = u64::MAX;
        ptrace::setregs(pid, after).expect("registers");
        ptrace::detach(pid, None).expect("it goes on");
        answer
    }
}

/// A message of a content store's list.
pub(crate) fn blobs(numbers: Range<u32>) -> Bytes {
    let mut list = Fields::default();
    for number in numbers {
        let digest = digest_of(format!("blob {number}").as_bytes());
        let blob = Fields::default()
            .text(1, &digest)
            .number(2, 1_000_000)
            .entry(
                5,
                "containerd.io/distribution.source.registry.example",
                "team/application",
            )
            .entry(5, "containerd.io/uncompressed", &digest);
        list = list.message(1, &blob);
    }
    list.bytes()
}

const IMAGES: u32 = 1_000;
const BLOBS: u32 = 10_000;

/// Images of ten layers. All have one manifest, which the watcher still reads for each image, since each target has its
/// own digest.
fn images() -> Bytes {
    let mut list = Fields::default();
    for number in 0..IMAGES {
        let target = Fields::default().text(2, &digest_of(&manifest(number)));
        for name in [
            "registry.example/team/application:v",
            "registry.example/team/other:v",
        ] {
            let image = Fields::default()
                .text(1, &format!("{name}{number}"))
                .message(3, &target);
            list = list.message(1, &image);
        }
    }
    list.bytes()
}

fn manifest(number: u32) -> Vec<u8> {
    let layers: Vec<_> = (0..10)
        .map(|layer| json!({"digest": digest_of(format!("{number} {layer}").as_bytes())}))
        .collect();
    let config = json!({"digest": digest_of(format!("config {number}").as_bytes())});
    json!({"config": config, "layers": layers})
        .to_string()
        .into_bytes()
}

fn snapshots() -> Vec<Bytes> {
    let lists = (0..BLOBS / 100).map(|hundred| {
        let mut list = Fields::default();
        for number in hundred * 100..(hundred + 1) * 100 {
            let name = digest_of(format!("chain {number}").as_bytes());
            let snapshot = Fields::default()
                .text(1, &name)
                .text(2, &digest_of(format!("chain {}", number + 1).as_bytes()))
                .entry(6, "containerd.io/snapshot.ref", &name);
            list = list.message(1, &snapshot);
        }
        list.bytes()
    });
    lists.collect()
}

/// The process's own memory at rest, at most.
const OWN_KIB: u64 = 8 * 1024;
/// Its resident memory while it asks, at most, with the pages of a debug build.
const RESIDENT_KIB: u64 = 40 * 1024;

/// Whether the process has dropped the program's pages that it does not need while it waits. A debug build needs three
/// times as many as a release.
fn is_small(watcher: &Watcher) -> bool {
    let keys = ["RssAnon", "RssFile", "VmHWM"];
    let [own, program, most] = keys.map(|key| kib(watcher.pid(), key));
    2 * (own + program) < most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_small_while_it_waits() {
    let dir = directory();
    let socket = dir.path().join("containerd.sock");
    let _fake = Fake::start(&socket, bare_containerd);
    let mut watcher = Watcher::start(&socket, &["--every", "1h"]);
    watcher.until("a file", |_| true).await;
    watcher.holds("it is small", is_small).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_images_and_ten_thousand_blobs_take_little_memory() {
    let dir = directory();
    let socket = dir.path().join("containerd.sock");
    let manifests: std::collections::HashMap<String, Vec<u8>> = (0..IMAGES)
        .map(manifest)
        .map(|manifest| (digest_of(&manifest), manifest))
        .collect();
    let (images, snapshots) = (images(), snapshots());
    let content: Vec<Bytes> = (0..BLOBS / 100)
        .map(|n| blobs(n * 100..(n + 1) * 100))
        .collect();
    let answer = move |asked: &str, about: &[u8]| match asked {
        "Images/List" => Reply::All(vec![images.clone()]),
        "Snapshots/List" => Reply::All(snapshots.clone()),
        "Content/List" => Reply::All(content.clone()),
        "Content/Read" => {
            // The request is one field of text: a tag, a length, the digest.
            let digest = String::from_utf8_lossy(about.get(2..).unwrap_or_default()).into_owned();
            let bytes = &manifests[&digest];
            let mut fields = Fields::default();
            fields = fields.text(2, std::str::from_utf8(bytes).expect("JSON"));
            Reply::All(vec![fields.bytes()])
        }
        other => bare_containerd(other),
    };
    let _fake = Fake::start_asked(&socket, answer);
    let mut watcher = Watcher::start(&socket, &["--every", "1s"]);
    let full = |report: &serde_json::Value| {
        let count = |list: &str| report[list].as_array().map_or(0, Vec::len);
        assert_eq!(
            (count("images"), count("snapshots"), count("content")),
            (1000, 10_000, 10_000)
        );
        report["images"][0]["layers"].as_array().map(Vec::len) == Some(10)
    };
    let first = watcher.until("a file", full).await;
    let next = |report: &serde_json::Value| report["at"].as_u64() > first["at"].as_u64();
    watcher.until("another", next).await;
    let [own, most] = ["RssAnon", "VmHWM"].map(|key| kib(watcher.pid(), key));
    eprintln!("{own} KiB of its own, and at most {most} KiB with the program's");
    assert!(own < OWN_KIB && most < RESIDENT_KIB, "{own} {most} KiB");
    watcher
        .holds("it is small between two reports", is_small)
        .await;
}
