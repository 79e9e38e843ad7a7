//! Tests of the harness itself. A fake that misbehaves in other ways than the test asked for, or a client that hides
//! how a body ended, would make every other test worthless.

mod access;
mod content;
mod counts;
mod faults;
mod hosts;
mod images;
mod members;
mod nodes;
mod object_store;
mod redirects;
