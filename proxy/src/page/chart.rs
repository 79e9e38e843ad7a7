//! Traffic over time, as two small charts with one axis, and as a table.
//!
//! The SVG holds shapes alone and is stretched to its place. Text stands in HTML around it, so that it keeps its size
//! on a phone.

use std::fmt::Write as _;

use maud::{Markup, PreEscaped, html};

use super::{
    Query, Span, View,
    words::{ago, count, percent, size},
};
use crate::history::Sample;

/// The height of a chart and the width of a column, in the SVG's own units.
const HEIGHT: f64 = 100.0;
const WIDTH: usize = 10;

/// One part of a column: its CSS class, its label, and its share of a sample.
type Part = (&'static str, &'static str, fn(&Sample) -> u64);

/// The parts of a chart's column, from the bottom up.
const PARTS: [Part; 3] = [
    ("node", "this node", |sample| sample.node_bytes),
    ("peers", "other nodes", |sample| sample.cluster_bytes),
    ("upstream", "registries", |sample| sample.upstream_bytes),
];

pub fn history(view: &View) -> Markup {
    let span = view.query.span;
    let (slots, minutes) = span.columns();
    let columns = &view.columns;
    let highest = columns.iter().map(Sample::bytes).max().unwrap_or(0);
    let top = round_up(highest);
    let all = columns.iter().fold(Sample::default(), |all, one| Sample {
        node_bytes: all.node_bytes + one.node_bytes,
        cluster_bytes: all.cluster_bytes + one.cluster_bytes,
        upstream_bytes: all.upstream_bytes + one.upstream_bytes,
        hits: all.hits + one.hits,
        misses: all.misses + one.misses,
    });
    let (last, marks) = match span {
        Span::Hour => ("the last hour", ["60 min ago", "45", "30", "15", "now"]),
        Span::Day => (
            "the last 24 hours",
            ["24 h ago", "18 h", "12 h", "6 h", "now"],
        ),
    };
    let hits = all.hit_ratio().map_or("no pulls".to_owned(), percent);
    html! {
        section.card aria-labelledby="history-title" {
            div.title {
                h2 #history-title { "What clients were sent" }
                nav.tabs aria-label="How far back" {
                    @for other in Span::ALL {
                        @let query = Query { span: other, ..view.query.clone() };
                        a href=(query.link()) data-live
                            aria-current=[(other == span).then_some("true")] {
                            @match other { Span::Hour => "1 h", Span::Day => "24 h" }
                        }
                    }
                }
            }
            @if all == Sample::default() { p.quiet { "Nothing was pulled in this time." } } @else { figure {
                figcaption.key {
                    @for (class, word, of) in PARTS {
                        span { i class={"swatch " (class)} {} "from " (word) " " b { (size(of(&all))) } }
                    }
                    span { i.swatch.hits {} "hit ratio " b { (hits) } }
                }
                div.plot {
                    div.scale aria-hidden="true" { span { (size(top)) } span { (size(top / 2)) } span { "0" } }
                    (svg(slots, &format!("Bytes sent in {last}, by where they came from. The table below says the same."),
                        columns, minutes, |sample, x, out| stacked(sample, top, x, out)))
                }
                div.plot.low {
                    div.scale aria-hidden="true" { span { "100 %" } span { "0" } }
                    (svg(slots, &format!("Hit ratio in {last}."), columns, minutes, |sample, x, out| {
                        if let Some(ratio) = sample.hit_ratio() {
                            bar(out, "hits", x, 0.0, (ratio * HEIGHT).max(1.0));
                        }
                    }))
                }
                div.time aria-hidden="true" { @for mark in marks { span { (mark) } } }
            }
            (table(columns, minutes)) }
        }
    }
}

fn table(columns: &[Sample], minutes: usize) -> Markup {
    let used = columns.iter().rev().enumerate();
    let used: Vec<_> = used
        .filter(|(_, c)| c.hits + c.misses + c.bytes() > 0)
        .collect();
    html! {
        details {
            summary { "The same as a table" }
                table {
                    thead { tr {
                        th scope="col" { "When" }
                        @for (_, word, _) in PARTS { th.number scope="col" { "From " (word) } }
                        th.number scope="col" { "Requests" }
                        th.number scope="col" { "Hits" }
                    } }
                    tbody {
                        @for (index, column) in used {
                            tr {
                                th scope="row" { (when(index, minutes)) }
                                @for (_, word, of) in PARTS {
                                    td.number data-label={"From " (word)} { (size(of(column))) }
                                }
                                td.number data-label="Requests" { (count(column.hits + column.misses)) }
                                td.number data-label="Hits" {
                                    (column.hit_ratio().map_or("-".to_owned(), percent))
                                }
                            }
                        }
                    }
                }
        }
    }
}

/// When the `index`th column before now began.
fn when(index: usize, minutes: usize) -> String {
    let began = (index + 1) * minutes;
    if index == 0 {
        format!("the last {minutes} min")
    } else {
        ago(began as u64 * 60)
    }
}

/// An SVG of columns, the newest at the right. `draw` adds a column's shapes at the given x.
fn svg(
    slots: usize,
    label: &str,
    columns: &[Sample],
    minutes: usize,
    draw: impl Fn(&Sample, usize, &mut String),
) -> Markup {
    let mut shapes = String::new();
    let skipped = slots.saturating_sub(columns.len());
    for (index, column) in columns.iter().enumerate() {
        if column.bytes() + column.hits + column.misses == 0 {
            continue;
        }
        let x = (skipped + index) * WIDTH;
        // Safe without escaping: only numbers and fixed words are written here.
        let _ = write!(
            shapes,
            "<g><title>{}: {}</title><rect class=\"column\" x=\"{x}\" y=\"0\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>",
            when(columns.len() - 1 - index, minutes),
            told(column),
        );
        draw(column, x, &mut shapes);
        shapes.push_str("</g>");
    }
    html! {
        svg viewBox=(format!("0 0 {} {HEIGHT}", slots * WIDTH)) preserveAspectRatio="none"
            role="img" aria-label=(label) { (PreEscaped(shapes)) }
    }
}

fn told(sample: &Sample) -> String {
    let mut parts: Vec<String> = PARTS
        .iter()
        .map(|(_, word, of)| (word, of(sample)))
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(word, bytes)| format!("{} from {word}", size(bytes)))
        .collect();
    if let Some(ratio) = sample.hit_ratio() {
        let requests = sample.hits + sample.misses;
        parts.push(format!(
            "{} of {} requests were hits",
            percent(ratio),
            count(requests)
        ));
    }
    parts.join(", ")
}

fn stacked(sample: &Sample, top: u64, x: usize, out: &mut String) {
    let mut from = 0.0;
    for (class, _, of) in PARTS {
        let bytes = of(sample);
        if bytes > 0 {
            // Even the smallest part stays visible.
            let height = (bytes as f64 / top as f64 * HEIGHT).max(0.6);
            bar(out, class, x, from, height);
            from += height;
        }
    }
}

/// A bar whose lower edge is `from` above the axis.
fn bar(out: &mut String, class: &str, x: usize, from: f64, height: f64) {
    let _ = write!(
        out,
        "<rect class=\"{class}\" x=\"{}\" y=\"{:.2}\" width=\"{}\" height=\"{height:.2}\"/>",
        x + 1,
        HEIGHT - from - height,
        WIDTH - 2,
    );
}

/// The round number of bytes at which an axis ends: 1, 2, 5, 10 … 500 of a unit.
fn round_up(bytes: u64) -> u64 {
    let mut unit = 1_u64 << 10;
    loop {
        let steps = [1, 2, 4, 10, 20, 40, 100, 200, 400, 1000];
        let fits = steps.map(|step| unit.saturating_mul(step));
        if let Some(top) = fits.into_iter().find(|top| *top >= bytes) {
            return top;
        }
        let Some(next) = unit.checked_mul(1 << 10) else {
            return u64::MAX;
        };
        unit = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_with_a_round_number() {
        let ends = [0, 1024, 1025, 5 << 20, 999 << 20, 1001 << 20, 3 << 30].map(round_up);
        let sizes = ends.map(size);
        assert_eq!(
            sizes,
            [
                "1.0 KiB",
                "1.0 KiB",
                "2.0 KiB",
                "10.0 MiB",
                "1000.0 MiB",
                "1.0 GiB",
                "4.0 GiB"
            ]
        );
        assert_eq!(round_up(u64::MAX), u64::MAX);
    }

    #[test]
    fn bars_stand_on_each_other_and_reach_the_top() {
        let sample = Sample {
            node_bytes: 512,
            cluster_bytes: 256,
            upstream_bytes: 256,
            ..Sample::default()
        };
        let mut out = String::new();
        stacked(&sample, 1024, 20, &mut out);
        for part in [
            "class=\"node\" x=\"21\" y=\"50.00\" width=\"8\" height=\"50.00\"",
            "class=\"peers\" x=\"21\" y=\"25.00\" width=\"8\" height=\"25.00\"",
            "class=\"upstream\" x=\"21\" y=\"0.00\" width=\"8\" height=\"25.00\"",
        ] {
            assert!(out.contains(part), "{part} in {out}");
        }
    }

    #[test]
    fn columns_are_named_by_when_they_began() {
        assert_eq!(when(0, 1), "the last 1 min");
        assert_eq!(when(1, 15), "30 minutes ago");
        assert_eq!(when(95, 15), "1 day ago");
    }
}
