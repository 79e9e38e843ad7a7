//! larder-simulate: how a cluster of larders would pull an image, with larder's own placement.
//!
//! This file owns the command line. `scenario` holds the parameters, `swarm` runs the simulation and lists the model's
//! limits, `report` and `plot` show the result.

mod catalog;
mod copies;
mod links;
mod node;
mod plot;
mod pull;
mod report;
mod scenario;
mod swarm;
mod transfer;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    str::FromStr,
};

use anyhow::Context as _;
use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand};
use larder::cluster::placement;

use crate::{
    report::{HEAD, Outcome, Row, Spread},
    scenario::{Order, Relays, Scenario, fitting_step},
    swarm::Swarm,
};

/// Layers of one size: `4x250MB`, or `30MB` for one.
#[derive(Clone, Debug)]
struct Layers(usize, u64);

impl FromStr for Layers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (count, size) = text.split_once('x').unwrap_or(("1", text));
        let count = count.parse().map_err(|_| format!("no number: {count}"))?;
        let size: ByteSize = size.parse()?;
        if count == 0 || size.as_u64() == 0 {
            return Err("nothing to pull".into());
        }
        Ok(Self(count, size.as_u64()))
    }
}

/// Simulates a cluster of larders that pull an image. Rates are in Mbit/s, 0 for no limit.
#[derive(Parser, Debug)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    instead: Option<Instead>,
    /// Sizes of the cluster, one line each.
    #[arg(long, value_delimiter = ',', default_value = "8,10,100,1000", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nodes: Vec<u32>,
    /// The image: COUNTxSIZE or SIZE, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "4x250MB")]
    layers: Vec<Layers>,
    /// A node's link, out.
    #[arg(long, default_value_t = 1000.0)]
    up: f64,
    /// A node's link, in.
    #[arg(long, default_value_t = 1000.0)]
    down: f64,
    /// The upstream, in all.
    #[arg(long, default_value_t = 1000.0)]
    upstream: f64,
    /// The upstream, to each connection.
    #[arg(long, default_value_t = 0.0)]
    connection: f64,
    /// Milliseconds from node to node, one way.
    #[arg(long, default_value_t = 0.25)]
    hop: f64,
    /// Milliseconds from a node to the upstream, one way.
    #[arg(long, default_value_t = 10.0)]
    upstream_hop: f64,
    /// Transfers at once for one blob.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    streams: u16,
    /// Blobs at once for one node.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=256))]
    blobs: u16,
    /// The unit of placement. The production value if it is not given.
    #[arg(long)]
    run: Option<ByteSize>,
    /// The square root of the nodes are relays from so many nodes on. The production value if it is not given.
    #[arg(long)]
    relays_from: Option<usize>,
    /// Each run has exactly so many relays.
    #[arg(long, conflicts_with = "relays_from")]
    relays: Option<usize>,
    /// The order of what no reader waits for.
    #[arg(long, value_enum, default_value_t = Order::Turn)]
    order: Order,
    /// Seconds within which the pulls begin.
    #[arg(long, default_value_t = 0.0)]
    spread: f64,
    /// Different images, of which each node pulls one.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    images: u16,
    /// Exponent of the images' popularity.
    #[arg(long, default_value_t = 1.0)]
    zipf: f64,
    /// The share of nodes that die, between 0 and 1.
    #[arg(long, default_value_t = 0.0)]
    dying: f64,
    /// The share of nodes that join, between 0 and 1.
    #[arg(long, default_value_t = 0.0)]
    joining: f64,
    /// Seconds that a dead peer costs.
    #[arg(long, default_value_t = 1.0)]
    stall: f64,
    /// Seconds between two looks at the members.
    #[arg(long, default_value_t = 5.0)]
    refresh: f64,
    /// Milliseconds of one step of time. If not given: 1, from 200 nodes on 5, from 2,000 on 20.
    #[arg(long)]
    step: Option<f64>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// For machines, instead of the table and the plot.
    #[arg(long)]
    json: bool,
    /// The table alone.
    #[arg(long, conflicts_with = "json")]
    no_plot: bool,
    /// Writes the plot to this file as well.
    #[arg(long)]
    svg: Option<PathBuf>,
}

/// What is simulated in place of a pull.
#[derive(Subcommand, Debug)]
enum Instead {
    /// Members that keep copies of what is used while others die and restart.
    Copies(CopiesArguments),
}

#[derive(Args, Debug)]
struct CopiesArguments {
    /// Sizes of the cluster, one line each.
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000,10000", value_parser = clap::value_parser!(u32).range(2..=100_000))]
    nodes: Vec<u32>,
    /// Images for each node.
    #[arg(long, default_value_t = 5.0)]
    images: f64,
    /// Layers of an image, and their mean size.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    layers: u16,
    #[arg(long, default_value = "40MB")]
    layer: ByteSize,
    /// Nodes that pull each image, at the mean.
    #[arg(long, default_value_t = 1.5)]
    pullers: f64,
    /// Living members that should hold each blob.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=8))]
    copies: u16,
    /// Bytes a second that a member fetches for copies.
    #[arg(long, default_value = "20MB")]
    rate: ByteSize,
    /// Hours with churn.
    #[arg(long, default_value_t = 4)]
    hours: u64,
    /// The share of the members that die in an hour, each replaced by an empty one.
    #[arg(long, default_value_t = 0.02)]
    dying: f64,
    /// The share of the members that restart in an hour.
    #[arg(long, default_value_t = 0.5)]
    restarting: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl CopiesArguments {
    fn run(&self, mut out: impl io::Write) -> anyhow::Result<()> {
        writeln!(out, "{}", copies::HEAD)?;
        for &nodes in &self.nodes {
            let kept = copies::run(&copies::Churn {
                nodes: nodes as usize,
                images: (self.images * f64::from(nodes)).ceil() as usize,
                layers: self.layers.into(),
                layer: self.layer.as_u64() as f64,
                pullers: self.pullers,
                copies: self.copies.into(),
                rate: self.rate.as_u64() as f64,
                hours: self.hours,
                dying: self.dying,
                restarting: self.restarting,
                seed: self.seed,
            });
            writeln!(out, "{}", copies::line(&kept))?;
            out.flush()?;
        }
        Ok(())
    }
}

impl Arguments {
    fn scenario(&self, nodes: usize) -> anyhow::Result<Scenario> {
        let rate = |megabits: f64| match megabits {
            0.0 => Ok(f64::INFINITY),
            rate if rate > 0.0 => Ok(rate * 1e6 / 8.0),
            rate => anyhow::bail!("{rate} is no rate"),
        };
        let run = self.run.map_or(placement::RUN, |run| run.as_u64());
        anyhow::ensure!((1 << 16..1 << 31).contains(&run), "--run: 64 KiB to 2 GiB");
        let parts = [self.dying, self.joining];
        anyhow::ensure!(
            parts.iter().all(|part| *part >= 0.0) && parts.iter().sum::<f64>() < 1.0,
            "--dying, --joining: shares of the nodes, less than all of them together"
        );
        let step = self.step.map_or(fitting_step(nodes), |step| step / 1e3);
        anyhow::ensure!(step >= 1e-5, "--step: at least 0.01 ms");
        // A link without a limit would leave nothing to share in a step.
        let link = |megabits| rate(megabits).map(|rate| rate.min(1e12));
        Ok(Scenario {
            nodes,
            layers: self
                .layers
                .iter()
                .flat_map(|Layers(count, size)| std::iter::repeat_n(*size, *count))
                .collect(),
            run,
            up: link(self.up)?,
            down: link(self.down)?,
            upstream: rate(self.upstream)?,
            connection: rate(self.connection)?,
            hop: self.hop / 1e3,
            upstream_hop: self.upstream_hop / 1e3,
            streams: self.streams.into(),
            blobs: self.blobs.into(),
            relays: match self.relays {
                Some(relays) => Relays::Exactly(relays),
                None => Relays::From(self.relays_from.unwrap_or(placement::RELAYS_FROM)),
            },
            order: self.order,
            spread: self.spread,
            images: self.images.into(),
            zipf: self.zipf,
            dying: self.dying,
            joining: self.joining,
            stall: self.stall,
            refresh: self.refresh,
            step,
            seed: self.seed,
        })
    }
}

fn run(scenario: &Scenario) -> Outcome {
    Swarm::new(scenario).run()
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut out = io::stdout().lock();
    if let Some(Instead::Copies(arguments)) = &arguments.instead {
        return arguments.run(out);
    }
    if !arguments.json {
        writeln!(out, "{HEAD}")?;
    }
    let mut rows = Vec::new();
    for &nodes in &arguments.nodes {
        let scenario = arguments.scenario(nodes as usize)?;
        let alone = Spread::of(&run(&scenario.alone()).times).max;
        let row = Row {
            outcome: run(&scenario),
            alone,
        };
        if !arguments.json {
            writeln!(out, "{}", report::line(&row))?;
            out.flush()?;
        }
        rows.push(row);
    }
    if arguments.json {
        let all: Vec<_> = rows.iter().map(Row::json).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
    } else if !arguments.no_plot {
        write!(out, "\n{}", plot::text(&rows))?;
    }
    if let Some(path) = &arguments.svg {
        std::fs::write(path, plot::svg(&rows))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
