//! The answer for the selected part of a blob (all of it, one range, or several), and its headers.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use larder_shared::{Digest, Range, range::Selected};

use super::{DIGEST, PullError, Pulled, put};
use crate::{
    body::{Body, Content, Segment},
    metrics::{Outcome, Tier},
};

const OCTETS: &str = "application/octet-stream";

/// Whether the client reads to the end of the blob and therefore relies on a matching digest.
pub(super) fn to_the_end(selected: &Selected) -> bool {
    matches!(selected, Selected::Whole | Selected::One { open: true, .. })
}

/// The answer to a HEAD of a blob of this size.
pub(super) fn head(digest: &Digest, size: u64) -> Pulled {
    let mut headers = common(digest);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(OCTETS));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    Pulled {
        status: StatusCode::OK,
        headers,
        body: Body::empty(),
        tier: Tier::None,
        outcome: Outcome::Hit,
    }
}

fn common(digest: &Digest) -> HeaderMap {
    let mut headers = HeaderMap::new();
    put(&mut headers, DIGEST, &digest.to_string());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers
}

/// The response for a selection. It is the same whether the content is stored or on its way.
pub(super) fn answer(
    digest: &Digest,
    size: u64,
    selected: &Selected,
    content: Content,
) -> Result<Pulled, PullError> {
    let mut headers = common(digest);
    let mut media_type = OCTETS.to_owned();
    let (status, segments) = match selected {
        Selected::Unsatisfiable => return Err(PullError::Range(size)),
        Selected::Whole if size == 0 => (StatusCode::OK, Vec::new()),
        Selected::Whole => (StatusCode::OK, vec![Segment::Range(Range::new(0, size))]),
        Selected::One { range, .. } => {
            put(
                &mut headers,
                header::CONTENT_RANGE,
                &range.content_range(size),
            );
            (StatusCode::PARTIAL_CONTENT, vec![Segment::Range(*range)])
        }
        Selected::Many(ranges) => {
            let boundary = format!("{:032x}", fastrand::u128(..));
            media_type = format!("multipart/byteranges; boundary={boundary}");
            (
                StatusCode::PARTIAL_CONTENT,
                multipart(&boundary, ranges, size),
            )
        }
    };
    put(&mut headers, header::CONTENT_TYPE, &media_type);
    let body = Body::new(content, segments);
    headers.insert(
        header::CONTENT_LENGTH,
        HeaderValue::from(body.len().unwrap_or(0)),
    );
    Ok(Pulled {
        status,
        headers,
        body,
        tier: Tier::None,
        outcome: Outcome::Hit,
    })
}

/// RFC 9110 section 14.6.
fn multipart(boundary: &str, ranges: &[Range], size: u64) -> Vec<Segment> {
    let mut segments = Vec::with_capacity(ranges.len() * 2 + 1);
    let mut line = "";
    for range in ranges {
        let part = format!(
            "{line}--{boundary}\r\nContent-Type: {OCTETS}\r\nContent-Range: {}\r\n\r\n",
            range.content_range(size)
        );
        segments.push(Segment::Bytes(part.into()));
        segments.push(Segment::Range(*range));
        line = "\r\n";
    }
    segments.push(Segment::Bytes(format!("\r\n--{boundary}--\r\n").into()));
    segments
}
