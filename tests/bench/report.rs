//! The printed report: tables as sections end, verdicts last, and the same as Markdown.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Error;

/// The target of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// One figure that has a target.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub what: String,
    pub bound: Bound,
    pub measured: f64,
    pub unit: &'static str,
}

impl Verdict {
    pub fn new(what: impl Into<String>, bound: Bound, measured: f64, unit: &'static str) -> Self {
        Self {
            what: what.into(),
            bound,
            measured,
            unit,
        }
    }

    fn met(&self) -> bool {
        match self.bound {
            Bound::AtLeast(least) => self.measured >= least,
            Bound::AtMost(most) => self.measured <= most,
        }
    }

    fn row(&self) -> Vec<String> {
        let unit = self.unit;
        let space = if unit.is_empty() || unit == "x" {
            ""
        } else {
            " "
        };
        let (sign, number) = match self.bound {
            Bound::AtLeast(least) => (">=", least),
            Bound::AtMost(most) => ("<=", most),
        };
        let outcome = if self.met() {
            "met".to_owned()
        } else {
            let by = (self.measured / number - 1.0) * 100.0;
            format!("MISSED by {:.0} %", by.abs())
        };
        vec![
            self.what.clone(),
            format!("{sign} {number}{space}{unit}"),
            format!("{:.3}{space}{unit}", self.measured),
            outcome,
        ]
    }
}

/// A table with its heading and what to know about it.
#[derive(Clone, Debug, Default)]
pub struct Section {
    pub title: String,
    /// A sentence each.
    pub about: Vec<String>,
    pub columns: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
    pub verdicts: Vec<Verdict>,
}

impl Section {
    pub fn new(title: impl Into<String>, columns: &[&'static str]) -> Self {
        Self {
            title: title.into(),
            columns: columns.to_vec(),
            ..Self::default()
        }
    }

    /// Adds a sentence.
    pub fn about(&mut self, sentence: impl Into<String>) {
        self.about.push(sentence.into());
    }

    /// Adds a row.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Adds a verdict.
    pub fn verdict(
        &mut self,
        what: impl Into<String>,
        bound: Bound,
        measured: f64,
        unit: &'static str,
    ) {
        self.verdicts
            .push(Verdict::new(what, bound, measured, unit));
    }

    pub fn text(&self) -> String {
        let mut text = format!("\n== {}\n", self.title);
        for sentence in &self.about {
            let _ = writeln!(text, "   {sentence}");
        }
        text + &aligned(&self.columns, &self.rows)
    }

    fn markdown(&self) -> String {
        let about = self.about.join("\n");
        format!(
            "### {}\n\n{about}\n\n{}\n",
            self.title,
            piped(&self.columns, &self.rows)
        )
    }
}

/// The whole run.
#[derive(Debug)]
pub struct Report {
    machine: Vec<(&'static str, String)>,
    sections: Vec<Section>,
    failures: Vec<String>,
    pub took: Duration,
}

const VERDICTS: [&str; 4] = ["target", "wanted", "measured", ""];

impl Report {
    pub fn new(machine: Vec<(&'static str, String)>) -> Self {
        Self {
            machine,
            sections: Vec::new(),
            failures: Vec::new(),
            took: Duration::ZERO,
        }
    }

    pub fn add(&mut self, section: Section) {
        self.sections.push(section);
    }

    pub fn failed(&mut self, section: &str, error: &Error) {
        self.failures.push(format!("{section}: {error:#}"));
    }

    /// Whether everything could be measured.
    pub fn is_whole(&self) -> bool {
        self.failures.is_empty()
    }

    /// The machine.
    pub fn head(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.machine {
            let _ = writeln!(text, "{name:<20} {value}");
        }
        text
    }

    pub fn verdicts(&self) -> String {
        let mut text = format!(
            "\n== targets ({:.0} s in all)\n{}",
            self.took.as_secs_f64(),
            aligned(&VERDICTS, &self.verdict_rows())
        );
        for failure in &self.failures {
            let _ = writeln!(text, "NOT MEASURED: {failure}");
        }
        text
    }

    pub fn markdown(&self) -> String {
        let mut text = String::from("## The machine\n\n");
        for (name, value) in &self.machine {
            let _ = writeln!(text, "- {name}: {value}");
        }
        let seconds = self.took.as_secs_f64();
        let _ = writeln!(text, "- the run took {seconds:.0} s");
        text += "\n## Targets\n\n";
        text += &piped(&VERDICTS, &self.verdict_rows());
        text += "\n## Figures\n";
        for section in &self.sections {
            let _ = write!(text, "\n{}", section.markdown());
        }
        for failure in &self.failures {
            let _ = writeln!(text, "\nNot measured: {failure}");
        }
        text
    }

    fn verdict_rows(&self) -> Vec<Vec<String>> {
        let verdicts = self.sections.iter().flat_map(|section| &section.verdicts);
        verdicts.map(Verdict::row).collect()
    }
}

/// Columns of text: the first is aligned to the left, all others to the right.
fn aligned(columns: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..columns.len())
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(columns[column].len())
        })
        .collect();
    let mut text = String::new();
    let head: Vec<String> = columns.iter().map(ToString::to_string).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::from("  ");
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(line, " {cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn piped(columns: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|---|", columns.join(" | "));
    text += &"---:|".repeat(columns.len() - 1);
    text.push('\n');
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_target_says_by_how_much() {
        let missed = Verdict::new("speed", Bound::AtLeast(1.2), 0.9, "x");
        assert_eq!(
            missed.row(),
            ["speed", ">= 1.2x", "0.900x", "MISSED by 25 %"]
        );
        let met = Verdict::new("memory", Bound::AtMost(16.0), 12.5, "MiB");
        assert_eq!(met.row(), ["memory", "<= 16 MiB", "12.500 MiB", "met"]);
        let unknown = Verdict::new("nothing", Bound::AtMost(1.0), f64::NAN, "");
        assert!(unknown.row()[3].starts_with("MISSED"));
    }

    #[test]
    fn tables_are_readable_in_both_forms() {
        let mut section = Section::new("speed", &["peer", "MB/s"]);
        section.about("More is better.");
        section.row(["nginx", "9"]);
        assert_eq!(
            section.text(),
            "\n== speed\n   More is better.\n   peer   MB/s\n   nginx     9\n"
        );
        assert!(
            section
                .markdown()
                .contains("| peer | MB/s |\n|---|---:|\n| nginx | 9 |\n")
        );
    }
}
