//! One header block of a tar.

use std::borrow::Cow;

use tar::Header as Block;

use super::BLOCK;
use crate::refused::Refused;

/// The type flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// A file of the oldest format, or a directory, if its name ends with a slash.
    Old,
    Regular,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
    PaxRecords,
    PaxGlobal,
    GnuPath,
    GnuLink,
}

/// The fields of the block.
pub struct Header {
    pub kind: Type,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u16,
    pub uid: i64,
    pub gid: i64,
    pub size: u64,
    pub seconds: i64,
    pub major: u32,
    pub minor: u32,
}

/// Reads a block that is not all zeros.
pub fn read_header(bytes: &[u8; BLOCK]) -> Result<Header, Refused> {
    check_sum(bytes)?;
    // POSIX, GNU, or the oldest format, which has no mark. Other formats have the prefix and the times at other places.
    let star = &bytes[508..] == b"tar\0";
    if star
        || !matches!(
            &bytes[257..265],
            b"ustar\x0000" | b"ustar  \0" | b"\0\0\0\0\0\0\0\0"
        )
    {
        return Err(Refused::Header);
    }
    let kind = match bytes[156] {
        0 => Type::Old,
        b'0' => Type::Regular,
        b'1' => Type::HardLink,
        b'2' => Type::Symlink,
        b'3' => Type::CharDevice,
        b'4' => Type::BlockDevice,
        b'5' => Type::Directory,
        b'6' => Type::Fifo,
        b'x' => Type::PaxRecords,
        b'g' => Type::PaxGlobal,
        b'L' => Type::GnuPath,
        b'K' => Type::GnuLink,
        b'S' => return Err(Refused::Sparse),
        _ => return Err(Refused::EntryType),
    };
    let block = Block::from_byte_slice(bytes);
    let old = block.as_old();
    let device = matches!(kind, Type::CharDevice | Type::BlockDevice);
    let (major, minor) = match (device, block.as_ustar(), block.as_gnu()) {
        (false, _, _) => (0, 0),
        (true, Some(fields), _) => (number(&fields.dev_major)?, number(&fields.dev_minor)?),
        (true, None, Some(fields)) => (number(&fields.dev_major)?, number(&fields.dev_minor)?),
        (true, None, None) => return Err(Refused::Header),
    };
    Ok(Header {
        kind,
        path: block.path_bytes().into_owned(),
        link: block
            .link_name_bytes()
            .map(Cow::into_owned)
            .unwrap_or_default(),
        mode: (number(&old.mode)? & 0o7777) as u16,
        uid: number(&old.uid)?,
        gid: number(&old.gid)?,
        size: u64::try_from(number(&old.size)?).map_err(|_| Refused::Header)?,
        seconds: number(&old.mtime)?,
        major: u32::try_from(major).map_err(|_| Refused::Number)?,
        minor: u32::try_from(minor).map_err(|_| Refused::Number)?,
    })
}

/// Checks the sum of all bytes, with spaces in place of its own field. Old writers summed signed bytes.
fn check_sum(bytes: &[u8; BLOCK]) -> Result<(), Refused> {
    let said = number(&bytes[148..156])?;
    let others = || bytes[..148].iter().chain(&bytes[156..]);
    let unsigned: i64 = others().map(|byte| i64::from(*byte)).sum();
    let signed: i64 = others().map(|byte| i64::from(byte.cast_signed())).sum();
    let spaces = 8 * i64::from(b' ');
    if said == unsigned + spaces || said == signed + spaces {
        Ok(())
    } else {
        Err(Refused::Header)
    }
}

/// An octal number between spaces and zero bytes, or one in base 256. An empty field is 0.
fn number(field: &[u8]) -> Result<i64, Refused> {
    if field[0] & 0x80 != 0 {
        return binary(field);
    }
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    let mut value = 0_i64;
    for digit in field[..end].trim_ascii() {
        if !matches!(digit, b'0'..=b'7') {
            return Err(Refused::Header);
        }
        value = value.checked_mul(8).ok_or(Refused::Number)? + i64::from(digit - b'0');
    }
    Ok(value)
}

/// Two's complement. The first bit marks the form, and the second one is the sign.
fn binary(field: &[u8]) -> Result<i64, Refused> {
    let negative = field[0] & 0x40 != 0;
    let mut value = if negative { -1_i64 } else { 0 };
    for (at, byte) in field.iter().enumerate() {
        let byte = match (at, negative) {
            (0, false) => byte & 0x7f,
            _ => *byte,
        };
        value = value.checked_mul(256).ok_or(Refused::Number)? | i64::from(byte);
    }
    Ok(value)
}
