//! Tars and gzips, made byte by byte.

use tar::{EntryType, Header};

/// How an entry stores values that do not fit into a plain header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Gnu,
    Pax,
}

/// The fields of an entry, besides its path.
#[derive(Clone, Debug)]
pub struct Said {
    pub format: Format,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub seconds: i64,
    pub nanoseconds: u32,
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Default for Said {
    fn default() -> Self {
        Self {
            format: Format::Gnu,
            mode: 0o644,
            uid: 0,
            gid: 0,
            seconds: 1_700_000_000,
            nanoseconds: 0,
            xattrs: Vec::new(),
        }
    }
}

/// A tar that grows.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn file(&mut self, path: &[u8], content: &[u8]) -> &mut Self {
        self.entry(
            path,
            EntryType::Regular,
            content,
            b"",
            (0, 0),
            &Said::default(),
        )
    }

    pub fn directory(&mut self, path: &[u8]) -> &mut Self {
        let said = Said {
            mode: 0o755,
            ..Said::default()
        };
        self.entry(path, EntryType::Directory, b"", b"", (0, 0), &said)
    }

    pub fn symlink(&mut self, path: &[u8], target: &[u8]) -> &mut Self {
        let said = Said {
            mode: 0o777,
            ..Said::default()
        };
        self.entry(path, EntryType::Symlink, b"", target, (0, 0), &said)
    }

    pub fn link(&mut self, path: &[u8], target: &[u8]) -> &mut Self {
        self.entry(path, EntryType::Link, b"", target, (0, 0), &Said::default())
    }

    pub fn entry(
        &mut self,
        path: &[u8],
        kind: EntryType,
        content: &[u8],
        target: &[u8],
        (major, minor): (u32, u32),
        said: &Said,
    ) -> &mut Self {
        let mut records = Vec::new();
        let long = |name: &[u8]| name.len() > 100;
        match said.format {
            Format::Gnu => {
                for (flag, name) in [(b'K', target), (b'L', path)] {
                    if long(name) {
                        let mut header = Header::new_gnu();
                        header.as_mut_bytes()[..13].copy_from_slice(b"././@LongLink");
                        header.set_entry_type(EntryType::new(flag));
                        self.raw(header, &[name, b"\0"].concat());
                    }
                }
            }
            Format::Pax => {
                for (key, name) in [("linkpath", target), ("path", path)] {
                    if long(name) {
                        record(&mut records, key, name);
                    }
                }
            }
        }
        for (name, value) in &said.xattrs {
            record(&mut records, &format!("SCHILY.xattr.{name}"), value);
        }
        let fits = (0..1 << 33).contains(&said.seconds) && said.nanoseconds == 0;
        if !fits {
            let text = match (said.seconds, said.nanoseconds) {
                (seconds, 0) => format!("{seconds}"),
                (seconds @ 0.., nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
                (seconds, nanoseconds) => {
                    format!("-{}.{:09}", -seconds - 1, 1_000_000_000 - nanoseconds)
                }
            };
            record(&mut records, "mtime", text.as_bytes());
        }
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.as_mut_bytes()[..7].copy_from_slice(b"PaxHead");
            header.set_entry_type(EntryType::XHeader);
            self.raw(header, &records);
        }
        let mut header = match said.format {
            Format::Gnu => Header::new_gnu(),
            Format::Pax => Header::new_ustar(),
        };
        let short = |name: &[u8]| name[..name.len().min(100)].to_vec();
        let bytes = header.as_mut_bytes();
        bytes[..path.len().min(100)].copy_from_slice(&short(path));
        bytes[157..157 + target.len().min(100)].copy_from_slice(&short(target));
        header.set_entry_type(kind);
        header.set_mode(said.mode);
        header.set_uid(said.uid);
        header.set_gid(said.gid);
        header.set_mtime(if fits { said.seconds as u64 } else { 0 });
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.raw(header, content)
    }

    /// A header with the size of its content, the content, and its padding.
    pub fn raw(&mut self, mut header: Header, content: &[u8]) -> &mut Self {
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// The tar with its end mark.
    pub fn end(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

/// A PAX record. Its length includes its own digits.
pub fn record(to: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    to.extend_from_slice(format!("{length} {key}=").as_bytes());
    to.extend_from_slice(value);
    to.push(b'\n');
}
