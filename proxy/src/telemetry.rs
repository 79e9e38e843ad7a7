//! Logs: where they go and how they look.
//!
//! Lines go to standard error. `target: "access"` is the access log, one line a request. A failure is logged once,
//! where it is handled; fields are named by entity, with units, and never hold a secret or a query.

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{LogFormat, Telemetry};

/// Sets up logging for the process. A filter that cannot be read becomes `info`, and is complained about.
pub fn init(telemetry: &Telemetry) {
    let (filter, complaint) = match EnvFilter::try_new(&telemetry.log) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match telemetry.log_format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(false).try_init(),
    };
    if let (Ok(()), Some(error)) = (set, complaint) {
        tracing::warn!(%error, filter = telemetry.log, "the log filter cannot be read; logging at info");
    }
}
