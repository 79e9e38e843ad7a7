//! Why there are no credentials, without ever saying what they are.

use std::fmt;

/// The kind of failure: a closed set, fit for a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A file is missing or cannot be read.
    File,
    /// A file's content cannot be used.
    Content,
    /// A helper or plugin could not be started, or failed.
    Program,
    /// A helper, a plugin or a cloud's server did not answer in time.
    Timeout,
    /// The answer of a helper, a plugin or a cloud's server cannot be used.
    Answer,
    /// A cloud's server refuses to give a token.
    Refused,
    /// A cloud's server limits requests.
    Throttled,
    /// A cloud's server cannot be reached.
    Unreachable,
}

impl Fault {
    pub const ALL: [Self; 8] = [
        Self::File,
        Self::Content,
        Self::Program,
        Self::Timeout,
        Self::Answer,
        Self::Refused,
        Self::Throttled,
        Self::Unreachable,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Content => "content",
            Self::Program => "program",
            Self::Timeout => "timeout",
            Self::Answer => "answer",
            Self::Refused => "refused",
            Self::Throttled => "throttled",
            Self::Unreachable => "unreachable",
        }
    }
}

/// Why larder has no credentials. `Display` is one line: the file or program to look at, what is wrong, the fix.
///
/// It never contains a part of a file's content, or text that a program wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialError {
    fault: Fault,
    place: String,
    what: String,
}

impl CredentialError {
    pub(super) fn new(fault: Fault, place: impl fmt::Display, what: impl Into<String>) -> Self {
        Self {
            fault,
            place: place.to_string(),
            what: what.into(),
        }
    }

    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// The path of the file, or the program.
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

impl std::error::Error for CredentialError {}

/// Where JSON is broken. The parser's own message is left out, since it may repeat a secret.
pub(super) fn not_json(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "JSON, but not of the expected form",
        _ => "not JSON",
    };
    format!(
        "{what}, at line {}, column {}",
        error.line(),
        error.column()
    )
}
