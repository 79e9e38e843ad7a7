//! An error in a configuration, and its place.

use std::fmt;

/// A place in a file. Both numbers count from 1; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in the line.
    pub column: usize,
}

impl Position {
    /// The place of the byte `offset` in `text`; past the end means the end.
    pub(super) fn of(text: &str, offset: usize) -> Self {
        let before = &text[..text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// A configuration that cannot be used. `Display` is one line: `FILE:LINE:COLUMN: what, and how to fix it`.
///
/// No secret is part of it: a value in which a password could stand is not repeated.
#[derive(Debug)]
pub struct ConfigError {
    origin: String,
    position: Option<Position>,
    message: String,
    source: Option<std::io::Error>,
}

impl ConfigError {
    /// An error about the whole of `origin`, which is a file or a flag.
    pub(super) fn new(origin: &str, message: impl Into<String>) -> Self {
        Self {
            origin: origin.to_owned(),
            position: None,
            message: message.into(),
            source: None,
        }
    }

    /// An error about one place in the file `origin`.
    pub(super) fn at(origin: &str, position: Position, message: impl Into<String>) -> Self {
        Self {
            position: Some(position),
            ..Self::new(origin, message)
        }
    }

    pub(super) fn unreadable(origin: &str, source: std::io::Error) -> Self {
        Self {
            source: Some(source),
            ..Self::new(origin, "cannot be read")
        }
    }

    /// The place in the file, if the error has one.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// What is wrong and how to fix it, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
