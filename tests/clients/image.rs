//! OCI layouts of images that really run: a hand-made static executable and incompressible bytes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// One image on disk as an OCI layout.
pub(crate) struct Layout {
    dir: TempDir,
    /// The digest that a tag points at: the index of a multi-platform image, else the manifest.
    pub(crate) digest: String,
    pub(crate) platforms: Vec<Platform>,
}

/// The digests ("sha256:…") of one platform's image.
pub(crate) struct Platform {
    pub(crate) architecture: &'static str,
    pub(crate) manifest: String,
    pub(crate) config: String,
    pub(crate) layers: Vec<String>,
}

impl Platform {
    /// Everything a client of this platform stores, apart from an index.
    pub(crate) fn digests(&self) -> impl Iterator<Item = &String> {
        [&self.manifest, &self.config]
            .into_iter()
            .chain(&self.layers)
    }
}

/// This machine's architecture by its OCI name.
pub(crate) fn native() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

/// What the image's command prints on this architecture.
pub(crate) fn greeting(architecture: &str) -> String {
    format!("hello from {architecture}\n")
}

impl Layout {
    /// An image for this machine alone, with `payload` random bytes as its second layer.
    pub(crate) fn single(payload: usize) -> Result<Self> {
        Self::build(&[native()], payload)
    }

    /// An index of two platforms, this machine's second: taking the first entry would be wrong.
    pub(crate) fn multi(payload: usize) -> Result<Self> {
        match native() {
            "arm64" => Self::build(&["amd64", "arm64"], payload),
            _ => Self::build(&["arm64", "amd64"], payload),
        }
    }

    /// The layout's directory.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// This machine's platform.
    pub(crate) fn native(&self) -> Result<&Platform> {
        self.platforms
            .iter()
            .find(|platform| platform.architecture == native())
            .context("no native platform")
    }

    fn build(architectures: &[&'static str], payload: usize) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("layout-").tempdir()?;
        let blobs = Blobs(dir.path().join("blobs/sha256"));
        std::fs::create_dir_all(&blobs.0)?;
        std::fs::write(
            dir.path().join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        let mut platforms = Vec::new();
        let mut top = Value::Null;
        let mut entries = Vec::new();
        for architecture in architectures {
            let mut bytes = vec![0; payload];
            fastrand::fill(&mut bytes);
            let layers = [
                blobs.put(LAYER, &tar("hello", &executable(architecture)))?,
                blobs.put(LAYER, &tar("payload", &bytes))?,
            ];
            let layer_digests = layers.iter().map(digest_of).collect::<Result<Vec<_>>>()?;
            let config = blobs.put_json(
                CONFIG,
                &json!({
                    "architecture": architecture,
                    "os": "linux",
                    "config": { "Cmd": ["/hello"] },
                    "rootfs": { "type": "layers", "diff_ids": layer_digests },
                }),
            )?;
            let mut manifest = blobs.put_json(
                MANIFEST,
                &json!({
                    "schemaVersion": 2,
                    "mediaType": MANIFEST,
                    "config": config,
                    "layers": layers,
                }),
            )?;
            platforms.push(Platform {
                architecture,
                manifest: digest_of(&manifest)?,
                config: digest_of(&config)?,
                layers: layer_digests,
            });
            manifest["platform"] = json!({ "architecture": architecture, "os": "linux" });
            top = manifest.clone();
            entries.push(manifest);
        }
        if entries.len() > 1 {
            top = blobs.put_json(
                INDEX,
                &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }),
            )?;
        }
        let digest = digest_of(&top)?;
        let index = json!({ "schemaVersion": 2, "manifests": [top] });
        std::fs::write(dir.path().join("index.json"), index.to_string())?;
        Ok(Self {
            dir,
            digest,
            platforms,
        })
    }
}

/// "sha256:…" of these bytes.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(bytes)))
}

fn digest_of(descriptor: &Value) -> Result<String> {
    let digest = descriptor["digest"].as_str().context("no digest")?;
    Ok(digest.to_owned())
}

/// The directory of a layout's blobs.
struct Blobs(PathBuf);

impl Blobs {
    /// Stores `bytes` and returns their descriptor.
    fn put(&self, media_type: &str, bytes: &[u8]) -> Result<Value> {
        let digest = sha256(bytes);
        std::fs::write(self.0.join(digest.trim_start_matches("sha256:")), bytes)?;
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
    }

    fn put_json(&self, media_type: &str, value: &Value) -> Result<Value> {
        self.put(media_type, value.to_string().as_bytes())
    }
}

/// A ustar archive of one file, mode 0755 (POSIX.1-1988: one header block, padded content, two
/// zero blocks).
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
    put(0, name.as_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());

    let mut archive = Vec::with_capacity(content.len() + 2048);
    archive.extend_from_slice(&header);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

/// A static ELF executable that writes its greeting and exits with 0, in system calls alone, so
/// that no compiler is needed and a foreign platform's image is as real as the native one.
fn executable(architecture: &str) -> Vec<u8> {
    let text = greeting(architecture);
    let length = text.len() as u32;
    let (machine, mut code) = match architecture {
        "arm64" => (183_u16, arm64(length)),
        _ => (62_u16, amd64(length)),
    };
    code.extend_from_slice(text.as_bytes());

    let base = 0x40_0000_u64;
    let headers = 64 + 56;
    let size = headers + code.len() as u64;
    let mut elf = Vec::new();
    // The file header: 64-bit, little-endian, version 1; then ET_EXEC.
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend_from_slice(&2_u16.to_le_bytes());
    elf.extend_from_slice(&machine.to_le_bytes());
    elf.extend_from_slice(&1_u32.to_le_bytes());
    for field in [base + headers, 64, 0] {
        elf.extend_from_slice(&field.to_le_bytes());
    }
    elf.extend_from_slice(&0_u32.to_le_bytes());
    for field in [64_u16, 56, 1, 64, 0, 0] {
        elf.extend_from_slice(&field.to_le_bytes());
    }
    // The one program header: PT_LOAD, readable and executable, the whole file.
    elf.extend_from_slice(&1_u32.to_le_bytes());
    elf.extend_from_slice(&5_u32.to_le_bytes());
    for field in [0, base, base, size, size, 0x1000] {
        elf.extend_from_slice(&field.to_le_bytes());
    }
    elf.extend_from_slice(&code);
    elf
}

fn amd64(length: u32) -> Vec<u8> {
    let mut code = vec![0xb8, 1, 0, 0, 0]; // mov eax, 1 (write)
    code.extend([0xbf, 1, 0, 0, 0]); // mov edi, 1
    code.extend([0x48, 0x8d, 0x35, 16, 0, 0, 0]); // lea rsi, [rip + 16]: behind the code
    code.push(0xba); // mov edx, length
    code.extend(length.to_le_bytes());
    code.extend([0x0f, 0x05]); // syscall
    code.extend([0xb8, 60, 0, 0, 0]); // mov eax, 60 (exit)
    code.extend([0x31, 0xff]); // xor edi, edi
    code.extend([0x0f, 0x05]); // syscall
    code
}

fn arm64(length: u32) -> Vec<u8> {
    [
        0xd280_0020,                 // mov x0, #1
        0x1000_00e1,                 // adr x1, . + 28: behind the code
        0xd280_0002 | (length << 5), // mov x2, #length
        0xd280_0808,                 // mov x8, #64 (write)
        0xd400_0001,                 // svc #0
        0xd280_0000,                 // mov x0, #0
        0xd280_0ba8,                 // mov x8, #93 (exit)
        0xd400_0001,                 // svc #0
    ]
    .into_iter()
    .flat_map(u32::to_le_bytes)
    .collect()
}
