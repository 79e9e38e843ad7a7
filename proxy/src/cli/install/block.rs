//! larder's lines in a file that may have another owner: put between two marks, found, removed. Pure.
//!
//! larder never changes text outside of the marks.

use std::ops::Range;

/// The start of the first line of the block.
const BEGIN: &str = "# >>> larder";
/// The start of the last line of the block.
const END: &str = "# <<< larder";
/// The line that records how many directories are removed with the file.
const MADE: &str = "# directories made: ";

/// `lines` between the marks. `directories` counts those that were made for the file: its own, the one above, and so
/// on.
pub(super) fn marked(lines: &str, directories: usize) -> String {
    format!(
        "{BEGIN}: `larder install` wrote the lines from here to the end mark, `larder uninstall` removes them\n\
         {MADE}{directories}\n\
         {lines}\
         {END}: end\n"
    )
}

/// The place of larder's block in `text`, if there is one.
///
/// # Errors
/// The marks are not exactly one pair. The text says what to do.
pub(super) fn find(text: &str) -> Result<Option<Range<usize>>, String> {
    let (mut begins, mut ends) = (Vec::new(), Vec::new());
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        if line.starts_with(BEGIN) {
            begins.push(offset);
        }
        offset += line.len();
        if line.starts_with(END) {
            ends.push(offset);
        }
    }
    match (&begins[..], &ends[..]) {
        ([], []) => Ok(None),
        (&[begin], &[end]) if begin < end => Ok(Some(begin..end)),
        _ => Err(format!(
            "larder's marks are damaged: remove its lines by hand, from `{BEGIN}` to `{END}`"
        )),
    }
}

/// How many directories were made for the file, according to its block.
pub(super) fn made(block: &str) -> usize {
    block
        .lines()
        .find_map(|line| line.strip_prefix(MADE))
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

/// `text` without the block at `block`, and without the blank line that came with it.
pub(super) fn strip(text: &str, block: &Range<usize>) -> String {
    let tail = &text[block.end..];
    let tail = tail.strip_prefix('\n').unwrap_or(tail);
    format!("{}{tail}", &text[..block.start])
}
