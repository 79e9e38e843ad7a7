//! An answer before it is sent: status, headers, and which part of which content it carries.

use std::ops::Range;

use bytes::Bytes;
use serde_json::json;

use super::content::Content;
use super::request::{Wanted, wanted};

/// `Content-Length` and `Content-Range` are not among the headers: they follow from `content`,
/// `span` and `partial` when the reply is sent.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) content: Content,
    /// The part of the content that is sent.
    pub(super) span: Range<u64>,
    /// Whether a `Range` was granted.
    pub(super) partial: bool,
}

impl Reply {
    pub(super) fn new(status: u16, content: Content) -> Self {
        let span = 0..content.len();
        Self {
            status,
            headers: Vec::new(),
            content,
            span,
            partial: false,
        }
    }

    pub(super) fn ok(content_type: &str, body: impl Into<Bytes>) -> Self {
        Self::new(200, Content::bytes(body)).with("Content-Type", content_type)
    }

    /// A refusal with the error body of the distribution spec.
    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        let body = json!({"errors": [{"code": code, "message": message, "detail": null}]});
        Self::new(status, Content::bytes(body.to_string())).with("Content-Type", "application/json")
    }

    /// Adds a header.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes a header.
    pub(super) fn without(&mut self, name: &str) {
        self.headers.retain(|(header, _)| header != name);
    }

    /// Narrows a 200 to the part that a `Range` header asks for.
    pub(super) fn ranged(mut self, header: Option<&str>) -> Self {
        match wanted(header, self.content.len()) {
            Wanted::Whole => self,
            Wanted::Part(range) => {
                self.status = 206;
                self.partial = true;
                self.span = range;
                self
            }
            Wanted::Unsatisfiable => {
                let range = format!("bytes */{}", self.content.len());
                Self::error(416, "RANGE_INVALID", "no such bytes").with("Content-Range", &range)
            }
        }
    }

    /// Widens it to the whole again.
    pub(super) fn unranged(&mut self) {
        if self.partial {
            self.partial = false;
            self.status = 200;
            self.span = 0..self.content.len();
        }
    }

    pub(super) fn is_success(&self) -> bool {
        matches!(self.status, 200 | 206)
    }

    /// How many bytes the body has.
    pub(super) fn len(&self) -> u64 {
        self.span.end - self.span.start
    }
}
