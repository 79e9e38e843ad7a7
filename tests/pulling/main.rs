//! Ordinary pulls through the registry port: names, content, streaming, coalescing, ranges (promises P1 to P6, P8 and
//! P26).

mod again;
mod content;
mod lists;
mod names;
mod parts;
mod ranges;
mod redirects;
mod slow;
mod streaming;
mod together;
mod ways;
