//! Single values and their notation: sizes, times, addresses, patterns, paths.
//!
//! Each reader takes the text of one value. Its error holds only the fix, since the caller adds the key and the place.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

/// A longer time is a mistake, and adding it to a clock could overflow.
const LONGEST_TIME: Duration = Duration::from_hours(24 * 365 * 100);

/// The longest path of a unix socket, without the final NUL.
const LONGEST_SOCKET_PATH: usize = 107;

/// Bytes per second.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    match Amount::parse(text)? {
        Amount::Bytes(0) => {
            Err("nothing could ever be written: leave it out for no bound".to_owned())
        }
        Amount::Bytes(bytes) => Ok(bytes),
        Amount::Percent(_) => Err("write a size per second, such as \"50MB\"".to_owned()),
    }
}

/// An absolute size.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    match Amount::parse(text)? {
        Amount::Bytes(bytes) => Ok(bytes),
        Amount::Percent(_) => Err("write a size, such as \"16MiB\"".to_owned()),
    }
}

/// A size: absolute, or a share of a whole that is known only later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// In bytes.
    Bytes(u64),
    /// In percent, 0 to 100.
    Percent(u8),
}

impl Amount {
    /// The amount in bytes, where the whole has `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => (u128::from(total) * u128::from(percent) / 100) as u64,
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        const WRITTEN: &str = "a size is written \"50GiB\", \"500MB\" or \"80%\"";
        let text = text.trim();
        if let Some(number) = text.strip_suffix('%') {
            let number = number.trim_end();
            if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err("a percentage is a whole number, such as \"80%\"".to_owned());
            }
            return match number.parse() {
                Ok(percent) if percent <= 100 => Ok(Self::Percent(percent)),
                _ => Err("a percentage cannot be over 100%".to_owned()),
            };
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            if text.bytes().all(|byte| byte == b'0') {
                return Ok(Self::Bytes(0));
            }
            return Err(format!(
                "the unit is missing: write \"{text}GiB\", \"{text}MB\" or \"{text}%\""
            ));
        }
        match text.parse::<ByteSize>() {
            // bytesize saturates instead of failing.
            Ok(ByteSize(u64::MAX)) => Err("more than any disk can hold".to_owned()),
            Ok(ByteSize(bytes)) => Ok(Self::Bytes(bytes)),
            Err(_) => Err(WRITTEN.to_owned()),
        }
    }

    /// As [`Amount::parse`], for a bound that must leave room for something: not zero.
    pub(super) fn parse_positive(text: &str) -> Result<Self, String> {
        match Self::parse(text)? {
            Self::Bytes(0) | Self::Percent(0) => {
                Err("a store of this size holds nothing: write \"80%\" or \"50GiB\"".to_owned())
            }
            amount => Ok(amount),
        }
    }
}

impl fmt::Display for Amount {
    /// Exact, in the largest binary unit without a fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(0) => f.write_str("0"),
            Self::Bytes(bytes) => {
                const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
                let thousands = (bytes.trailing_zeros() / 10) as usize;
                write!(f, "{}{}", bytes >> (10 * thousands), UNITS[thousands])
            }
        }
    }
}

/// A glob in which `*` stands for any characters, also none. Every other character stands for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Takes `glob` as it is.
    pub fn new(glob: impl Into<String>) -> Self {
        Self(glob.into())
    }

    /// Matches everything.
    pub fn any() -> Self {
        Self::new("*")
    }

    /// The glob.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern matches the whole of `name`. Takes at most `name.len()` times the glob's length steps.
    pub fn matches(&self, name: &str) -> bool {
        let (glob, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut g, mut n) = (0, 0);
        // The last star, and how much of the name it stands for so far.
        let mut star: Option<(usize, usize)> = None;
        while n < name.len() {
            if glob.get(g) == Some(&b'*') {
                star = Some((g, n));
                g += 1;
            } else if glob.get(g) == Some(&name[n]) {
                g += 1;
                n += 1;
            } else if let Some((at, taken)) = star {
                star = Some((at, taken + 1));
                g = at + 1;
                n = taken + 1;
            } else {
                return false;
            }
        }
        glob[g..].iter().all(|&byte| byte == b'*')
    }

    /// A pattern over registries' names in their canonical spelling.
    pub(super) fn registry(text: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "*.-_:[]".contains(c);
        if text.is_empty() || !text.chars().all(fits) {
            return Err(
                "a pattern is a registry's name in which `*` stands for anything, such as \"*.example.com\""
                    .to_owned(),
            );
        }
        Ok(Self::new(super::name::canonical_pattern(text)))
    }

    /// Whether the pattern matches a registry's canonical name, with or without its implied port.
    pub fn matches_registry(&self, name: &str) -> bool {
        let implied = !name[name.rfind(']').unwrap_or(0)..].contains(':');
        self.matches(name) || (implied && self.matches(&format!("{name}:443")))
    }

    /// A pattern over tags.
    pub(super) fn tag(text: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "*._-".contains(c);
        if text.is_empty() || !text.chars().all(fits) {
            return Err(
                "a pattern is a tag in which `*` stands for anything, such as \"v1.*\"".to_owned(),
            );
        }
        Ok(Self::new(text))
    }
}

/// A span of time: numbers with units, the largest unit first, without fractions. `"0"` is zero.
pub fn time(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 5] = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    let written = || {
        "a time is written \"168h\", \"1h30m\", \"2s\" or \"500ms\", and \"0\" for off".to_owned()
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(written());
    }
    if rest.bytes().all(|byte| byte.is_ascii_digit()) {
        if rest.bytes().all(|byte| byte == b'0') {
            return Ok(Duration::ZERO);
        }
        return Err(format!(
            "the unit is missing: write \"{rest}s\", \"{rest}m\" or \"{rest}h\""
        ));
    }
    let too_long = || "longer than 100 years".to_owned();
    let mut millis: u64 = 0;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(written)?;
        let (number, after) = rest.split_at(digits);
        if after.starts_with('.') {
            return Err("no fractions: write \"1h30m\" for one hour and a half".to_owned());
        }
        let end = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if number.is_empty() {
            return Err(written());
        }
        let Some(at) = UNITS.iter().position(|(name, _)| *name == unit) else {
            return Err("the units are d, h, m, s and ms".to_owned());
        };
        if at < next_unit {
            return Err("each unit once, and the largest first: \"1h30m\"".to_owned());
        }
        next_unit = at + 1;
        millis = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(UNITS[at].1))
            .and_then(|part| millis.checked_add(part))
            .ok_or_else(too_long)?;
        rest = after;
    }
    let time = Duration::from_millis(millis);
    if time > LONGEST_TIME {
        return Err(too_long());
    }
    Ok(time)
}

/// The longest time for one question upstream while a client waits.
const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// A time limit: not zero, and no longer than [`LONGEST_WAIT`].
pub(super) fn time_limit(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err("no time at all: write \"2s\"".to_owned()),
        time if time > LONGEST_WAIT => {
            Err("a client gets its headers within 5 s: write \"4s\" at the most".to_owned())
        }
        time => Ok(time),
    }
}

/// A lifetime; zero means for ever.
pub(super) fn lifetime(text: &str) -> Result<Option<Duration>, String> {
    Ok(Some(time(text)?).filter(|time| !time.is_zero()))
}

/// The inverse of [`time`], in whole milliseconds.
pub(super) fn time_text(time: Duration) -> String {
    let millis = time.as_millis();
    if millis == 0 {
        return "0".to_owned();
    }
    let parts = [
        (millis / 3_600_000, "h"),
        (millis / 60_000 % 60, "m"),
        (millis / 1_000 % 60, "s"),
        (millis % 1_000, "ms"),
    ];
    let mut text = String::new();
    for (number, unit) in parts.iter().filter(|(number, _)| *number > 0) {
        text.push_str(&number.to_string());
        text.push_str(unit);
    }
    text
}

/// An address to listen on.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let written =
        || "an address is IP:PORT, such as \"127.0.0.1:7420\" or \"[::1]:7420\"".to_owned();
    if text.parse::<IpAddr>().is_ok() {
        return Err(
            "the port is missing: an address is IP:PORT, such as \"127.0.0.1:7420\"".into(),
        );
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(written());
    };
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(written());
    }
    if port.parse::<u16>().is_err() {
        return Err("ports end at 65535".to_owned());
    }
    match host {
        "" => Err(format!(
            "the address is missing: write \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for every interface"
        )),
        "localhost" => Err(format!(
            "the address must be in numbers: write \"127.0.0.1:{port}\""
        )),
        _ => Err(written()),
    }
}

/// An address to listen on, or `"off"`.
pub(super) fn address_or_off(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    address(text)
        .map(Some)
        .map_err(|fix| format!("{fix}; or \"off\""))
}

/// A path, taken literally.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("a path cannot be empty".to_owned());
    }
    if text.starts_with('~') {
        return Err("`~` is not expanded: write the whole path".to_owned());
    }
    if text.contains('\0') {
        return Err("a path cannot hold a NUL".to_owned());
    }
    Ok(PathBuf::from(text))
}

/// A path that does not depend on the daemon's working directory.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let path = path(text)?;
    if path.is_relative() {
        return Err("write the whole path, from `/` on".to_owned());
    }
    Ok(path)
}

/// An absolute path, or `"off"`.
pub(super) fn path_or_off(text: &str) -> Result<Option<PathBuf>, String> {
    if text == "off" {
        return Ok(None);
    }
    absolute_path(text)
        .map(Some)
        .map_err(|fix| format!("{fix}; or \"off\""))
}

/// The name of a credential helper, which is the end of its executable's name.
pub(super) fn helper_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.starts_with("docker-credential-") {
        return Err("leave out `docker-credential-`: \"ecr-login\"".to_owned());
    }
    if text.is_empty() || !text.bytes().all(plain) {
        return Err(
            "a helper is named by what follows `docker-credential-`, such as \"ecr-login\""
                .to_owned(),
        );
    }
    Ok(text.to_owned())
}

/// A word that is put into a request as it is: a name, an address, a URL.
pub(super) fn word(text: &str) -> Result<String, String> {
    let plain = !text.is_empty() && text.len() <= 1024;
    if !plain || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("write it without spaces, in ASCII".to_owned());
    }
    Ok(text.to_owned())
}

/// A path that a unix socket can have; unix limits the length.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, String> {
    let path = path(text)?;
    if text.len() > LONGEST_SOCKET_PATH {
        return Err(format!(
            "a socket's path has at most {LONGEST_SOCKET_PATH} bytes"
        ));
    }
    Ok(path)
}

/// An alias of a registry, a path component: runs of lower-case letters and digits, joined by one of `._-`.
pub(super) fn alias(text: &str) -> Result<String, String> {
    let run = |run: &str| {
        !run.is_empty()
            && run
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    if !text.split(['.', '_', '-']).all(run) {
        return Err(
            "an alias is one path component in lower case, such as \"hub\" or \"my-registry\""
                .to_owned(),
        );
    }
    Ok(text.to_owned())
}

/// A log filter.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    let filter = tracing_subscriber::EnvFilter::try_new(text);
    if text.trim().is_empty() || filter.is_err() {
        return Err(
            "a log filter is a level, such as \"info\", or \"info,larder::fill=debug\"".to_owned(),
        );
    }
    Ok(text.to_owned())
}
