//! Bodies whose headers leave before their bytes are here, and what happens if a body ends without a byte.

use std::{fmt, pin::Pin};

use bytes::Bytes;

use super::Body;
use crate::fill::FillError;

/// A body that is to come, or the reason why it does not.
pub struct Awaited(pub(super) Pin<Box<dyn Future<Output = Result<Body, String>> + Send>>);

impl Awaited {
    pub fn new(coming: impl Future<Output = Result<Body, String>> + Send + 'static) -> Self {
        Self(Box::pin(coming))
    }
}

impl fmt::Debug for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Awaited")
    }
}

/// The verified bytes of a small blob that are to come.
pub struct Coming(pub(super) Pin<Box<dyn Future<Output = Result<Bytes, FillError>> + Send>>);

impl Coming {
    pub fn new(coming: impl Future<Output = Result<Bytes, FillError>> + Send + 'static) -> Self {
        Self(Box::pin(coming))
    }
}

impl fmt::Debug for Coming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Coming")
    }
}

/// Calls its function when it is dropped, unless a byte has come before.
pub(super) struct Barren(Option<Box<dyn FnOnce() + Send>>);

impl Barren {
    pub(super) fn new(barren: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(barren)))
    }

    /// Notes that a byte has come: the function is not called.
    pub(super) fn take_away(mut self) {
        self.0 = None;
    }
}

impl fmt::Debug for Barren {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Barren")
    }
}

impl Drop for Barren {
    fn drop(&mut self) {
        if let Some(barren) = self.0.take() {
            barren();
        }
    }
}
