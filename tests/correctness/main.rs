//! Wrong content is never committed and never looks complete, no answer is late, and no request reaches an address that
//! it should not (promises P9, P12, P19, P20 and P27).

mod bodies;
mod browsers;
mod chunks;
mod deadlines;
mod flood;
mod input;
mod manifests;
mod reach;
mod resume;
mod storm;
mod wire;
