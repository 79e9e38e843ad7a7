//! The status page: HTML and SVG, rendered on the node.
//!
//! Owns how the page looks, and which of its sections changed since a browser last asked. [`crate::admin`] gathers the
//! data, and decides which callers may see it. Everything is text until a template has escaped it, since names of
//! images, registries and clients come from the network.
//!
//! The page works without JavaScript: sorting, filtering and paging are links and a form, and the query carries the
//! choices. The script asks for the same sections again and replaces those that differ.

mod chart;
mod images;
mod query;
mod sections;
mod sets;
#[cfg(test)]
mod tests;
mod words;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use larder_shared::{
    admin::{Diagnosis, Images, Status, Upstream},
    warm::SetStatus,
};
use maud::{DOCTYPE, Markup, PreEscaped, html};

pub use self::query::{Query, Span};
use crate::history::Sample;

/// The style sheet, at [`STYLE_PATH`].
pub const STYLE: &str = include_str!("page/page.css");
/// The script that keeps the page up to date, at [`SCRIPT_PATH`].
pub const SCRIPT: &str = include_str!("page/page.js");
/// The icon in the browser's tab, at [`ICON_PATH`].
pub const ICON: &str = include_str!("page/icon.svg");

/// The sections that differ from those that the browser has. Takes the page's own query and [`Known`].
pub const LIVE_PATH: &str = "/live";
pub const STYLE_PATH: &str = "/page.css";
pub const SCRIPT_PATH: &str = "/page.js";
pub const ICON_PATH: &str = "/icon.svg";

/// How often the script asks, in seconds: while a fill or the first diagnosis is under way, and otherwise.
const BUSY_EVERY: u32 = 1;
const IDLE_EVERY: u32 = 5;

/// The data that one rendering shows.
#[derive(Debug)]
pub struct View {
    /// The name of this machine or pod.
    pub host: String,
    pub status: Arc<Status>,
    pub images: Arc<Listing>,
    pub upstreams: Arc<Vec<Upstream>>,
    /// The warm sets, as this node sees them.
    pub sets: Arc<Vec<SetStatus>>,
    pub diagnosis: Checked,
    /// Traffic since the start, and in each column of the chart.
    pub total: Sample,
    pub columns: Vec<Sample>,
    /// Seconds since 1970.
    pub now: u64,
    pub query: Query,
}

/// The images of the node tier at one moment.
#[derive(Debug, Default)]
pub struct Listing {
    pub images: Images,
    /// Differs between any two listings.
    pub revision: u64,
}

/// The last diagnosis.
#[derive(Debug, Clone)]
pub enum Checked {
    /// The first diagnosis is under way.
    Looking,
    Found {
        diagnosis: Arc<Diagnosis>,
        /// The age of the diagnosis.
        seconds: u64,
    },
}

/// The revisions of the sections that a browser has: `head-1f,images-2c`.
#[derive(Debug, Default)]
pub struct Known(String);

impl Known {
    pub fn parse(text: &str) -> Self {
        Self(text.to_owned())
    }

    fn has(&self, id: &str, revision: u64) -> bool {
        let tag = format!("{id}-{revision:x}");
        self.0.split(',').any(|known| known == tag)
    }
}

/// A part of the page that the script replaces as a whole.
struct Section {
    id: &'static str,
    revision: u64,
    body: Markup,
}

impl Section {
    /// A section that is cheap to render: its revision is a hash of the rendering.
    fn new(id: &'static str, body: Markup) -> Self {
        let mut hasher = DefaultHasher::new();
        body.0.hash(&mut hasher);
        Self {
            id,
            revision: hasher.finish(),
            body,
        }
    }

    fn show(&self) -> Markup {
        html! {
            div id=(self.id) data-revision=(format!("{:x}", self.revision)) { (self.body) }
        }
    }
}

/// The whole page.
pub fn document(view: &View) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "larder on " (view.host) }
                link rel="icon" href=(&ICON_PATH[1..]);
                link rel="stylesheet" href=(&STYLE_PATH[1..]);
                script src=(&SCRIPT_PATH[1..]) defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header.bar {
                    div.brand {
                        (PreEscaped(ICON))
                        h1 { "larder" span.on { " on " } span.host { (view.host) } }
                    }
                    div.live {
                        noscript { a href=(view.query.link()) { "Reload" } }
                        span #live role="status" hidden {}
                        button #pause type="button" aria-pressed="false" hidden { "Pause" }
                    }
                }
                main #main data-every=(every(view)) {
                    @for section in sections(view, &Known::default()) { (section) }
                }
                footer { (sections::footer(view)) }
            }
        }
    };
    page.into_string()
}

/// The sections that a browser with `known` lacks, and placeholders for the others.
pub fn live(view: &View, known: &Known) -> String {
    let page = html! {
        main data-every=(every(view)) {
            @for section in sections(view, known) { (section) }
        }
    };
    page.into_string()
}

fn every(view: &View) -> u32 {
    let busy = !view.status.fills.is_empty() || matches!(view.diagnosis, Checked::Looking);
    if busy { BUSY_EVERY } else { IDLE_EVERY }
}

fn sections(view: &View, known: &Known) -> Vec<Markup> {
    let cheap = [
        Section::new("state", sections::state(view)),
        Section::new("glance", sections::glance(view)),
        Section::new("findings", sections::findings(&view.diagnosis)),
        Section::new("fills", sections::fills(&view.status.fills)),
        Section::new("history", chart::history(view)),
        Section::new("upstreams", sections::upstreams(&view.upstreams)),
        Section::new("cluster", sections::cluster(view)),
        Section::new("sets", sets::sets(&view.sets, view.now)),
    ];
    let mut shown: Vec<Markup> = cheap
        .iter()
        .map(|section| {
            if known.has(section.id, section.revision) {
                kept(section.id)
            } else {
                section.show()
            }
        })
        .collect();
    // Sorting ten thousand images only to hash them costs too much, so their revision comes from the listing's number.
    let revision = images::revision(view);
    shown.push(if known.has("images", revision) {
        kept("images")
    } else {
        let body = images::images(view);
        let id = "images";
        Section { id, revision, body }.show()
    });
    shown
}

fn kept(id: &str) -> Markup {
    html! { div id=(id) data-kept {} }
}
