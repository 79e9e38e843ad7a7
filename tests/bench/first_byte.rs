//! How much later the first byte of a cold blob comes through larder than from the upstream.
//!
//! Every blob is asked for once, direct and through one larder in turn, on a connection of its own.
//! Small blobs are verified before they are sent; large ones are passed on as they come. All are
//! taken to their end, as pulls do, and the next begins when the one before has ended.

use anyhow::Result;

use crate::bench::{Bench, Pace};
use crate::client::Sink;
use crate::report::{Bound, Section};
use crate::stats::quantile;

/// In words, bytes, and the repository's name.
const SIZES: [(&str, u64, &str); 2] =
    [("32 KiB", 32 << 10, "small"), ("16 MiB", 16 << 20, "large")];

pub fn measure(bench: &Bench) -> Result<Section> {
    let count = bench.plan.firsts;
    let columns = [
        "blob",
        "direct p50 ms",
        "p99",
        "through larder p50 ms",
        "p99",
        "added p50 ms",
        "added p99",
    ];
    let mut section = Section::new(
        format!("First byte of {count} cold blobs of each size"),
        &columns,
    );
    section.about("From before the connection is made until the first byte of the body; added is the difference of the quantiles.");
    let direct = bench.direct(Pace::Open);
    let larder = bench.larder(Pace::Open, "info")?;
    for (words, size, repository) in SIZES {
        let digests: Vec<String> = (0..count as u64)
            .map(|number| bench.origin.put_sparse(repository, number, size))
            .collect::<Result<_>>()?;
        // The first request of a repository opens connections; pulls begin with a manifest anyway.
        let [first, rest @ ..] = &digests[..] else {
            continue;
        };
        let path = |digest: &String| format!("/v2/{repository}/blobs/{digest}");
        larder.get(&path(first), Sink::Copy).run()?;
        let (mut straight, mut through) = (Vec::new(), Vec::new());
        for digest in rest {
            for (server, times) in [(&direct, &mut straight), (&larder, &mut through)] {
                let got = server.get(&path(digest), Sink::Copy).run()?;
                times.push(got.first_byte.as_secs_f64() * 1e3);
            }
        }
        let [d50, d99] = [0.5, 0.99].map(|share| quantile(&straight, share));
        let [l50, l99] = [0.5, 0.99].map(|share| quantile(&through, share));
        let added = [l50 - d50, l99 - d99];
        let cells = [d50, d99, l50, l99, added[0], added[1]].map(|ms| format!("{ms:.2}"));
        section.row([vec![words.to_owned()], cells.to_vec()].concat());
        for (name, bound, added) in [("p50", 1.0, added[0]), ("p99", 3.0, added[1])] {
            section.verdict(
                format!("cold {words} blob: added time to first byte, {name}"),
                Bound::AtMost(bound),
                added,
                "ms",
            );
        }
    }
    Ok(section)
}
