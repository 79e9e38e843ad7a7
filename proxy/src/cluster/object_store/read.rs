//! Reading objects: the first bytes, then the rest.

use std::{fs::File, io, os::unix::fs::FileExt as _, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use larder_shared::Range;
use object_store::{
    Error, GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore, ObjectStoreExt as _,
    path::Path,
};
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use super::{Object, ObjectFailure, breaker::Permit, limits::LARGEST_RECORD};

/// A directory's files are read in pieces of this size.
const PIECE: u64 = 1 << 20;

type Chunks = BoxStream<'static, Result<Bytes, ObjectFailure>>;

/// An object whose first bytes have come.
pub(super) struct Found {
    size: u64,
    range: Range,
    first: Option<Bytes>,
    rest: Chunks,
}

/// The size of an object, if it is there.
pub(super) async fn size(
    store: Arc<dyn ObjectStore>,
    path: Path,
) -> Result<Option<u64>, ObjectFailure> {
    match store.head(&path).await {
        Ok(meta) => Ok(Some(meta.size)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Asks for `range` of an object and waits for the first bytes.
pub(super) async fn first(
    store: Arc<dyn ObjectStore>,
    path: Path,
    range: Range,
    stall: Duration,
) -> Result<Option<Found>, ObjectFailure> {
    let wanted = match (range.start, range.end) {
        (0, u64::MAX) => None,
        (start, u64::MAX) => Some(GetRange::Offset(start)),
        (start, end) => Some(GetRange::Bounded(start..end)),
    };
    let options = GetOptions {
        range: wanted,
        ..GetOptions::default()
    };
    let result = match store.get_opts(&path, options).await {
        Ok(result) => result,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let size = result.meta.size;
    let range = Range::new(result.range.start, result.range.end);
    let mut rest = chunks(result, stall).fuse().boxed();
    let first = match rest.next().await {
        Some(chunk) => Some(chunk?),
        None => None,
    };
    Ok(Some(Found {
        size,
        range,
        first,
        rest,
    }))
}

/// The object as a reader gets it. Its body counts the bytes that it hands out, and tells the breaker how it ended.
pub(super) fn object(found: Found, permit: Permit, read: &Counter) -> Object {
    let left = found.range.len();
    let chunks = stream::iter(found.first.map(Ok)).chain(found.rest).boxed();
    let state = (chunks, Some(permit), read.clone(), left);
    let body = stream::unfold(state, |(mut chunks, permit, read, left)| async move {
        let permit = permit?;
        let failure = match chunks.next().await {
            Some(Ok(chunk)) if chunk.len() as u64 <= left => {
                let len = chunk.len() as u64;
                read.inc_by(len);
                // A reader that has all its bytes does not look for the end.
                let permit = if len == left {
                    permit.succeeded();
                    None
                } else {
                    Some(permit)
                };
                return Some((Ok(chunk), (chunks, permit, read, left - len)));
            }
            None if left == 0 => {
                permit.succeeded();
                return None;
            }
            Some(Ok(_)) => ObjectFailure::Damaged("the object store sent more than it said"),
            Some(Err(failure)) => failure,
            None => ObjectFailure::Unreachable("its answer broke off".to_owned()),
        };
        if failure.is_the_stores() {
            permit.failed(Instant::now());
        }
        Some((Err(failure), (chunks, None, read, left)))
    });
    Object {
        size: found.size,
        start: found.range.start,
        end: found.range.end,
        body: body.fuse().boxed(),
    }
}

/// A small object, whole.
pub(super) async fn whole(
    store: Arc<dyn ObjectStore>,
    path: Path,
    stall: Duration,
) -> Result<Option<Bytes>, ObjectFailure> {
    let all = Range::new(0, u64::MAX);
    let Some(found) = first(store, path, all, stall).await? else {
        return Ok(None);
    };
    if found.size > LARGEST_RECORD {
        return Err(ObjectFailure::Damaged("a record is larger than 1 MiB"));
    }
    let mut bytes = Vec::with_capacity(found.size as usize);
    bytes.extend_from_slice(&found.first.unwrap_or_default());
    let mut rest = found.rest;
    while let Some(chunk) = rest.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() as u64 > found.size {
            break;
        }
    }
    if bytes.len() as u64 == found.size {
        Ok(Some(bytes.into()))
    } else {
        Err(ObjectFailure::Damaged(
            "a record has not the length it should have",
        ))
    }
}

/// The bytes of a result. Each chunk has to come within `stall`.
fn chunks(result: GetResult, stall: Duration) -> Chunks {
    let range = Range::new(result.range.start, result.range.end);
    match result.payload {
        // The store's client would read a few KiB at a time.
        GetResultPayload::File(file, _) => pieces(Arc::new(file), range),
        GetResultPayload::Stream(chunks) => {
            stream::unfold(Some(chunks), move |chunks| async move {
                let mut chunks = chunks?;
                match tokio::time::timeout(stall, chunks.next()).await {
                    Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(chunks))),
                    Ok(Some(Err(error))) => Some((Err(error.into()), None)),
                    Ok(None) => None,
                    Err(_) => Some((Err(ObjectFailure::Timeout(stall)), None)),
                }
            })
            .boxed()
        }
    }
}

fn pieces(file: Arc<File>, range: Range) -> Chunks {
    stream::unfold(Some(range.start), move |at| {
        let file = Arc::clone(&file);
        async move {
            let at = at.filter(|at| *at < range.end)?;
            let len = PIECE.min(range.end - at);
            let read = tokio::task::spawn_blocking(move || {
                let mut bytes = vec![0; len as usize];
                file.read_exact_at(&mut bytes, at)?;
                Ok::<_, io::Error>(Bytes::from(bytes))
            });
            match read.await {
                Ok(Ok(bytes)) => Some((Ok(bytes), Some(at + len))),
                Ok(Err(error)) => Some((Err(ObjectFailure::Other(error.to_string())), None)),
                Err(_) => Some((
                    Err(ObjectFailure::Other("a read ended by itself".into())),
                    None,
                )),
            }
        }
    })
    .boxed()
}
