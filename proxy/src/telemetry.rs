//! Logs: where they go, their format, their filter, and how often a failure is repeated.
//!
//! Lines go to standard error. `target: "access"` is the access log, one line a request. A failure is logged once,
//! where it is handled, with what to do about it. Field names have the entity and the unit, and no field holds a secret
//! or a query.

mod access_line;
mod repeats;

use std::sync::{Mutex, PoisonError};

use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, fmt, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

pub use self::repeats::{Due, due};
use crate::config::{LogFormat, Telemetry};

/// The log of the process, whose filter can be changed while it runs.
#[derive(Debug)]
pub struct Logs {
    handle: reload::Handle<EnvFilter, Registry>,
    /// The filter in force, as it was written.
    filter: Mutex<String>,
}

impl Logs {
    /// The filter in force.
    pub fn filter(&self) -> String {
        let filter = self.filter.lock();
        filter.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another filter in force, in the notation of `EnvFilter`. A filter that cannot be read changes nothing.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let new = read(filter)?;
        let mut shown = self.filter.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle.reload(new).map_err(|error| error.to_string())?;
        filter.clone_into(&mut shown);
        Ok(())
    }
}

fn read(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter).map_err(|error| {
        format!("{filter:?} is no log filter ({error}); write a level, or targets with levels: info, larder=debug,access=off")
    })
}

/// Sets up logging for the process. A filter that cannot be read is replaced by `info`, with a warning.
pub fn init(telemetry: &Telemetry) -> Logs {
    let (filter, shown, complaint) = match read(&telemetry.log) {
        Ok(filter) => (filter, telemetry.log.clone(), None),
        Err(error) => (EnvFilter::new("info"), "info".to_owned(), Some(error)),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match telemetry.log_format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.event_format(access_line::Lines::default()).boxed(),
    };
    let set = tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init();
    if let (Ok(()), Some(error)) = (set, complaint) {
        tracing::warn!(error, "logging at info");
    }
    Logs {
        handle,
        filter: Mutex::new(shown),
    }
}
