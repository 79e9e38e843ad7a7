//! An image as large ones are, in four layers: tens of thousands of small text files, which gzip makes three times
//! smaller, and files that do not compress. For one size it is always the same, byte by byte.

use std::io::{self, BufWriter, Read as _, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use super::compressed::{LAYERS, compiled_from};
use super::{Image, Layer, assemble_from, host_architecture, tar};
use crate::fake::{Algorithm, Content, FakeRegistry};

/// Reads each file of a list, one after the other. Prints their number, their total length, a hash of their content
/// (FNV-1a over words of 64 bits, a file's last word padded with zeros) and the microseconds that it took.
const READ: &str = r#"
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t words[1 << 15];

int main(int count, char **arguments) {
    FILE *list = count == 2 ? fopen(arguments[1], "r") : NULL;
    if (!list) return 2;
    uint64_t hash = 14695981039346656037ull;
    unsigned long long files = 0, length = 0;
    char path[4096];
    struct timespec begun, ended;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    while (fgets(path, sizeof path, list)) {
        path[strcspn(path, "\n")] = 0;
        int file = open(path, O_RDONLY);
        if (file < 0) return 3;
        ssize_t got;
        while ((got = read(file, words, sizeof words)) > 0) {
            memset((char *)words + got, 0, -got & 7);
            for (ssize_t at = 0; at < (got + 7) / 8; at++) hash = (hash ^ words[at]) * 1099511628211ull;
            length += got;
        }
        if (got < 0) return 4;
        close(file);
        files++;
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    long long took = (ended.tv_sec - begun.tv_sec) * 1000000ll + (ended.tv_nsec - begun.tv_nsec) / 1000;
    printf("%llu %llu %016llx %lld\n", files, length, (unsigned long long)hash, took);
    return 0;
}
"#;

/// In the image: the program, and its lists of all files, of few that lie evenly over the image, and of about as many
/// that lie together in a few directories, as those of a program and its libraries do.
pub const READER: &str = "/read";
pub const ALL: &str = "/all";
pub const FEW: &str = "/few";
pub const TOGETHER: &str = "/together";

/// One of so many files, or directories of text files, is in a short list.
const ONE_OF: usize = 64;

/// Files of one directory.
const DIRECTORY: usize = 100;

/// The length of the text from which the text files are cut.
const TEXT: usize = 4 << 20;

/// A large image.
#[derive(Clone, Debug)]
pub struct Large {
    pub image: Image,
    /// The digest of each layer's tar, in order.
    pub diff_ids: Vec<String>,
    pub all: Told,
    pub few: Told,
    pub together: Told,
}

/// The program's output for a list of files, except for the time.
#[derive(Clone, Debug)]
pub struct Told {
    pub files: u64,
    pub bytes: u64,
    hash: u64,
}

impl Told {
    fn new() -> Self {
        Self {
            files: 0,
            bytes: 0,
            hash: 0xcbf2_9ce4_8422_2325,
        }
    }

    fn add(&mut self, content: &[u8]) {
        self.files += 1;
        self.bytes += content.len() as u64;
        for word in content.chunks(8) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            self.hash = (self.hash ^ u64::from_le_bytes(padded)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The program's microseconds, if the rest of its output is right.
    pub fn took(&self, said: &str) -> Result<u64> {
        let expected = format!("{} {} {:016x} ", self.files, self.bytes, self.hash);
        let rest = said.strip_prefix(&expected);
        let rest = rest.with_context(|| format!("it read {said}, and not {expected}"))?;
        Ok(rest.trim().parse()?)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Random,
}

struct File {
    path: String,
    length: usize,
    seed: u64,
    kind: Kind,
}

/// Pushes an image of about `size` bytes, compressed.
pub fn build_large(fake: &FakeRegistry, repository: &str, tag: &str, size: u64) -> Result<Large> {
    let text = text();
    let layers = plan(size);
    let (mut all, mut few, mut together) = (Told::new(), Told::new(), Told::new());
    let mut lists = [String::new(), String::new(), String::new()];
    let mut built = Vec::new();
    let mut number = 0_usize;
    for files in &layers {
        let mut archive = Archive::new()?;
        let mut directories: Vec<&str> = Vec::new();
        for file in files {
            for (slash, _) in file.path.match_indices('/') {
                let directory = &file.path[..=slash];
                if !directories.contains(&directory) {
                    archive.put(directory, 0o755, b'5', &[])?;
                    // Only the directories above this file can come up again.
                    directories.retain(|known| directory.starts_with(known));
                    directories.push(directory);
                }
            }
            let content = file.content(&text);
            archive.put(&file.path, 0o644, b'0', &content)?;
            all.add(&content);
            lists[0].extend(["/", &file.path, "\n"]);
            if number.is_multiple_of(ONE_OF) {
                few.add(&content);
                lists[1].extend(["/", &file.path, "\n"]);
            }
            if matches!(file.kind, Kind::Text) && (number / DIRECTORY).is_multiple_of(ONE_OF) {
                together.add(&content);
                lists[2].extend(["/", &file.path, "\n"]);
            }
            number += 1;
        }
        built.push(archive.end()?);
    }
    let mut archive = Archive::new()?;
    archive.put(&READER[1..], 0o755, b'0', &compiled_from(READ)?)?;
    archive.put(&ALL[1..], 0o644, b'0', lists[0].as_bytes())?;
    archive.put(&FEW[1..], 0o644, b'0', lists[1].as_bytes())?;
    archive.put(&TOGETHER[1..], 0o644, b'0', lists[2].as_bytes())?;
    built.insert(0, archive.end()?);
    let (built, diff_ids): (Vec<_>, Vec<_>) = built.into_iter().unzip();
    let image = assemble_from(&LAYERS, built, &diff_ids, host_architecture(), Some(READER));
    image.push(fake, repository, Algorithm::Sha256, Some(tag));
    Ok(Large {
        image,
        diff_ids,
        all,
        few,
        together,
    })
}

/// The files of three layers: a tool chain of text; half as much of text and of large files; large files alone.
fn plan(size: u64) -> [Vec<File>; 3] {
    let mut random = fastrand::Rng::with_seed(size);
    let mut layer = |number: usize, text: u64, rest: u64, each: usize| {
        let mut files = Vec::new();
        let mut add = |length: usize, kind: Kind, seed: u64| {
            let at = files.len();
            files.push(File {
                path: format!("data/{number}/{:04}/{at:06}", at / DIRECTORY),
                length,
                seed,
                kind,
            });
        };
        let mut left = text.cast_signed();
        while left > 0 {
            let least = 1 << random.u32(10..16);
            let length = random.usize(least..2 * least);
            add(length, Kind::Text, random.u64(..));
            left -= length.next_multiple_of(512) as i64 + 512;
        }
        for _ in 0..rest.div_ceil(each as u64) {
            add(each, Kind::Random, random.u64(..));
        }
        files
    };
    let of = |thousandths: u64| size / 1000 * thousandths;
    [
        layer(1, of(990), 0, 1),
        layer(2, of(290), of(317), 1_000_000),
        layer(3, 0, of(255), 1 << 19),
    ]
}

impl File {
    fn content(&self, text: &[u8]) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        match self.kind {
            Kind::Random => {
                let mut content = vec![0; self.length];
                random.fill(&mut content);
                content
            }
            Kind::Text => {
                let mut content = Vec::with_capacity(self.length);
                while content.len() < self.length {
                    let take = random.usize(200..4000).min(self.length - content.len());
                    let at = random.usize(..text.len() - take);
                    content.extend_from_slice(&text[at..at + take]);
                }
                content
            }
        }
    }
}

/// Lines of words, of which a few are frequent.
fn text() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(1);
    let words: Vec<String> = (0..1024)
        .map(|_| {
            let length = random.usize(2..10);
            (0..length).map(|_| random.lowercase()).collect()
        })
        .collect();
    let mut text = Vec::with_capacity(TEXT + 16);
    while text.len() < TEXT {
        let at = random.f64() * random.f64() * random.f64() * words.len() as f64;
        text.extend_from_slice(words[at as usize].as_bytes());
        text.push(if random.u8(..12) == 0 { b'\n' } else { b' ' });
    }
    text
}

/// A layer while it is written: hashed, and compressed by gzip.
struct Archive {
    to: BufWriter<Hashing>,
    compressed: thread::JoinHandle<io::Result<Vec<u8>>>,
    gzip: std::process::Child,
}

struct Hashing {
    hash: Sha256,
    to: ChildStdin,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write_all(bytes)?;
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl Archive {
    fn new() -> Result<Self> {
        let mut gzip = Command::new("gzip")
            .args(["-1", "-n", "-c"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = gzip.stdin.take().context("its input")?;
        let mut from = gzip.stdout.take().context("its output")?;
        let compressed = thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        let hashing = Hashing {
            hash: Sha256::new(),
            to,
        };
        Ok(Self {
            to: BufWriter::with_capacity(1 << 20, hashing),
            compressed,
            gzip,
        })
    }

    fn put(&mut self, path: &str, mode: u32, kind: u8, content: &[u8]) -> io::Result<()> {
        let padding = content.len().next_multiple_of(512) - content.len();
        self.to
            .write_all(&tar::header(path, mode, content.len() as u64, kind))?;
        self.to.write_all(content)?;
        self.to.write_all(&[0; 512][..padding])
    }

    /// The layer, and the digest of its tar.
    fn end(mut self) -> Result<(Layer, String)> {
        self.to.write_all(&[0; 1024])?;
        let hashing = self
            .to
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        let Hashing { hash, to } = hashing;
        drop(to);
        let bytes = self.compressed.join().expect("it read")?;
        let status = self.gzip.wait()?;
        ensure!(status.success(), "gzip: {status}");
        let content = Content::bytes(bytes);
        let layer = Layer {
            digest: content.digest(Algorithm::Sha256),
            content,
        };
        let diff_id = format!("sha256:{}", HEXLOWER.encode(&hash.finalize()));
        Ok((layer, diff_id))
    }
}
