//! Images as they commonly are: layers of many files, compressed by gzip. The last layer has a program that prints each
//! file's content hash, so that a test can compare what a container sees.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::{Format, Image, Layer, OCI, assemble_from, host_architecture, tar};
use crate::fake::{Algorithm, Content, FakeRegistry};

/// The media type of its layers.
pub(super) const LAYERS: Format = Format {
    layer: "application/vnd.oci.image.layer.v1.tar+gzip",
    ..OCI
};

/// Prints a line for each file below `/data`: its path, its length, and a hash of its content (FNV-1a, 64 bits).
const TELL: &str = r#"
#define _XOPEN_SOURCE 700
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>

static int failed;

static int tell(const char *path, const struct stat *stat, int kind, struct FTW *ftw) {
    if (kind != FTW_F || !S_ISREG(stat->st_mode)) return 0;
    FILE *file = fopen(path, "r");
    if (!file) { failed = 1; return 0; }
    static unsigned char bytes[1 << 16];
    uint64_t hash = 14695981039346656037ull;
    unsigned long long length = 0;
    size_t got;
    while ((got = fread(bytes, 1, sizeof bytes, file)) > 0) {
        length += got;
        for (size_t at = 0; at < got; at++) hash = (hash ^ bytes[at]) * 1099511628211ull;
    }
    if (ferror(file)) failed = 1;
    fclose(file);
    printf("%s %llu %016llx\n", path, length, (unsigned long long)hash);
    return 0;
}

int main(void) { return nftw("/data", tell, 16, FTW_PHYS) || failed; }
"#;

/// An image of layers that are compressed.
#[derive(Clone, Debug)]
pub struct Compressed {
    pub image: Image,
    /// The digest of each layer's tar, in order.
    pub diff_ids: Vec<String>,
    /// The output of a container, line by line in the order of the paths.
    pub told: Vec<String>,
}

/// Pushes an image of `layers` layers with files that depend on `seed`, and one more with the program. Each layer but
/// the first hides a file of the layer below and replaces another.
pub fn build_compressed(
    fake: &FakeRegistry,
    repository: &str,
    tag: &str,
    seed: u64,
    layers: u64,
) -> Result<Compressed> {
    let mut told = BTreeMap::new();
    let (mut built, mut diff_ids) = (Vec::new(), Vec::new());
    let mut add = |archive: &[u8]| -> Result<()> {
        diff_ids.push(Content::bytes(archive.to_vec()).digest(Algorithm::Sha256));
        let content = Content::bytes(gzip(archive)?);
        built.push(Layer {
            digest: content.digest(Algorithm::Sha256),
            content,
        });
        Ok(())
    };
    for number in 0..layers {
        add(&layer(seed, number, &mut told)?)?;
    }
    let program = tar::archive("tell", 0o755, Content::bytes(compiled_from(TELL)?));
    add(&program.read(0..program.len()))?;
    let image = assemble_from(
        &LAYERS,
        built,
        &diff_ids,
        host_architecture(),
        Some("/tell"),
    );
    image.push(fake, repository, Algorithm::Sha256, Some(tag));
    Ok(Compressed {
        image,
        diff_ids,
        told: told.into_values().collect(),
    })
}

/// The tar of one layer. `told` has the program's output for the layers so far.
fn layer(seed: u64, number: u64, told: &mut BTreeMap<String, String>) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let nested = data.join("nested/deep");
    fs::create_dir_all(&nested)?;
    let mut put = |name: &str, seed: u64, length: u64| -> Result<()> {
        let mut bytes = Content::synthetic(seed, length).read(0..length);
        // Half of each file compresses.
        let half = bytes.len() / 2;
        bytes[half..].fill(b'x');
        fs::write(data.join(name), &bytes)?;
        let path = format!("/data/{name}");
        let line = format!("{path} {length} {:016x}", fnv(&bytes));
        told.insert(path, line);
        Ok(())
    };
    for file in 0..20 {
        let of_file = seed * 10_000 + number * 100 + file;
        put(
            &format!("{number}-{file}"),
            of_file,
            of_file * 7919 % 90_000,
        )?;
    }
    put(&format!("nested/deep/{number}"), seed + number, 3_000_000)?;
    put("replaced", seed * 31 + number, 10_000 + number)?;
    fs::hard_link(data.join("replaced"), data.join(format!("linked-{number}")))?;
    let line = told["/data/replaced"].replace("/data/replaced", &format!("/data/linked-{number}"));
    told.insert(format!("/data/linked-{number}"), line);
    symlink("replaced", data.join("symbolic"))?;
    if let Some(below) = number.checked_sub(1) {
        fs::write(data.join(format!(".wh.{below}-7")), "")?;
        told.remove(&format!("/data/{below}-7"));
    }
    let archive = Command::new("tar")
        .args([
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--sort=name",
            "-C",
        ])
        .arg(dir.path())
        .args(["-cf", "-", "data"])
        .output()?;
    ensure!(archive.status.success(), "tar: {archive:?}");
    Ok(archive.stdout)
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = Command::new("gzip")
        .args(["-n", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = gzip.stdin.take().context("its input")?;
    let output = std::thread::scope(|scope| {
        let writing = scope.spawn(move || input.write_all(bytes));
        let output = gzip.wait_with_output();
        writing.join().expect("it wrote")?;
        output
    })?;
    ensure!(output.status.success(), "gzip: {}", output.status);
    Ok(output.stdout)
}

/// Compiles a program, statically: nothing else is in the image.
pub(super) fn compiled_from(source: &str) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("program.c");
    fs::write(&file, source)?;
    compiled(&file, &dir.path().join("program"))
}

fn compiled(source: &Path, program: &Path) -> Result<Vec<u8>> {
    let mut cc = Command::new("cc");
    cc.args(["-static", "-Os", "-s", "-o"])
        .arg(program)
        .arg(source);
    let output = cc
        .output()
        .context("starting cc; scripts/test installs it")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(fs::read(program)?)
}
