//! A daemon that is killed again and again under many readers of layers that come, and that then are whole.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use larder_tests::fake::digest_of;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::node::{Lazy, PATIENCE, SECOND};
use crate::setup::refused;

/// How often the daemon is killed. scripts/soak sets more.
const KILLS: &str = "LARDER_KILLS";
/// In the readers' process: the files to read (the mount has no listing), the same when they are whole, and where both
/// processes leave word.
const MOUNTED: &str = "LARDER_TEST_MOUNTED";
const WHOLE: &str = "LARDER_TEST_WHOLE";
const WORD: &str = "LARDER_TEST_WORD";

const READERS: u64 = 50;
/// What one read asks for.
const BLOCK: u64 = 128 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_killed_again_and_again_costs_no_reader_a_byte() -> Result<()> {
    if refused("a_daemon_that_is_killed_again_and_again_costs_no_reader_a_byte") {
        return Ok(());
    }
    let kills: u64 = std::env::var(KILLS).map_or(Ok(12), |kills| kills.parse())?;
    let (mut lazy, gate) = Lazy::gated(3).await?;
    lazy.until_referenced().await?;
    let readers = Readers::start(&lazy)?;
    for kill in 0..kills {
        // At first every read waits; then the layers come; then they are whole and are read through the same mounts.
        if kill == kills / 4 {
            gate.open();
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..400))).await;
        lazy.cluster.node_mut(SECOND).kill9().await;
        lazy.cluster.node_mut(SECOND).restart().await;
    }
    gate.open();
    lazy.until_whole().await?;
    let (read, failed) = readers.end(&lazy).await?;
    ensure!(
        failed == 0,
        "{failed} reads failed, {read} did not\n{}",
        lazy.second().log()
    );
    lazy.run_and_compare().await
}

/// Readers in a process of their own: a process that waits inside the kernel for a daemon cannot start one.
struct Readers {
    process: Child,
    word: tempfile::TempDir,
}

impl Readers {
    fn start(lazy: &Lazy) -> Result<Self> {
        let word = tempfile::TempDir::new()?;
        let mounted = (0..lazy.image.diff_ids.len()).map(|layer| lazy.mounted(layer));
        let process = Command::new(std::env::current_exe()?)
            .args(["lazy::kills::as_readers", "--exact", "--nocapture"])
            .env(MOUNTED, std::env::join_paths(mounted)?)
            .env(WHOLE, lazy.offered())
            .env(WORD, word.path())
            .stdout(Stdio::null())
            .stderr(File::create(word.path().join("log"))?)
            .spawn()?;
        Ok(Self { process, word })
    }

    /// Waits for more reads, now that the layers are whole, and ends the readers: how many reads succeeded, and how many
    /// failed. An error if bytes were wrong.
    async fn end(mut self, lazy: &Lazy) -> Result<(u64, u64)> {
        let wanted = self.counts().0 + READERS;
        lazy.until("the readers go on", |_| self.counts().0 >= wanted)
            .await
            .with_context(|| self.log())?;
        fs::write(self.word.path().join("stop"), "")?;
        let deadline = std::time::Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.process.try_wait()? {
                break status;
            }
            ensure!(
                std::time::Instant::now() < deadline,
                "the readers do not end"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        ensure!(status.success(), "{}", self.log());
        Ok(self.counts())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.word.path().join("log")).unwrap_or_default()
    }

    fn counts(&self) -> (u64, u64) {
        let said = fs::read_to_string(self.word.path().join("counts")).unwrap_or_default();
        let mut said = said.split(' ').map(|count| count.parse().unwrap_or(0));
        (said.next().unwrap_or(0), said.next().unwrap_or(0))
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        // Both fail where it has ended, which is as well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The process of the readers; as a test of its own it does nothing.
#[test]
fn as_readers() -> Result<()> {
    let at = |name| std::env::var_os(name);
    let (Some(mounted), Some(whole), Some(word)) = (at(MOUNTED), at(WHOLE), at(WORD)) else {
        return Ok(());
    };
    let files: Vec<PathBuf> = std::env::split_paths(&mounted).collect();
    let (whole, word) = (PathBuf::from(whole), PathBuf::from(word));
    let (read, failed, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let seen = Mutex::default();
    let tell = || -> Result<()> {
        let counts = [&read, &failed].map(|count| count.load(Ordering::Relaxed));
        let new = word.join("counts.new");
        fs::write(&new, format!("{} {}", counts[0], counts[1]))?;
        Ok(fs::rename(new, word.join("counts"))?)
    };
    std::thread::scope(|scope| -> Result<()> {
        for reader in 0..READERS {
            let (files, read, failed, stop, seen) = (&files, &read, &failed, &stop, &seen);
            let mut random = fastrand::Rng::with_seed(reader);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let file = random.usize(0..files.len());
                    let count = match read_one(&files[file], file, &mut random, seen) {
                        Ok(()) => read,
                        Err(_) => failed,
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut told = Ok(());
        // Without its directory, the test has ended.
        while told.is_ok() && !word.join("stop").exists() {
            told = tell();
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        told
    })?;
    tell()?;
    // Whatever was read is what the whole layer has there.
    for ((file, block), digest) in seen.into_inner().expect("no reader has panicked") {
        let name = files[file].file_name().context("a name")?.to_string_lossy();
        let whole = File::open(whole.join(&name[..2]).join(&*name))?;
        let bytes = read_block(&whole, block)?;
        ensure!(digest_of(&bytes) == digest, "{name} at block {block}");
    }
    Ok(())
}

/// Where a block lies: the number of its file, and its own.
type Place = (usize, u64);

/// Reads a block past what the kernel has kept, and compares it with what was read of it before.
fn read_one(
    path: &Path,
    file: usize,
    random: &mut fastrand::Rng,
    seen: &Mutex<HashMap<Place, String>>,
) -> std::io::Result<()> {
    let opened = File::open(path)?;
    let block = random.u64(0..opened.metadata()?.len().div_ceil(BLOCK));
    posix_fadvise(&opened, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let digest = digest_of(&read_block(&opened, block)?);
    let mut seen = seen.lock().expect("no reader has panicked");
    let before = seen.entry((file, block)).or_insert_with(|| digest.clone());
    assert_eq!(*before, digest, "{} at block {block}", path.display());
    Ok(())
}

fn read_block(file: &File, block: u64) -> std::io::Result<Vec<u8>> {
    let at = block * BLOCK;
    let length = BLOCK.min(file.metadata()?.len() - at);
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}
