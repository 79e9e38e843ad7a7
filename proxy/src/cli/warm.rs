//! `larder warm`: sets of images that larder fetches before a client asks.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use clap::Subcommand;
use http::Method;
use larder_shared::warm::{ImageState, ImageStatus, SetStatus};

use super::{
    FOUND,
    show::{BAD, GOOD, WARNING, ago, count, percent, say, say_json, size, styled},
    socket::{SocketArgs, asked, encoded},
    table::{Column, say_table},
};
use crate::{config::time, warm::cachemachine};

/// The time between two looks of `--wait`.
const GLANCE: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  larder warm                              every set
  larder warm jupyter                      its images, and what is missing
  larder warm jupyter --plan               every tag of the lists, and why it was chosen or not
  larder warm jupyter --refresh --wait --within 30m
  larder warm plan --from-cachemachine jupyter.json >> larder.toml

Exit code 3: an image is missing."
)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "flags that do not depend on each other"
)]
pub struct WarmArgs {
    #[command(subcommand)]
    offline: Option<Offline>,
    /// A set
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print every tag of the lists, and why it was chosen or not
    #[arg(long, requires = "name")]
    plan: bool,
    /// Only this node
    #[arg(long)]
    here: bool,
    /// Ask the registries now
    #[arg(long)]
    refresh: bool,
    /// Wait until no image is missing
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = time, requires = "wait")]
    within: Duration,
    #[command(flatten)]
    socket: SocketArgs,
}

#[derive(Clone, Debug, Subcommand)]
enum Offline {
    /// Print a configuration of Cachemachine as a warm set, without the running larder
    Plan {
        /// Cachemachine's JSON, one set or a list of them
        #[arg(long, value_name = "FILE")]
        from_cachemachine: PathBuf,
    },
}

pub fn warm(args: &WarmArgs) -> anyhow::Result<u8> {
    if let Some(Offline::Plan { from_cachemachine }) = &args.offline {
        return plan(from_cachemachine);
    }
    let mut sets = args.sets(if args.refresh {
        Method::POST
    } else {
        Method::GET
    })?;
    let begun = Instant::now();
    while args.wait && is_missing(&sets) && begun.elapsed() < args.within {
        thread::sleep(GLANCE);
        sets = args.sets(Method::GET)?;
    }
    if args.socket.json {
        match (&args.name, &sets[..]) {
            (Some(_), [set]) => say_json(set)?,
            _ => say_json(&sets)?,
        }
    } else {
        match (&args.name, &sets[..]) {
            (Some(_), [set]) if args.plan => say_plan(set),
            (Some(_), [set]) => say_set(set),
            _ => say_sets(&sets),
        }
    }
    Ok(if is_missing(&sets) { FOUND } else { 0 })
}

impl WarmArgs {
    fn sets(&self, method: Method) -> anyhow::Result<Vec<SetStatus>> {
        let here = if self.here { "&here" } else { "" };
        match &self.name {
            Some(name) => {
                let path = format!("/warm?set={}{here}", encoded(name));
                Ok(vec![asked(&self.socket, method, &path)?])
            }
            None => asked(&self.socket, method, &format!("/warm?{here}")),
        }
    }
}

/// Whether an image is missing, or the images of a set are not known yet.
fn is_missing(sets: &[SetStatus]) -> bool {
    sets.iter().any(|set| {
        let unknown = set.images.is_empty() && set.error.is_some();
        !set.images_to_cache.is_empty() || unknown
    })
}

fn plan(file: &Path) -> anyhow::Result<u8> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let toml = cachemachine::to_toml(&text).map_err(|why| anyhow!("{}: {why}", file.display()))?;
    say(toml.trim_end());
    Ok(0)
}

fn say_sets(sets: &[SetStatus]) {
    if sets.is_empty() {
        say("no warm sets are configured: see docs/warm.md");
        return;
    }
    let row = |set: &SetStatus| {
        let here = set.available_images.len();
        let bytes = set.images.iter().filter_map(|image| image.present_bytes);
        vec![
            set.name.clone(),
            if set.matches { "yes" } else { "no" }.to_owned(),
            format!("{here} of {}", set.images.len()),
            size(bytes.sum()),
            set.listed_at.map_or_else(|| "-".to_owned(), ago),
            set.error.clone().unwrap_or_default(),
        ]
    };
    let columns = [
        Column::Word("SET"),
        Column::Word("THIS NODE"),
        Column::Number("HERE"),
        Column::Number("SIZE"),
        Column::Word("LISTED"),
        Column::Text("ERROR"),
    ];
    say_table(&columns, sets.iter().map(row).collect());
}

fn say_set(set: &SetStatus) {
    if !set.matches && set.error.is_none() {
        say("this node lacks labels that the set asks for in `nodes`");
    }
    let columns = [
        Column::Word("IMAGE"),
        Column::Word("STATE"),
        Column::Number("SIZE"),
        Column::Text("WHY"),
    ];
    let rows = set.images.iter().chain(&set.left).map(row);
    say_table(&columns, rows.collect());
    for image in &set.images {
        if let Some(error) = &image.error {
            say(&styled(BAD, format_args!("{}: {error}", image.image)));
        }
    }
    for source in &set.sources {
        if let Some(error) = &source.error {
            let since = source.failing_since.map_or_else(String::new, |at| {
                format!(", for the first time {}", ago(at))
            });
            let line = format_args!("{}: {error}{since}", source.source);
            say(&styled(WARNING, line));
        }
    }
    for node in &set.nodes {
        match (node.missing, &node.error) {
            (Some(0), None) => {}
            (Some(missing), None) => {
                say(&format!("{} lacks {}", node.name, count(missing, "image")));
            }
            (_, Some(error)) if set.nodes.len() > 1 => say(&format!("{}: {error}", node.name)),
            _ => {}
        }
    }
    let missing = set.images_to_cache.len() as u64;
    if missing > 0 {
        say(&styled(
            WARNING,
            format_args!("missing: {}", count(missing, "image")),
        ));
    } else if set.matches && !set.images.is_empty() {
        say(&styled(GOOD, "every node has every image"));
    }
}

fn row(image: &ImageStatus) -> Vec<String> {
    let state = match (image.state, image.present_bytes, image.bytes) {
        (ImageState::Coming, Some(here), Some(all)) => format!("coming, {}", percent(here, all)),
        (state, ..) => state.as_str().to_owned(),
    };
    let others = image.tags.iter().skip(1);
    let others: Vec<_> = others.map(String::as_str).collect();
    let why = if others.is_empty() {
        image.why.clone()
    } else {
        format!("{}; also {}", image.why, others.join(", "))
    };
    vec![
        image.image.clone(),
        state,
        image.bytes.map_or_else(|| "-".to_owned(), size),
        why,
    ]
}

fn say_plan(set: &SetStatus) {
    let columns = [
        Column::Word("TAG"),
        Column::Word("CHOSEN"),
        Column::Text("WHY"),
    ];
    for source in &set.sources {
        let listed = source.listed_at.map_or_else(|| "never".to_owned(), ago);
        say(&format!("{}: listed {listed}", source.source));
        if let Some(error) = &source.error {
            say(&styled(WARNING, error));
        }
        let rows = source.tags.iter().map(|tag| {
            let chosen = if tag.chosen { "yes" } else { "no" };
            vec![tag.tag.clone(), chosen.to_owned(), tag.why.clone()]
        });
        say_table(&columns, rows.collect());
    }
}
