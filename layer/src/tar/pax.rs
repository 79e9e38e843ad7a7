//! PAX extended headers: `length key=value` and a newline, one after another.
//!
//! A value may contain any bytes, even newlines (file capabilities do). So its end follows from its length.

use crate::refused::Refused;

/// The records for one entry.
#[derive(Default)]
pub struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub modified: Option<(i64, u32)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Records {
    pub fn read(bytes: &[u8]) -> Result<Self, Refused> {
        let mut records = Self::default();
        each(bytes, |key, value| records.take(key, value))?;
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refused> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            // GNU tar reads `%` as the begin of an escape; Go does not.
            if name.is_empty() || name.contains(&b'%') || name.contains(&0) {
                return Err(Refused::Pax);
            }
            self.xattrs.retain(|(known, _)| known != name);
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        if key.starts_with(b"GNU.sparse.") {
            return Err(Refused::Sparse);
        }
        let known: &[&[u8]] = &[b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"];
        if !known.contains(&key) {
            return Ok(());
        }
        // For some readers, an empty value cancels the header's own field.
        if value.is_empty() || value.contains(&0) {
            return Err(Refused::Pax);
        }
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(signed(value)?),
            b"gid" => self.gid = Some(signed(value)?),
            _ => self.modified = Some(time(value)?),
        }
        Ok(())
    }
}

/// A global header may hold comments. GNU tar applies any other record to all entries, and containerd applies it to
/// none.
pub fn check_global(bytes: &[u8]) -> Result<(), Refused> {
    each(bytes, |key, _| {
        if key == b"comment" {
            Ok(())
        } else {
            Err(Refused::Pax)
        }
    })
}

fn each(
    mut bytes: &[u8],
    mut take: impl FnMut(&[u8], &[u8]) -> Result<(), Refused>,
) -> Result<(), Refused> {
    while !bytes.is_empty() {
        let space = bytes
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or(Refused::Pax)?;
        let length = usize::try_from(number(&bytes[..space])?).map_err(|_| Refused::Pax)?;
        if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(Refused::Pax);
        }
        let record = &bytes[space + 1..length - 1];
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or(Refused::Pax)?;
        take(&record[..equals], &record[equals + 1..])?;
        bytes = &bytes[length..];
    }
    Ok(())
}

fn number(digits: &[u8]) -> Result<u64, Refused> {
    let text = std::str::from_utf8(digits).map_err(|_| Refused::Pax)?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refused::Pax);
    }
    text.parse().map_err(|_| Refused::Number)
}

fn signed(digits: &[u8]) -> Result<i64, Refused> {
    i64::try_from(number(digits)?).map_err(|_| Refused::Number)
}

/// `[-]seconds[.fraction]`. The fraction of a negative time counts backwards.
fn time(text: &[u8]) -> Result<(i64, u32), Refused> {
    let (negative, text) = text
        .strip_prefix(b"-")
        .map_or((false, text), |rest| (true, rest));
    let dot = text.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = dot.map_or((text, &b""[..]), |dot| (&text[..dot], &text[dot + 1..]));
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(Refused::Pax);
    }
    let seconds = signed(whole)?;
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanoseconds = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    Ok(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}
