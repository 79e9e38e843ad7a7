//! What larder reports about itself: every byte is counted, every name is documented, and lines can be joined. Alerts
//! and the dashboard refer only to what exists.

mod books;
mod bounded;
mod deploy;
mod logs;
mod promtool;
mod ranges;
mod table;
