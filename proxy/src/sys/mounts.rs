//! The mounts in this process's namespace, as the kernel lists them.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

/// One line of mountinfo.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Major and minor.
    pub device: (u32, u32),
    pub point: PathBuf,
    /// Whether mounts below this one appear in other namespaces.
    pub shared: bool,
    /// Whether this one receives mounts from another one, and passes none back.
    pub slave: bool,
    /// The file system.
    pub kind: String,
    pub source: String,
}

/// All mounts, in the kernel's order: of two mounts at the same place, the later one is on top.
pub fn mounts() -> io::Result<Vec<Mount>> {
    // Each thread may have its own namespace.
    let text = fs::read("/proc/thread-self/mountinfo")?;
    Ok(parse(&text))
}

/// The mount that contains `path`, a path without symbolic links.
pub fn around<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let around = mounts
        .iter()
        .enumerate()
        .filter(|(_, mount)| path.starts_with(&mount.point));
    let (_, mount) =
        around.max_by_key(|(place, mount)| (mount.point.components().count(), *place))?;
    Some(mount)
}

/// Lines that cannot be parsed are left out.
fn parse(text: &[u8]) -> Vec<Mount> {
    let lines = text.split(|byte| *byte == b'\n');
    lines.filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8_lossy(fields.nth(2)?).into_owned();
    let (major, minor) = device.split_once(':')?;
    let point = unescaped(fields.nth(1)?);
    let _options = fields.next()?;
    let mut mount = Mount {
        device: (major.parse().ok()?, minor.parse().ok()?),
        point: PathBuf::from(OsString::from_vec(point)),
        shared: false,
        slave: false,
        kind: String::new(),
        source: String::new(),
    };
    // Any number of optional fields, up to a dash.
    loop {
        match fields.next()? {
            b"-" => break,
            field if field.starts_with(b"shared:") => mount.shared = true,
            field if field.starts_with(b"master:") => mount.slave = true,
            _ => {}
        }
    }
    let text = |field| String::from_utf8_lossy(&unescaped(field)).into_owned();
    mount.kind = text(fields.next()?);
    mount.source = text(fields.next()?);
    Some(mount)
}

/// The kernel writes a blank or a backslash as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = |digit: u8| matches!(digit, b'0'..=b'7').then(|| u32::from(digit - b'0'));
        let code = match after {
            [a, b, c, ..] if byte == b'\\' => octal(*a)
                .zip(octal(*b))
                .zip(octal(*c))
                .and_then(|((a, b), c)| u8::try_from(a * 64 + b * 8 + c).ok()),
            _ => None,
        };
        if let Some(code) = code {
            out.push(code);
            rest = &after[3..];
        } else {
            out.push(byte);
            rest = after;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"\
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 27 0:44 / /run rw,nosuid shared:7 master:3 - tmpfs tmp\\040fs rw
41 40 0:51 / /run/with\\040blank\\134 ro - fuse larder-1 ro,user_id=0
42 40 0:52 / /run/with\\040blank\\134 ro propagate_from:2 - fuse larder-2 ro
43 nonsense
";

    #[test]
    fn lines_say_where_what_and_how_it_spreads() {
        let mounts = parse(TEXT);
        let points: Vec<_> = mounts.iter().map(|m| m.point.to_str().unwrap()).collect();
        assert_eq!(
            points,
            ["/", "/run", "/run/with blank\\", "/run/with blank\\"]
        );
        let spread: Vec<_> = mounts.iter().map(|m| (m.shared, m.slave)).collect();
        assert_eq!(
            spread,
            [(true, false), (true, true), (false, false), (false, false)]
        );
        assert_eq!(mounts[1].source, "tmp fs");
        assert_eq!(mounts[3].device, (0, 52));
        assert_eq!((&*mounts[3].kind, &*mounts[3].source), ("fuse", "larder-2"));
    }

    #[test]
    fn a_path_is_on_the_deepest_mount_and_on_the_last_of_those() {
        let mounts = parse(TEXT);
        let on = |path: &str| around(&mounts, Path::new(path)).unwrap().source.clone();
        assert_eq!(on("/run/with blank\\/x"), "larder-2");
        assert_eq!(on("/run/with"), "tmp fs");
        assert_eq!(on("/runner"), "/dev/vda");
    }

    #[test]
    fn this_process_sees_its_own() {
        let mounts = mounts().unwrap();
        assert!(around(&mounts, Path::new("/proc/self")).is_some());
    }
}
