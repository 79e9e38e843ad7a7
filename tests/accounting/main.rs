//! What larder says of itself: every byte in the books, names that are documented, lines that can be joined, and alerts
//! and a dashboard that speak of what there is.

mod books;
mod bounded;
mod deploy;
mod logs;
mod promtool;
mod ranges;
mod table;
