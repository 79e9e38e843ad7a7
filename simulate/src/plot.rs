//! The share of nodes that have the image, over time in units of one node alone: on a terminal, or as an SVG.

use std::fmt::Write as _;

use crate::report::Row;

const WIDTH: usize = 72;
const HEIGHT: usize = 16;
const COLOURS: [&str; 6] = [
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf",
];

/// A curve's points: a time, and the share of nodes that are done by then.
fn curve(row: &Row) -> Vec<(f64, f64)> {
    let mut times = row.ratios();
    times.sort_by(f64::total_cmp);
    let count = times.len() as f64;
    let ends = times.into_iter().enumerate();
    ends.map(|(i, time)| (time, (i + 1) as f64 / count))
        .collect()
}

fn longest(rows: &[Row]) -> f64 {
    let all = rows.iter().flat_map(Row::ratios);
    all.fold(1.0, f64::max) * 1.02
}

/// For a terminal. Each cluster has a letter.
pub fn text(rows: &[Row]) -> String {
    let longest = longest(rows);
    let mut cells = vec![vec![' '; WIDTH]; HEIGHT];
    let mut key = String::new();
    for (row, letter) in rows.iter().zip('a'..='z') {
        let points = curve(row);
        for (x, column) in (0..WIDTH).map(|x| (x, (x + 1) as f64 / WIDTH as f64 * longest)) {
            let done = points.partition_point(|(time, _)| *time <= column);
            let share = done as f64 / points.len().max(1) as f64;
            if done > 0 {
                let y = ((1.0 - share) * (HEIGHT - 1) as f64).round() as usize;
                cells[y][x] = letter;
            }
        }
        let _ = write!(key, "  {letter} = {} nodes", row.outcome.nodes);
    }
    let mut out = String::new();
    for (y, cells) in cells.iter().enumerate() {
        let share = 100 - 100 * y / (HEIGHT - 1);
        let line: String = cells.iter().collect();
        let _ = writeln!(out, "{share:>4} % |{}", line.trim_end());
    }
    let _ = writeln!(out, "       +{}", "-".repeat(WIDTH));
    let right = format!("{longest:.2} x one node alone");
    let _ = writeln!(out, "        0{right:>width$}", width = WIDTH - 1);
    let _ = writeln!(out, "      {key}");
    out
}

/// The same as an SVG.
pub fn svg(rows: &[Row]) -> String {
    const RIGHT: f64 = 640.0;
    const BOTTOM: f64 = 320.0;
    const MARGIN: f64 = 50.0;
    let longest = longest(rows);
    let x = |time: f64| MARGIN + time / longest * (RIGHT - MARGIN);
    let y = |share: f64| BOTTOM - share * (BOTTOM - 20.0);
    let mut out = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 700 370\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"700\" height=\"370\" fill=\"white\"/>\n",
    );
    for tenth in 0..=4 {
        let share = f64::from(tenth) / 4.0;
        let _ = writeln!(
            out,
            "<line x1=\"{MARGIN}\" x2=\"{RIGHT}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/>\
             <text x=\"10\" y=\"{0:.1}\">{1:.0} %</text>\
             <text x=\"{2:.1}\" y=\"338\" text-anchor=\"middle\">{3:.2}</text>",
            y(share),
            share * 100.0,
            x(share * longest),
            share * longest
        );
    }
    for (index, row) in rows.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let mut path = format!("M{:.1} {:.1}", x(0.0), y(0.0));
        for (time, share) in curve(row) {
            let _ = write!(path, "H{:.1}V{:.1}", x(time), y(share));
        }
        let _ = writeln!(
            out,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"60\" y=\"{}\" fill=\"{colour}\">{} nodes</text>",
            36 + 16 * index,
            row.outcome.nodes
        );
    }
    out.push_str(
        "<text x=\"345\" y=\"360\" text-anchor=\"middle\">time, one node alone = 1</text>\n</svg>\n",
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{scenario::small, swarm::Swarm};

    #[test]
    fn every_cluster_is_in_both_plots() {
        let rows: Vec<Row> = [2, 5]
            .map(|nodes| Row {
                outcome: Swarm::new(&small(nodes)).run(),
                alone: 0.5,
            })
            .into();
        let text = text(&rows);
        assert!(text.contains("a = 2 nodes") && text.contains("b = 5 nodes"));
        let svg = svg(&rows);
        assert_eq!(svg.matches("<path").count(), 2);
        assert!(svg.ends_with("</svg>\n"));
    }
}
