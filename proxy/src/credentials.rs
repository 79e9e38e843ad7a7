//! Node credentials.
