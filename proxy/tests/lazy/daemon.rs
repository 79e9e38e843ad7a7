//! A daemon that serves made-up files, slowly.

use std::{
    fs,
    io::Write as _,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use larder::{
    drain::Drain,
    flat::{Entry, Files, Unread},
    hold::{self, Link},
};

/// The holder's socket. Only with this variable the program is a daemon.
pub const SOCKET: &str = "LARDER_TEST_SOCKET";
/// The directory through which the test and the daemon talk.
pub const SAID: &str = "LARDER_TEST_SAID";
/// The longest that a read takes, in milliseconds.
pub const DELAY: &str = "LARDER_TEST_DELAY";

/// Number of made-up files.
pub const FILES: u64 = 50;
const FIRST: u64 = 1000;
/// A file on disk: `image` in the directory.
const IMAGE: u64 = 2000;

/// The name of a made-up file.
pub fn name(number: u64) -> String {
    format!("made-{number}")
}

/// Its length. No two are equal, and none is a multiple of a page.
pub fn length(number: u64) -> u64 {
    if number == 0 {
        return (4 << 20) + 5;
    }
    (96 << 10) + number * 4096 + 123
}

/// Its content. No byte is zero.
pub fn content(number: u64, range: Range<u64>) -> Vec<u8> {
    let byte = |at: u64| {
        let word = (number << 40 | at >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let word = word ^ word >> 29;
        (word >> ((at & 7) * 8)) as u8 | 1
    };
    range.map(byte).collect()
}

struct Made {
    said: PathBuf,
    image: Option<fs::File>,
    delay: u64,
}

impl Made {
    fn is_said(&self, word: &str) -> bool {
        self.said.join(word).exists()
    }

    fn tell(&self, what: &str) {
        let path = self.said.join(format!("told-{}", std::process::id()));
        let mut file = fs::File::options().create(true).append(true).open(path);
        if let Ok(file) = &mut file {
            let _ = file.write_all(what.as_bytes());
        }
    }
}

impl Files for Made {
    fn named(&self, name: &[u8]) -> Option<Entry> {
        if name == b"image" {
            return self.of(IMAGE);
        }
        let name = std::str::from_utf8(name).ok()?;
        let number: u64 = name.strip_prefix("made-")?.parse().ok()?;
        self.of(FIRST + number)
    }

    fn of(&self, node: u64) -> Option<Entry> {
        let bytes = if node == IMAGE {
            self.image.as_ref()?.metadata().ok()?.len()
        } else {
            let number = node.checked_sub(FIRST).filter(|number| *number < FILES)?;
            length(number)
        };
        Some(Entry { node, bytes })
    }

    async fn read(self: Arc<Self>, node: u64, range: Range<u64>) -> Result<Bytes, Unread> {
        self.tell(&format!("read {}\n", range.end - range.start));
        let delay = Duration::from_millis(fastrand::u64(0..=self.delay));
        tokio::time::sleep(delay).await;
        while self.is_said("wait") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if self.is_said("fail") {
            return Err(Unread::Failed);
        }
        if node == IMAGE {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            let image = self.image.as_ref().ok_or(Unread::Gone)?;
            image
                .read_exact_at(&mut bytes, range.start)
                .map_err(|_| Unread::Failed)?;
            return Ok(bytes.into());
        }
        let short = u64::from(self.is_said("short"));
        Ok(content(node - FIRST, range.start..range.end - short).into())
    }
}

/// Serves until it is killed.
pub fn run(socket: PathBuf) {
    let said = PathBuf::from(std::env::var_os(SAID).expect("a directory"));
    let delay = std::env::var(DELAY).ok().and_then(|ms| ms.parse().ok());
    let made = Arc::new(Made {
        image: fs::File::open(said.join("image")).ok(),
        delay: delay.unwrap_or(0),
        said,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (_drain, stop) = Drain::new();
        let (mut standing, work) = hold::attend(socket, Arc::clone(&made), stop);
        let work = tokio::spawn(work);
        loop {
            let seen = standing.borrow_and_update().clone();
            let files = seen.files.is_some();
            made.tell(&match seen.link {
                Link::Held => format!("held {files}\n"),
                Link::GaveWay => format!("gave-way {files}\n"),
                Link::Absent(why) => format!("absent {files} {why}\n"),
            });
            standing.changed().await.expect("it attends");
            assert!(!work.is_finished());
        }
    });
}

/// What the daemon with this process id has written.
pub fn told(said: &Path, pid: u32) -> String {
    fs::read_to_string(said.join(format!("told-{pid}"))).unwrap_or_default()
}
