//! Progress of long work. A terminal gets a bar with rate and remaining time, a pipe gets a line every few seconds.
//! Both go to standard error, so that standard output holds only the outcome.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail};
use http::HeaderMap;
use indicatif::{ProgressBar, ProgressStyle};
use larder_shared::admin::{Event, Progress};
use serde::de::DeserializeOwned;

use super::{
    show::{count, duration, note, percent, size},
    socket::{SocketArgs, lines, read},
};

/// The time between two lines if there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Sends a request for long work and shows its progress. `doing` names the work: `pull nginx`.
pub fn watched<T: DeserializeOwned>(
    args: &SocketArgs,
    doing: &str,
    path: &str,
    headers: HeaderMap,
) -> anyhow::Result<T> {
    let mut shown = Shown::new(doing);
    let mut done = None;
    let told = lines(args, path, headers, |line| {
        match read(line)? {
            Event::Progress(progress) => shown.progress(progress),
            Event::Done(outcome) => done = Some(outcome),
            Event::Failed(failed) => bail!("{}", failed.error),
        }
        Ok(())
    });
    shown.clear();
    told?;
    done.ok_or_else(|| anyhow!("the daemon closed the connection before its work was done: see whether it was stopped, then run the command again"))
}

/// How progress is shown.
enum Shown {
    Bar(ProgressBar),
    Lines {
        doing: String,
        begun: Instant,
        next: Instant,
    },
}

impl Shown {
    fn new(doing: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            let begun = Instant::now();
            return Self::Lines {
                doing: doing.to_owned(),
                begun,
                next: begun + LINE_EVERY,
            };
        }
        let template = "{prefix}  {wide_bar} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = ProgressBar::new(0).with_style(style);
        bar.set_prefix(doing.to_owned());
        Self::Bar(bar)
    }

    fn progress(&mut self, progress: Progress) {
        match self {
            Self::Bar(bar) => {
                // Bytes that were cached before took no time and would distort the rate.
                if bar.length() == Some(0) && progress.of_bytes > 0 {
                    bar.set_length(progress.of_bytes);
                    bar.set_position(progress.bytes);
                    bar.reset_eta();
                }
                bar.set_length(progress.of_bytes);
                bar.set_position(progress.bytes);
            }
            Self::Lines { doing, begun, next } => {
                if Instant::now() >= *next {
                    note(&format!("{doing}: {}", told(progress, begun.elapsed())));
                    *next += LINE_EVERY;
                }
            }
        }
    }

    fn clear(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// `12.0 MiB of 48.0 MiB (25%), 3 of 8 blobs, 4.0 MiB/s, 9 s left`
fn told(progress: Progress, elapsed: Duration) -> String {
    let rate = progress.bytes as f64 / elapsed.as_secs_f64().max(0.001);
    let left = progress.of_bytes.saturating_sub(progress.bytes) as f64 / rate;
    let left = Duration::try_from_secs_f64(left)
        .map_or(String::new(), |left| format!(", {} left", duration(left)));
    format!(
        "{} of {} ({}), {} of {}, {}/s{left}",
        size(progress.bytes),
        size(progress.of_bytes),
        percent(progress.bytes, progress.of_bytes),
        progress.blobs,
        count(progress.of_blobs, "blob"),
        size(rate as u64),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_rate_and_remaining_time() {
        let progress = Progress {
            blobs: 3,
            bytes: 12 << 20,
            of_blobs: 8,
            of_bytes: 48 << 20,
        };
        assert_eq!(
            told(progress, Duration::from_secs(3)),
            "12.0 MiB of 48.0 MiB (25%), 3 of 8 blobs, 4.0 MiB/s, 9 s left"
        );
        let nothing = told(Progress::default(), Duration::from_secs(3));
        assert!(nothing.starts_with("0 B of 0 B"), "{nothing}");
    }
}
