//! How much and how long: every bound of the store in one place.

use std::time::Duration;

use object_store::{BackoffConfig, RetryConfig};

use super::open::Patience;

/// The size of the largest record.
pub(super) const LARGEST_RECORD: u64 = 1 << 20;

/// How many blobs wait at most, each with its file open; and how many of their bytes, which stay on disk although
/// evicted.
pub(super) const BLOBS: usize = 256;
pub(super) const BLOB_BYTES: u64 = 16 << 30;

/// How many records, and how many of their bytes, wait at most, in memory.
pub(super) const RECORDS: usize = 4096;
pub(super) const RECORD_BYTES: u64 = 16 << 20;

/// How many digests are remembered as wrong in the store.
pub(super) const DISTRUSTED: usize = 1024;

/// Times and counts that tests shorten.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// How long a read may take until its first byte.
    pub(super) first_byte: Duration,
    /// How long a read may take between two pieces.
    pub(super) stall: Duration,
    pub(super) patience: Patience,
    /// How long a store that failed repeatedly is left alone at first.
    pub(super) rest: Duration,
    /// A write is dropped after so many failures.
    pub(super) attempts: u32,
    /// The pause after the first failure; it doubles.
    pub(super) pause: Duration,
    /// How long the writes that are due have when larder stops.
    pub(super) finish: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(1),
            stall: Duration::from_secs(5),
            patience: Patience {
                read: Duration::from_secs(10),
                write: Duration::from_mins(1),
                retry: RetryConfig {
                    backoff: BackoffConfig {
                        init_backoff: Duration::from_millis(200),
                        max_backoff: Duration::from_secs(5),
                        base: 2.0,
                    },
                    max_retries: 2,
                    retry_timeout: Duration::from_mins(1),
                },
            },
            rest: Duration::from_secs(5),
            attempts: 5,
            pause: Duration::from_secs(2),
            finish: Duration::from_secs(10),
        }
    }
}
