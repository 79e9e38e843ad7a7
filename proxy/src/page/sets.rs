//! The section of warm sets: how much of each is on this node.

use larder_shared::warm::{ImageState, ImageStatus, SetStatus};
use maud::{Markup, html};

use super::words::{ago, count, counted, size};

/// The most sets that are shown, and the most missing images of each.
const SETS: usize = 50;
const IMAGES: usize = 20;

/// The section; empty where there are no sets.
pub fn sets(sets: &[SetStatus], now: u64) -> Markup {
    html! {
        @if !sets.is_empty() {
            section.card aria-labelledby="sets-title" {
                h2 #sets-title { "Warm sets" span.tally { (count(sets.len() as u64)) } }
                table {
                    thead { tr {
                        th scope="col" { "Set" }
                        th scope="col" { "Not here yet" }
                        th.number scope="col" { "Images here" }
                        th.number scope="col" { "Bytes here" }
                    } }
                    tbody { @for set in sets.iter().take(SETS) { (one(set, now)) } }
                }
                @if sets.len() > SETS {
                    p.quiet { "and " (count((sets.len() - SETS) as u64)) " more: " code { "larder warm" } }
                }
            }
        }
    }
}

fn one(set: &SetStatus, now: u64) -> Markup {
    let is_here = |image: &&ImageStatus| image.state == ImageState::Here;
    let here = set.images.iter().filter(is_here).count() as u64;
    let lacking: Vec<_> = set.images.iter().filter(|image| !is_here(image)).collect();
    let sum = |bytes: fn(&ImageStatus) -> Option<u64>| -> u64 {
        let bytes = set.images.iter().filter_map(bytes);
        bytes.fold(0, u64::saturating_add)
    };
    let (present, whole) = (sum(|image| image.present_bytes), sum(|image| image.bytes));
    html! {
        tr {
            th scope="row" {
                b { (set.name) }
                @if !set.matches { span.quiet.block { "for nodes with other labels" } }
                @if let Some(at) = set.listed_at {
                    span.quiet.block { "listed " (ago(now.saturating_sub(at))) }
                }
                @if let Some(error) = &set.error { p.notice.warn { (error) } }
            }
            td data-label="Not here yet" {
                @if set.matches && lacking.is_empty() { span.quiet { "nothing" } }
                @for image in lacking.iter().take(IMAGES) { (missing(image)) }
                @if lacking.len() > IMAGES {
                    span.quiet.block { "and " (count((lacking.len() - IMAGES) as u64)) " more: " code { "larder warm " (set.name) } }
                }
                @if !set.left.is_empty() {
                    span.quiet.block { (counted(set.left.len() as u64, "image", "images")) " left the set and " @if set.left.len() == 1 { "is" } @else { "are" } " kept for a while" }
                }
            }
            td.number data-label="Images here" { (count(here)) " of " (count(set.images.len() as u64)) }
            td.number data-label="Bytes here" { (size(present)) " of " (size(whole)) }
        }
    }
}

fn missing(image: &ImageStatus) -> Markup {
    let class = match image.state {
        ImageState::Here | ImageState::Coming => "ok",
        ImageState::Waiting | ImageState::NoRoom => "warn",
        ImageState::Failed => "bad",
    };
    html! {
        span.block {
            code { (image.image) } " " span.pill.(class) { (image.state.as_str()) }
            @if let Some(error) = &image.error { " " span.quiet { (error) } }
        }
    }
}
