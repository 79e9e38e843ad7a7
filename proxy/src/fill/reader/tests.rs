use larder_shared::{Digest, RegistryName};

use super::*;
use crate::{fill::fetch::SharedPieces, store::Store, upstream::Upstreams};

/// A fill of a node without other members and without other fills.
fn fill_of(digest: Digest, registry: RegistryName, upstreams: Arc<Upstreams>) -> Arc<Fill> {
    let pieces = SharedPieces::default();
    Arc::new(Fill::new(
        digest,
        registry,
        upstreams,
        Arc::default(),
        pieces,
    ))
}

/// A fill of 100 KB whose file is right, and whose reader was sent its first bytes from memory.
async fn lent(first: &'static [u8]) -> Option<Result<Chunk, FillError>> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let right = Bytes::from(vec![7; 100_000]);
    let size = right.len() as u64;
    let Passage {
        upstreams, source, ..
    } = Passage::nowhere();
    let registry = source.registry.clone();
    let digest = Digest::sha256(&right);
    let partial = Arc::new(store.begin(digest, size, &registry).unwrap());
    let fill = fill_of(digest, registry, upstreams);
    let mut reader = Reader::join(
        &fill,
        source,
        &RangeHeader::Whole,
        Right::Digest,
        Manner::member(0),
    );
    {
        let mut state = lock(&fill.state);
        (state.size, state.answered) = (Some(size), true);
        state.fresh = Some((0, Bytes::from_static(first)));
    }
    reader.opened().await.unwrap();
    reader.want_whole();
    let chunk = poll_fn(|cx| reader.poll_chunk(cx)).await;
    assert!(matches!(chunk, Some(Ok(Chunk::Memory(_)))), "{chunk:?}");
    // Another source has written there in the meantime.
    partial.write(0, &[right]).unwrap();
    {
        let mut state = lock(&fill.state);
        (state.fresh, state.partial) = (None, Some(partial));
        state.phase = Phase::Verified;
    }
    poll_fn(|cx| reader.poll_chunk(cx)).await
}

/// The digest matches, but it is not the digest of what this reader was sent (promise P9).
#[tokio::test]
async fn bytes_from_memory_that_are_not_in_the_file_end_the_body_short() {
    let rest = lent(&[7; 10]).await;
    assert!(matches!(rest, Some(Ok(Chunk::File(_)))), "{rest:?}");
    let rest = lent(&[7, 7, 8]).await;
    assert!(matches!(rest, Some(Err(FillError::Digest))), "{rest:?}");
}

#[test]
fn memory_gives_what_is_wanted_of_it_and_nothing_else() {
    let bytes = Bytes::from_static(b"abcdef");
    let given = |from, to| fresh(Some(&(10, bytes.clone())), Range::new(from, to));
    assert_eq!(given(10, 100).as_deref(), Some(&b"abcdef"[..]));
    assert_eq!(given(12, 14).as_deref(), Some(&b"cd"[..]));
    // Before it, behind it, and where a tail that is held back begins.
    for (from, to) in [(9, 100), (16, 100), (12, 12)] {
        assert_eq!(given(from, to), None);
    }
    assert_eq!(fresh(None, Range::new(0, 1)), None);
}

/// A reader from the middle was sent bytes of a file in which those before them are missing. When the disk fails, it
/// can no longer be known whether they were right (promise P9).
#[tokio::test]
async fn what_was_sent_of_a_file_without_its_beginning_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let size = 200_000;
    let right = Bytes::from(vec![7; size as usize]);
    let Passage {
        upstreams, source, ..
    } = Passage::nowhere();
    let registry = source.registry.clone();
    let digest = Digest::sha256(&right);
    let partial = Arc::new(store.begin(digest, size, &registry).unwrap());
    partial.write(50_000, &[right.slice(..10_000)]).unwrap();
    let fill = fill_of(digest, registry, upstreams);
    let range = RangeHeader::parse(Some("bytes=50000-"));
    let mut reader = Reader::join(&fill, source, &range, Right::Digest, Manner::member(0));
    {
        let mut state = lock(&fill.state);
        (state.size, state.answered, state.partial) = (Some(size), true, Some(partial));
    }
    reader.opened().await.unwrap();
    reader.want_open(Range::new(50_000, size));
    assert!(
        matches!(reader.before(), Before::NotSent),
        "nothing was sent"
    );
    let chunk = poll_fn(|cx| reader.poll_chunk(cx)).await;
    assert!(matches!(chunk, Some(Ok(Chunk::File(_)))), "{chunk:?}");
    assert!(
        matches!(reader.before(), Before::Lost),
        "{:?}",
        reader.before()
    );
}

/// Bytes that are known to be wrong go no further, however many are here, and the body ends when the fill is over.
#[tokio::test]
async fn what_is_known_to_be_wrong_is_not_given_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let size = 200_000;
    let Passage {
        upstreams, source, ..
    } = Passage::nowhere();
    let registry = source.registry.clone();
    let digest = Digest::sha256(b"something else");
    let partial = Arc::new(store.begin(digest, size, &registry).unwrap());
    let written = Bytes::from(vec![7; 100_000]);
    partial.write(0, std::slice::from_ref(&written)).unwrap();
    let fill = fill_of(digest, registry, upstreams);
    let join = || {
        Reader::join(
            &fill,
            source.clone(),
            &RangeHeader::Whole,
            Right::Digest,
            Manner::member(0),
        )
    };
    let mut reader = join();
    {
        let mut state = lock(&fill.state);
        (state.size, state.answered) = (Some(size), true);
        state.partial = Some(Arc::clone(&partial));
    }
    reader.opened().await.unwrap();
    reader.want_whole();
    let chunk = poll_fn(|cx| reader.poll_chunk(cx)).await;
    assert!(matches!(chunk, Some(Ok(Chunk::File(_)))), "{chunk:?}");
    partial.write(100_000, &[written]).unwrap();
    lock(&fill.state).wrong = true;
    let mut late = join();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(reader.poll_chunk(&mut cx).is_pending());
    assert!(
        late.poll_opened(&mut cx, None).is_pending(),
        "no head for it"
    );
    fill.set_phase(Phase::Failed(FillError::Digest));
    let end = poll_fn(|cx| reader.poll_chunk(cx)).await;
    assert!(matches!(end, Some(Err(FillError::Digest))), "{end:?}");
    let refused = late.opened().await;
    assert!(matches!(refused, Err(FillError::Digest)), "{refused:?}");
}
