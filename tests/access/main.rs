//! Private content stays private (promises P15 to P20): which credentials callers are asked for, and what a right opens
//! and does not open.

mod attacks;
mod aws;
mod azure;
mod challenge;
mod clouds;
mod dance;
mod fills;
mod flows;
mod google;
mod halves;
mod lists;
mod matrix;
mod mirrors;
mod oracle;
mod portals;
mod private;
mod reach;
mod refusals;
mod registry;
mod sources;
mod tokens;
mod two_images;
mod verdicts;
