//! Reads a body into memory, bounded in bytes and time.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

/// Why a body was not collected.
#[derive(Debug, thiserror::Error)]
pub enum Uncollected {
    #[error("the answer is longer than {0} bytes")]
    TooLong(u64),
    #[error("{0}")]
    Broken(String),
    #[error("the answer was not complete within {0:?}")]
    Late(Duration),
}

/// Collects a body of at most `limit` bytes within `within`.
pub async fn collect_bounded(
    body: Incoming,
    limit: u64,
    within: Duration,
) -> Result<Bytes, Uncollected> {
    let collected =
        tokio::time::timeout(within, Limited::new(body, limit as usize).collect()).await;
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Uncollected::TooLong(limit)),
        Ok(Err(error)) => Err(Uncollected::Broken(error.to_string())),
        Err(_) => Err(Uncollected::Late(within)),
    }
}

/// As [`collect_bounded`], with the reason as text.
pub async fn collect(body: Incoming, limit: u64, within: Duration) -> Result<Bytes, String> {
    let collected = collect_bounded(body, limit, within).await;
    collected.map_err(|why| why.to_string())
}

/// The first `limit` bytes of a body, or as many as arrive within that time.
pub async fn prefix(mut body: Incoming, limit: usize, within: Duration) -> Vec<u8> {
    let mut bytes = Vec::new();
    let gather = async {
        while bytes.len() < limit
            && let Some(Ok(frame)) = body.frame().await
        {
            bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    };
    // After the time limit, the bytes that arrived are used.
    let _ = tokio::time::timeout(within, gather).await;
    bytes.truncate(limit);
    bytes
}
