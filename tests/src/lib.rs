//! What larder's black-box tests are made of.
//!
//! [`real`] runs the programs larder meets in the field: registries, runtimes and copying clients.

pub mod real;
