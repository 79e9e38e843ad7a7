//! Tables: as wide as the terminal, or plain columns in a pipe.

use std::io::IsTerminal as _;

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement};
use terminal_size::{Width, terminal_size_of};

use super::show::{BOLD, say, styled};

/// One column: its heading, and how its cells are laid out.
#[derive(Clone, Copy, Debug)]
pub enum Column {
    /// Text that may be broken into several lines if the terminal is narrow.
    Text(&'static str),
    /// A word, which is never broken.
    Word(&'static str),
    /// A number, which is never broken, and is aligned to the right.
    Number(&'static str),
}

/// Prints rows under their headings; prints nothing if there are no rows.
pub fn say_table(columns: &[Column], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let width = std::io::stdout().is_terminal().then(|| {
        let asked = terminal_size_of(std::io::stdout()).map(|(Width(width), _)| width);
        asked.filter(|width| *width > 0).unwrap_or(80)
    });
    for line in lines(columns, rows, width).into_iter().enumerate() {
        match line {
            (0, heading) => say(&styled(BOLD, heading)),
            (_, row) => say(&row),
        }
    }
}

fn lines(columns: &[Column], rows: Vec<Vec<String>>, width: Option<u16>) -> Vec<String> {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    match width {
        Some(width) => table
            .set_width(width)
            .set_content_arrangement(ContentArrangement::Dynamic),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    let heading = |column: &Column| match column {
        Column::Text(name) | Column::Word(name) | Column::Number(name) => *name,
    };
    table.set_header(columns.iter().map(heading).collect::<Vec<_>>());
    table.add_rows(rows);
    for (index, column) in columns.iter().enumerate() {
        let Some(drawn) = table.column_mut(index) else {
            continue;
        };
        // Two blanks between columns, none before the first.
        drawn.set_padding((0, 2));
        if let Column::Number(_) = column {
            drawn.set_cell_alignment(CellAlignment::Right);
        }
        if !matches!(column, Column::Text(_)) {
            drawn.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<String>> {
        let row = |name: &str, size: &str, last: &str| {
            vec![name.to_owned(), size.to_owned(), last.to_owned()]
        };
        vec![
            row(
                "ghcr.io/a-long-organisation/a-longer-repository",
                "1.5 GiB",
                "yes",
            ),
            row("quay.io/a", "12 KiB", ""),
        ]
    }

    const COLUMNS: [Column; 3] = [
        Column::Text("IMAGE"),
        Column::Number("SIZE"),
        Column::Word("PINNED"),
    ];

    #[test]
    fn a_pipe_gets_a_row_a_line() {
        assert_eq!(
            lines(&COLUMNS, rows(), None),
            [
                "IMAGE                                               SIZE  PINNED",
                "ghcr.io/a-long-organisation/a-longer-repository  1.5 GiB  yes",
                "quay.io/a                                         12 KiB",
            ]
        );
    }

    #[test]
    fn a_terminal_is_never_overrun() {
        for width in [32, 40, 60, 200] {
            let lines = lines(&COLUMNS, rows(), Some(width));
            assert!(
                lines.iter().all(|line| line.len() <= usize::from(width)),
                "{width}: {lines:#?}"
            );
            assert!(lines.iter().any(|line| line.contains("1.5 GiB")));
        }
    }
}
