//! The images, sorted, filtered, and one page of the list at a time.

use std::{
    cmp::Ordering,
    hash::{DefaultHasher, Hash, Hasher},
};

use larder_shared::admin::{Image, ReadyLayers};
use maud::{Markup, html};

use super::{
    Query, View,
    query::{Order, Sort},
    words::{ago, count, counted, date, size},
};

/// Images on one page of the list.
const LEAF: usize = 50;

/// Tags of one image that are shown.
const TAGS: usize = 6;

/// Changes when the rendering would change. Times are shown to the minute.
pub fn revision(view: &View) -> u64 {
    let mut hasher = DefaultHasher::new();
    (view.images.revision, view.now / 60, &view.query).hash(&mut hasher);
    hasher.finish()
}

pub fn images(view: &View) -> Markup {
    let query = &view.query;
    let all = &view.images.images.images;
    let found = chosen(all, query);
    let leaves = found.len().div_ceil(LEAF).max(1);
    let leaf = query.leaf.min(leaves - 1);
    let shown = &found[(leaf * LEAF).min(found.len())..((leaf + 1) * LEAF).min(found.len())];
    html! {
        section.card aria-labelledby="images-title" {
            div.title {
                h2 #images-title { "Images" span.tally { (tally(all.len(), found.len(), query)) } }
                form method="get" role="search" data-live {
                    @for (name, value) in query.pairs() {
                        @if name != "filter" { input type="hidden" name=(name) value=(value); }
                    }
                    label.hidden for="filter" { "Filter images by name, tag or digest" }
                    input #filter type="search" name="filter" value=(query.filter) placeholder="Name, tag or digest"
                        autocomplete="off" spellcheck="false";
                    noscript { button { "Filter" } }
                }
            }
            @if all.is_empty() {
                p.quiet { "No image was pulled through this node yet." }
            } @else if found.is_empty() {
                p.quiet { "No image matches the filter." }
            } @else {
                table.images {
                    thead { tr {
                        (heading(query, Sort::Name, "Image", ""))
                        th scope="col" { "Tags" }
                        (heading(query, Sort::Size, "Size", "number"))
                        th scope="col" { "Access" }
                        (heading(query, Sort::Used, "Last used", "number"))
                    } }
                    tbody { @for image in shown { (row(image, view.now)) } }
                }
                @if leaves > 1 { (leafing(query, leaf, leaves)) }
            }
        }
    }
}

fn tally(all: usize, found: usize, query: &Query) -> String {
    if query.filter.is_empty() {
        count(all as u64)
    } else {
        format!("{} of {}", count(found as u64), count(all as u64))
    }
}

fn row(image: &Image, now: u64) -> Markup {
    let hex = image.digest.hex();
    let short = &hex[..hex.len().min(12)];
    html! {
        tr {
            th scope="row" {
                span.from { (image.registry) "/" } span.name { (image.repository) }
                " " code.digest title=(image.digest) { (short) }
            }
            td data-label="Tags" {
                @if image.tags.is_empty() {
                    span.quiet { "by digest" }
                } @else {
                    @for tag in image.tags.iter().take(TAGS) { span.tag { (tag) } " " }
                    @if image.tags.len() > TAGS {
                        span.quiet title=(image.tags[TAGS..].join(" ")) { "and " (image.tags.len() - TAGS) " more" }
                    }
                }
                @if image.in_use { span.tag.pinned { "in use" } " " }
                @if image.pinned { span.tag.pinned { "pinned" } " " }
                @if let Some(of) = &image.ready { (ready(of)) }
            }
            td.number data-label="Size" {
                (size(image.bytes))
                @if image.present_bytes < image.bytes {
                    span.quiet.block { (size(image.present_bytes)) " here" }
                }
            }
            td data-label="Access" {
                @if image.public { "public" } @else { span.private { "private" } }
            }
            td.number data-label="Last used" {
                @if image.last_used == 0 {
                    // The image lies in the runtime's content store, and larder has not served it.
                    "not by larder"
                } @else {
                    time datetime=(date(image.last_used)) title=(date(image.last_used)) {
                        (ago(now.saturating_sub(image.last_used)))
                    }
                }
            }
        }
    }
}

/// How much of the layers is ready, and why the rest is not.
fn ready(of: &ReadyLayers) -> Markup {
    let why = of.why.as_deref();
    html! {
        @if of.are_all() {
            span.tag.pinned { "ready" }
        } @else if of.ready > 0 {
            span.tag title=[why] { (of.ready) " of " (counted(of.layers, "layer", "layers")) " ready" }
        } @else {
            span.quiet title=[why] { "not ready" }
        }
    }
}

/// A column's title, a link that sorts by it. The link of the current column reverses the order.
fn heading(query: &Query, sort: Sort, title: &str, class: &str) -> Markup {
    let current = query.sort == sort;
    let order = if current {
        query.order.other()
    } else {
        sort.first()
    };
    let link = Query {
        sort,
        order,
        leaf: 0,
        ..query.clone()
    };
    let (said, arrow) = match query.order {
        Order::Up => ("ascending", "\u{2191}"),
        Order::Down => ("descending", "\u{2193}"),
    };
    html! {
        th scope="col" class=(class) aria-sort=[current.then_some(said)] {
            a href={(link.link()) "#images"} data-live {
                (title) span.arrow aria-hidden="true" { @if current { (arrow) } }
            }
        }
    }
}

fn leafing(query: &Query, leaf: usize, leaves: usize) -> Markup {
    let to = |leaf: usize| {
        format!(
            "{}#images",
            Query {
                leaf,
                ..query.clone()
            }
            .link()
        )
    };
    html! {
        nav.leaves aria-label="Pages of images" {
            @if leaf > 0 { a href=(to(leaf - 1)) rel="prev" data-live { "Previous" } }
            span { "Page " (count(leaf as u64 + 1)) " of " (counted(leaves as u64, "page", "pages")) }
            @if leaf + 1 < leaves { a href=(to(leaf + 1)) rel="next" data-live { "Next" } }
        }
    }
}

/// The images that match every word of the filter, in the chosen order.
fn chosen<'a>(all: &'a [Image], query: &Query) -> Vec<&'a Image> {
    let filter = query.filter.to_lowercase();
    let words: Vec<&str> = filter.split_whitespace().collect();
    let mut found: Vec<&Image> = all.iter().filter(|image| matches(image, &words)).collect();
    found.sort_by(|a, b| {
        let order = match query.sort {
            Sort::Name => name(a).cmp(&name(b)),
            Sort::Size => a.bytes.cmp(&b.bytes),
            Sort::Used => a.last_used.cmp(&b.last_used),
        };
        let order = match query.order {
            Order::Up => order,
            Order::Down => order.reverse(),
        };
        order
            .then_with(|| name(a).cmp(&name(b)))
            .then_with(|| newest(a, b))
    });
    found
}

fn name(image: &Image) -> (&str, &str) {
    (&image.registry, &image.repository)
}

fn newest(a: &Image, b: &Image) -> Ordering {
    b.last_used
        .cmp(&a.last_used)
        .then_with(|| a.digest.hex().cmp(&b.digest.hex()))
}

fn matches(image: &Image, words: &[&str]) -> bool {
    if words.is_empty() {
        return true;
    }
    let name = format!("{}/{}", image.registry, image.repository).to_lowercase();
    let digest = image.digest.to_string();
    let tagged = |word: &str| {
        let mut tags = image.tags.iter();
        tags.any(|tag| format!("{name}:{tag}").to_lowercase().contains(word))
    };
    words
        .iter()
        .all(|word| name.contains(word) || digest.contains(word) || tagged(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(repository: &str, tag: &str, bytes: u64, last_used: u64) -> Image {
        Image {
            registry: "ghcr.io".to_owned(),
            repository: repository.to_owned(),
            digest: larder_shared::Digest::sha256(repository.as_bytes()),
            tags: vec![tag.to_owned()],
            media_type: String::new(),
            bytes,
            present_bytes: bytes,
            blobs: 2,
            present_blobs: 2,
            pinned: false,
            in_use: false,
            public: true,
            last_used,
            ready: None,
        }
    }

    fn found(query: &str) -> Vec<String> {
        let all = [
            image("team/app", "v1", 30, 1),
            image("team/base", "v2", 10, 3),
            image("other/App", "Latest", 20, 2),
        ];
        let chosen = chosen(&all, &Query::parse(query));
        chosen
            .iter()
            .map(|image| image.repository.clone())
            .collect()
    }

    #[test]
    fn images_come_in_the_order_that_was_asked_for() {
        assert_eq!(found(""), ["team/base", "other/App", "team/app"]);
        assert_eq!(found("order=up"), ["team/app", "other/App", "team/base"]);
        assert_eq!(found("sort=size"), ["team/app", "other/App", "team/base"]);
        assert_eq!(found("sort=name"), ["other/App", "team/app", "team/base"]);
    }

    #[test]
    fn every_word_of_a_filter_counts() {
        assert_eq!(found("filter=APP"), ["other/App", "team/app"]);
        assert_eq!(found("filter=app+v1"), ["team/app"]);
        assert_eq!(found("filter=app:latest"), ["other/App"]);
        assert_eq!(found("filter=ghcr.io/team/"), ["team/base", "team/app"]);
        assert_eq!(found("filter=base+v1"), Vec::<String>::new());
        let digest = larder_shared::Digest::sha256(b"team/app").to_string();
        assert_eq!(found(&format!("filter={digest}")), ["team/app"]);
    }
}
