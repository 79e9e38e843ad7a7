//! What is wrong with a node, and how to mend it.

use serde::{Deserialize, Serialize};

/// `GET /doctor`, and what `larder doctor` prints: every check that was made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Diagnosis {
    pub findings: Vec<Finding>,
}

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at: `disk`, `upstream`, `runtime` …
    pub check: String,
    pub severity: Severity,
    /// What was found, for a person. Never holds a secret.
    pub found: String,
    /// What to do about it; empty where nothing is to be done.
    pub mend: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Pulls work, but something is missing or will break.
    Warning,
    /// Pulls fail, or go past larder.
    Error,
}
