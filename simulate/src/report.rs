//! The results and how they are shown: percentiles, a table, JSON.

use serde_json::{Value, json};

/// The results of a simulation. Bytes are in units of an image, times in seconds.
#[derive(Debug)]
pub struct Outcome {
    pub nodes: usize,
    /// How many nodes did not die.
    pub lived: usize,
    /// How many relays each run has, at the end.
    pub relays: usize,
    /// How many different images were pulled.
    pub images: usize,
    pub sent: Vec<f64>,
    pub received: Vec<f64>,
    pub upstream: f64,
    /// For each node that did not die, the time from its begin to its end.
    pub times: Vec<f64>,
    /// The largest part of its rate that any link has given.
    pub peak: f64,
}

/// The mean and some percentiles.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub mean: f64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let rank = (part * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.max(1) - 1).copied().unwrap_or(0.0)
        };
        Self {
            mean: sorted.iter().sum::<f64>() / sorted.len().max(1) as f64,
            p50: at(0.5),
            p99: at(0.99),
            max: at(1.0),
        }
    }

    fn json(self) -> Value {
        json!({ "mean": self.mean, "p50": self.p50, "p99": self.p99, "max": self.max })
    }
}

/// A cluster, compared with one node alone.
#[derive(Debug)]
pub struct Row {
    pub outcome: Outcome,
    /// Seconds of one node alone on the same links.
    pub alone: f64,
}

impl Row {
    /// Times in units of one node alone.
    pub fn ratios(&self) -> Vec<f64> {
        self.outcome.times.iter().map(|t| t / self.alone).collect()
    }

    pub fn json(&self) -> Value {
        let it = &self.outcome;
        json!({
            "nodes": it.nodes,
            "lived": it.lived,
            "relays": it.relays,
            "images": it.images,
            "alone_seconds": self.alone,
            "upstream_images": it.upstream,
            "upload_images": Spread::of(&it.sent).json(),
            "download_images": Spread::of(&it.received).json(),
            "busiest_link": it.peak,
            "completion_seconds": Spread::of(&it.times).json(),
        })
    }
}

pub const HEAD: &str = "\
| nodes | relays | alone s | p50 x | p99 x | last x | upstream | up mean | p50 | p99 | max | down mean | p99 | max |
|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|";

/// A line of the table, in Markdown. Times are in units of one node alone, bytes in units of the image.
pub fn line(row: &Row) -> String {
    let it = &row.outcome;
    let (up, down) = (Spread::of(&it.sent), Spread::of(&it.received));
    let took = Spread::of(&row.ratios());
    let cells = [
        took.p50,
        took.p99,
        took.max,
        it.upstream,
        up.mean,
        up.p50,
        up.p99,
        up.max,
        down.mean,
        down.p99,
        down.max,
    ];
    let cells = cells.map(|cell| format!("{cell:.2}")).join(" | ");
    format!(
        "| {} | {} | {:.2} | {cells} |",
        it.nodes, it.relays, row.alone
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(spread: Spread) -> [u64; 3] {
        [spread.p50, spread.p99, spread.max].map(|value| value as u64)
    }

    #[test]
    fn percentiles_are_values_that_occur() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let spread = Spread::of(&values);
        assert_eq!(whole(spread), [100, 198, 200]);
        assert!((spread.mean - 100.5).abs() < 1e-9);
        let one = Spread::of(&[3.0]);
        assert_eq!(whole(one), [3; 3]);
    }
}
