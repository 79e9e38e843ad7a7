//! A request as the fake understands it: the head, the route in it, the range it wants.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// The largest head, and the largest form, that the fake reads.
pub(super) const MAX_BYTES: usize = 64 * 1024;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v2/`
    Ping,
    /// `/v2/<repository>/manifests/<reference>`
    Manifest,
    /// `/v2/<repository>/blobs/<digest>`
    Blob,
    /// `/v2/<repository>/tags/list`
    Tags,
    /// `/v2/<repository>/referrers/<digest>`
    Referrers,
    /// `/token`
    Token,
    /// `/cdn/<repository>/<digest>`, on the second port: the target of redirects.
    Cdn,
    /// A path that no pull asks for.
    Other,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// As sent.
    pub method: String,
    /// Percent-decoded, without the query.
    pub path: String,
    /// As sent, without the `?`.
    pub query: Option<String>,
    /// Names in lower case, values as sent.
    pub headers: Vec<(String, String)>,
    /// What the path asks for.
    pub kind: Kind,
    /// The repository in the path, or nothing.
    pub repository: String,
    /// The tag or digest in the path, or nothing.
    pub reference: String,
    /// The posted body.
    pub body: Bytes,
}

impl Request {
    /// Takes one request off the front of `buffer`; `None` while it is incomplete.
    pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Self>, &'static str> {
        // Some clients try TLS first, and wait for an answer before they try without.
        if buffer
            .first()
            .is_some_and(|byte| !byte.is_ascii_alphabetic())
        {
            return Err("this is not HTTP");
        }
        let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
            return if buffer.len() < MAX_BYTES {
                Ok(None)
            } else {
                Err("the head is too long")
            };
        };
        let head = std::str::from_utf8(&buffer[..end]).map_err(|_| "the head is not UTF-8")?;
        let mut request = Self::parse(head).ok_or("the head is not HTTP/1.1")?;
        let length = match request.header("content-length") {
            Some(length) => length.parse().map_err(|_| "bad Content-Length")?,
            None => 0,
        };
        if length > MAX_BYTES {
            return Err("the body is too long");
        }
        if buffer.len() < end + 4 + length {
            return Ok(None);
        }
        let _head = buffer.split_to(end + 4);
        request.body = buffer.split_to(length).freeze();
        Ok(Some(request))
    }

    fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        if !version.starts_with("HTTP/1.") || words.next().is_some() {
            return None;
        }
        let mut headers = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':')?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        let path = percent_decoded(path);
        let (kind, repository, reference) = route(&path);
        Some(Self {
            method: method.to_owned(),
            kind,
            repository: repository.to_owned(),
            reference: reference.to_owned(),
            path,
            query,
            headers,
            body: Bytes::new(),
        })
    }

    /// The first header of this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether it wants the head only.
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// The values of one query parameter, percent-decoded.
    pub fn parameters(&self, name: &str) -> Vec<String> {
        form(self.query.as_deref().unwrap_or_default(), name)
    }
}

/// The values of `name` in a query or a form, percent-decoded.
pub(crate) fn form(form: &str, name: &str) -> Vec<String> {
    form.split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| percent_decoded(&value.replace('+', " ")))
        .collect()
}

fn route(path: &str) -> (Kind, &str, &str) {
    if path == "/v2/" || path == "/v2" {
        return (Kind::Ping, "", "");
    }
    if path == "/token" {
        return (Kind::Token, "", "");
    }
    if let Some((repository, digest)) = path
        .strip_prefix("/cdn/")
        .and_then(|rest| rest.rsplit_once('/'))
    {
        return (Kind::Cdn, repository, digest);
    }
    let Some(rest) = path.strip_prefix("/v2/") else {
        return (Kind::Other, "", "");
    };
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        return (Kind::Tags, repository, "");
    }
    for (word, kind) in [
        ("/manifests/", Kind::Manifest),
        ("/blobs/", Kind::Blob),
        ("/referrers/", Kind::Referrers),
    ] {
        if let Some((repository, reference)) = rest.rsplit_once(word)
            && !reference.contains('/')
        {
            return (kind, repository, reference);
        }
    }
    (Kind::Other, "", "")
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|two| std::str::from_utf8(two).ok())
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        if let Some(code) = code {
            bytes.push(code);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a `Range` header means for content of a known length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// No range, or a range that a simple server ignores: several ranges, another unit, nonsense.
    Whole,
    /// 206
    Part(Range<u64>),
    /// 416
    Unsatisfiable,
}

/// Reads a `Range` header (RFC 9110 section 14.1.2).
pub(super) fn wanted(header: Option<&str>, len: u64) -> Wanted {
    let Some((first, last)) = header
        .and_then(|header| header.strip_prefix("bytes="))
        .filter(|ranges| !ranges.contains(','))
        .and_then(|range| range.split_once('-'))
    else {
        return Wanted::Whole;
    };
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => first..last.saturating_add(1).min(len),
        (Ok(first), Err(_)) if last.is_empty() => first..len,
        (Err(_), Ok(suffix)) if first.is_empty() => len.saturating_sub(suffix)..len,
        _ => return Wanted::Whole,
    };
    if range.is_empty() {
        Wanted::Unsatisfiable
    } else {
        Wanted::Part(range)
    }
}
