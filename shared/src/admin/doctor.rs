//! The faults of a node, and how to fix them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `GET /doctor`, and what `larder doctor` prints: every check that was made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Diagnosis {
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// The findings that are not in order, the worst first.
    pub fn wrong(&self) -> Vec<&Finding> {
        let mut wrong: Vec<_> = self.findings.iter().collect();
        wrong.retain(|finding| finding.severity != Severity::Ok);
        wrong.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        wrong
    }
}

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Finding {
    /// What was looked at: the word of a [`Check`], or of one that another version makes.
    pub check: String,
    pub severity: Severity,
    /// What was found, for a person. Never holds a secret.
    pub found: String,
    /// What to do about it; empty where nothing is to be done.
    #[serde(rename = "mend")]
    pub fix: String,
}

impl Finding {
    /// Nothing is wrong.
    pub fn ok(check: Check, found: impl Into<String>) -> Self {
        Self::new(check, Severity::Ok, found, "")
    }

    /// Pulls work, but something is missing or will break.
    pub fn warning(check: Check, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(check, Severity::Warning, found, fix)
    }

    /// Pulls fail, or bypass larder.
    pub fn error(check: Check, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(check, Severity::Error, found, fix)
    }

    fn new(
        check: Check,
        severity: Severity,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            check: check.as_str().to_owned(),
            severity,
            found: found.into(),
            fix: fix.into(),
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is wrong.
    Ok,
    /// Pulls work, but something is missing or will break.
    Warning,
    /// Pulls fail, or bypass larder.
    Error,
}

macro_rules! checks {
    ($($(#[$doc:meta])* $name:ident = $word:literal),* $(,)?) => {
        /// The subject of a check. The words are stable; docs/doctor.md says more of each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Check {
            $($(#[$doc])* $name),*
        }

        impl Check {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word),*
                }
            }
        }
    };
}

checks! {
    // Checked by the command, from the node's files.
    /// The daemon answers on its socket.
    Daemon = "daemon",
    /// The registry and telemetry ports answer, and the server there is larder.
    Ports = "ports",
    /// containerd reads `hosts.toml` from the directory that contains it.
    Runtime = "runtime",
    /// The `hosts.toml` files send pulls to larder first, and to the registry when it is down.
    Hosts = "hosts",
    // Checked by both.
    /// The container runtime mounts the layers that larder offers to it.
    Streaming = "streaming",
    // Checked by the daemon.
    /// The configuration file on disk is the one in force.
    Config = "config",
    /// The callers at the registry port and the peer port.
    Sources = "sources",
    /// The node tier can be written.
    Store = "store",
    /// No file on the disk has rotted.
    Rot = "rot",
    /// The file of the runtime's watcher is recent, and is from this node.
    Watcher = "watcher",
    /// New content finds room beside what is never evicted.
    Room = "room",
    /// The container runtime's content store can be read, and its files are what their names say.
    Content = "content",
    /// Room on the store's file system.
    Disk = "disk",
    /// Inodes on the store's file system.
    Inodes = "inodes",
    /// Nobody else can read keys, secrets and the socket.
    Permissions = "permissions",
    /// Files that may be open at once.
    Limits = "limits",
    /// This node's clock, by what registries say.
    Clock = "clock",
    /// The names of registries and members can be looked up.
    Dns = "dns",
    /// Every endpoint of every configured registry answers.
    Upstream = "upstream",
    /// The node's own credentials can be had, and registries accept them.
    Credentials = "credentials",
    /// The other members answer, and this node is one of them.
    Members = "members",
    /// Enough members hold what is used.
    Copies = "copies",
    /// Warm sets have nodes, and their images come.
    Warm = "warm",
    /// This member's certificate is good, and for long enough.
    Certificate = "certificate",
    /// Command, daemon and members are of one version.
    Version = "version",
    /// The object store takes what is written and gives it back.
    ObjectStore = "object-store",
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_first_and_what_is_well_is_left_out() {
        let diagnosis = Diagnosis {
            findings: vec![
                Finding::ok(Check::Disk, "there is room"),
                Finding::warning(Check::Clock, "late", "set it"),
                Finding::error(Check::Store, "failing", "fix it"),
            ],
        };
        let wrong: Vec<_> = diagnosis.wrong().iter().map(|f| f.check.clone()).collect();
        assert_eq!(wrong, ["store", "clock"]);
    }

    #[test]
    fn every_word_stands_for_one_check() {
        let mut words: Vec<_> = Check::ALL.iter().map(|check| check.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Check::ALL.len());
    }
}
