//! Output for people: standard output, standard error, sizes and times.
//!
//! Colours go only to a terminal, and never if NO_COLOR is set.

use std::{
    fmt,
    io::{self, Write},
    time::{Duration, SystemTime},
};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::FAILED;

/// Headings.
pub const BOLD: Style = Style::new().bold();
/// A good state.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// A state to look at.
pub const WARNING: Style = AnsiColor::Yellow.on_default();
/// Wrong.
pub const BAD: Style = AnsiColor::Red.on_default().bold();

/// Text in a style.
pub fn styled(style: Style, text: impl fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Prints a line of output. If the reader has closed the pipe, that is no failure; any other lost output is.
pub fn say(text: &str) {
    let written = writeln!(anstream::stdout(), "{text}");
    match written.map_err(lost) {
        Ok(()) => {}
        Err(None) => std::process::exit(0),
        Err(Some(error)) => {
            complain(&format!("{error:#}"));
            std::process::exit(FAILED.into());
        }
    }
}

/// The error of output that cannot be written; `None` if the reader closed the pipe.
fn lost(error: io::Error) -> Option<anyhow::Error> {
    (error.kind() != io::ErrorKind::BrokenPipe)
        .then(|| anyhow::Error::new(error).context("the output could not be written"))
}

/// The output of a command whose work continues if the output fails.
#[derive(Debug)]
pub struct Telling<W> {
    to: W,
    failed: Option<io::Error>,
}

impl<W: Write> Telling<W> {
    pub fn to(to: W) -> Self {
        Self { to, failed: None }
    }

    /// Whether all output was written, or the reader had closed the pipe.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.flush()?;
        self.failed.and_then(lost).map_or(Ok(()), Err)
    }
}

impl<W: Write> Write for Telling<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failed.is_none() {
            self.failed = self.to.write_all(bytes).err();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.failed.is_none() {
            self.failed = self.to.flush().err();
        }
        Ok(())
    }
}

/// Prints JSON in its documented form.
pub fn say_json(value: &impl Serialize) -> anyhow::Result<()> {
    say(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints an error on standard error.
pub fn complain(text: &str) {
    let _ = writeln!(
        anstream::stderr(),
        "{}",
        styled(BAD, format_args!("larder: {text}"))
    );
}

/// Prints a warning on standard error.
pub fn warn(text: &str) {
    let _ = writeln!(
        anstream::stderr(),
        "{}",
        styled(WARNING, format_args!("larder: {text}"))
    );
}

/// Prints progress on standard error.
pub fn note(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Bytes for people: `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

/// A share in whole per cent. Only all of it is 100.
pub fn percent(part: u64, whole: u64) -> String {
    if part >= whole {
        return "100%".to_owned();
    }
    format!("{}%", u128::from(part) * 100 / u128::from(whole))
}

/// A time for people: `45 s`, `3 min`, `5 h`, `12 d`.
pub fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        s @ ..60 => format!("{s} s"),
        s @ ..3600 => format!("{} min", s / 60),
        s @ ..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// The age of a moment, which is given in seconds since 1970.
pub fn ago(seconds: u64) -> String {
    if seconds == 0 {
        return "-".to_owned();
    }
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    // If the clock was set back, the age is zero.
    let elapsed = SystemTime::now().duration_since(then).unwrap_or_default();
    format!("{} ago", duration(elapsed))
}

/// A number of things: `1 blob`, `2 blobs`.
pub fn count(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_is_the_only_hundred() {
        assert_eq!(percent(0, 0), "100%");
        assert_eq!(percent(0, 10), "0%");
        assert_eq!(percent(999_999, 1_000_000), "99%");
        assert_eq!(percent(u64::MAX, u64::MAX), "100%");
        assert_eq!(percent(u64::MAX - 1, u64::MAX), "99%");
    }

    #[test]
    fn times_are_told_by_their_largest_unit() {
        let told =
            [0, 59, 60, 3599, 7200, 172_799, 172_800].map(|s| duration(Duration::from_secs(s)));
        assert_eq!(
            told,
            ["0 s", "59 s", "1 min", "59 min", "2 h", "47 h", "2 d"]
        );
    }
}
