//! What is written behind: once, whole, verified, and never at a pull's expense.

use std::sync::atomic::AtomicUsize;

use super::*;

#[tokio::test]
async fn a_small_blob_is_looked_for_and_then_created() {
    let fake = Fake::start().await;
    let store = in_bucket(&fake, limits());
    let (digest, file, size) = blob(b"small");
    store.write_blob(digest, Arc::clone(&file), size, Duration::ZERO);
    store.write_blob(digest, file, size, Duration::ZERO);
    assert_eq!(store.view().queue, 1, "one digest, one upload");
    let view = written(&store).await;
    assert_eq!((view.written, view.queue), (1, 0));
    let hex = &digest.hex()[..4];
    assert_eq!(fake.asked(), [format!("HEAD {hex}"), format!("PUT {hex}")]);
    assert_eq!(fake.last().headers["if-none-match"], "*");
    assert_eq!(fake.objects()[&key(&digest)], b"small");
    assert_eq!(store.metrics.written.get(), 5);
}

#[tokio::test]
async fn what_is_there_is_not_written_again() {
    let fake = Fake::start().await;
    let store = in_bucket(&fake, limits());
    let (digest, file, size) = blob(b"small");
    fake.put(&key(&digest), b"small");
    store.write_blob(digest, Arc::clone(&file), size, Duration::ZERO);
    let view = written(&store).await;
    assert_eq!((view.written, view.already_there), (0, 1));
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test]
async fn the_loser_of_a_race_is_content() {
    let fake = Fake::start().await;
    let store = in_bucket(&fake, limits());
    let (digest, file, size) = blob(b"small");
    fake.put(&key(&digest), b"small");
    // The first look sees nothing yet.
    let looks = AtomicUsize::new(0);
    fake.fail(move |asked| {
        let first = asked.method == "HEAD" && looks.fetch_add(1, Ordering::SeqCst) == 0;
        first.then_some(Fault::Status(404, ""))
    });
    store.write_blob(digest, file, size, Duration::ZERO);
    let view = written(&store).await;
    assert_eq!((view.already_there, view.failed), (1, 0), "{view:?}");
    let hex = &digest.hex()[..4];
    let expected = [
        format!("HEAD {hex}"),
        format!("PUT {hex}"),
        format!("HEAD {hex}"),
    ];
    assert_eq!(fake.asked(), expected);
}

#[tokio::test]
async fn an_object_of_another_size_or_distrusted_is_written_over() {
    let fake = Fake::start().await;
    let store = in_bucket(&fake, limits());
    let (digest, file, size) = blob(b"right");
    for (wrong, distrusted) in [(&b"rig"[..], false), (b"wrong", true)] {
        fake.put(&key(&digest), wrong);
        if distrusted {
            store.distrust(digest);
            assert_eq!(read(&store, &digest, ALL).await, None);
            assert_eq!(store.head(&digest).await, Ok(None));
        }
        let store = if distrusted {
            Arc::clone(&store)
        } else {
            in_bucket(&fake, limits())
        };
        store.write_blob(digest, Arc::clone(&file), size, Duration::ZERO);
        assert_eq!(written(&store).await.written, 1);
        assert_eq!(read(&store, &digest, ALL).await.unwrap(), b"right");
    }
}

#[tokio::test]
async fn a_large_blob_goes_in_parts() {
    let fake = Fake::start().await;
    let store = in_bucket(&fake, limits());
    let bytes: Vec<u8> = (0..(17_u32 << 20)).map(|n| (n >> 4) as u8).collect();
    let (digest, file, size) = blob(&bytes);
    store.write_blob(digest, file, size, Duration::ZERO);
    assert_eq!(written(&store).await.written, 1);
    assert!(fake.objects()[&key(&digest)] == bytes);
    let puts = fake.asked().iter().filter(|a| a.starts_with("PUT")).count();
    assert_eq!(puts, 3);
    assert_eq!(store.metrics.written.get(), size);
}

#[tokio::test]
async fn a_rotten_file_is_never_written() {
    let fake = Fake::start().await;
    let store = in_bucket(&fake, limits());
    let large = vec![1; 17 << 20];
    for bytes in [&b"rotten"[..], &large] {
        let (_, file, size) = blob(bytes);
        store.write_blob(Digest::sha256(b"good"), file, size, Duration::ZERO);
        let fresh = in_bucket(&fake, limits());
        let (_, file, _) = blob(bytes);
        fresh.write_blob(Digest::sha256(b"good"), file, size, Duration::ZERO);
        let view = written(&fresh).await;
        assert_eq!((view.written, view.failed, view.dropped), (0, 1, 1));
        assert!(view.last_error.unwrap().contains("digest"));
        assert!(fake.objects().is_empty());
    }
    assert!(
        fake.asked().last().unwrap().starts_with("DELETE"),
        "no parts stay behind"
    );
    let (_, file, _) = blob(b"short");
    let store = in_bucket(&fake, limits());
    store.write_blob(Digest::sha256(b"short"), file, 99, Duration::ZERO);
    assert_eq!(written(&store).await.dropped, 1);
}

#[tokio::test]
async fn a_failing_write_is_tried_again_and_then_given_up() {
    let fake = Fake::start().await;
    let store = in_bucket(&fake, limits());
    let (digest, file, size) = blob(b"small");
    let puts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&puts);
    fake.fail(move |asked| {
        let put = asked.method == "PUT" && counted.fetch_add(1, Ordering::SeqCst) < 2;
        put.then_some(Fault::Status(507, "Full"))
    });
    store.write_blob(digest, Arc::clone(&file), size, Duration::ZERO);
    let view = written(&store).await;
    assert_eq!((view.written, view.failed, view.dropped), (1, 2, 0));
    assert_eq!(puts.load(Ordering::SeqCst), 3);

    // Denied for ever: the reads go on.
    fake.fail(|asked| (asked.method == "PUT").then_some(Fault::Status(403, "AccessDenied")));
    let store = in_bucket(&fake, limits());
    let (other, file, size) = blob(b"other");
    store.write_blob(other, file, size, Duration::ZERO);
    let view = written(&store).await;
    assert_eq!((view.written, view.failed, view.dropped), (0, 3, 1));
    assert!(view.last_error.unwrap().contains("AccessDenied"));
    assert_eq!(
        count(&store, ObjectOperation::WriteBlob, ObjectOutcome::Denied),
        3
    );
    assert_eq!(
        count(&store, ObjectOperation::WriteBlob, ObjectOutcome::Dropped),
        1
    );
    assert_eq!(read(&store, &digest, ALL).await.unwrap(), b"small");
}

#[tokio::test]
async fn a_store_without_conditions_is_written_all_the_same() {
    let fake = Fake::start().await;
    let store = in_bucket(&fake, limits());
    fake.fail(|asked| {
        asked
            .headers
            .contains_key("if-none-match")
            .then_some(Fault::Status(501, "NotImplemented"))
    });
    let (digest, file, size) = blob(b"small");
    store.write_blob(digest, file, size, Duration::ZERO);
    let view = written(&store).await;
    assert_eq!((view.written, view.failed), (1, 0), "{view:?}");
}

#[tokio::test]
async fn a_full_queue_drops_and_never_waits() {
    let fake = Fake::start().await;
    let store = in_bucket(&fake, limits());
    for n in 0..BLOBS + 3 {
        let (_, file, size) = blob(b"x");
        store.write_blob(Digest::sha256(&n.to_le_bytes()), file, size, Duration::ZERO);
    }
    let view = store.view();
    assert_eq!((view.queue, view.dropped), (BLOBS, 3));
    assert_eq!(view.waiting_bytes, BLOBS as u64);
    assert_eq!(store.metrics.waiting.get(), BLOBS as i64);
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn others_go_first() {
    let fake = Fake::start().await;
    let store = in_bucket(&fake, limits());
    let (digest, file, size) = blob(b"small");
    let (drain, watch) = Drain::new();
    let running = tokio::spawn(Arc::clone(&store).run(watch));
    store.write_blob(digest, file, size, Duration::from_hours(1));
    store.write_record("r/a/_n", Bytes::from_static(b"now"), None);
    fake.received(1).await;
    drain.drain().await;
    running.await.unwrap();
    assert_eq!(
        fake.asked(),
        ["PUT _n"],
        "not before its time, not even at the end"
    );
}

#[tokio::test]
async fn an_upload_that_hangs_holds_up_the_end_for_a_bounded_time() {
    let fake = Fake::start().await;
    let finish = Duration::from_millis(50);
    let store = in_bucket(&fake, Limits { finish, ..limits() });
    let bytes = vec![9; 17 << 20];
    let (digest, file, size) = blob(&bytes);
    fake.fail(|asked| {
        asked
            .query
            .starts_with("partNumber=2")
            .then_some(Fault::Hang)
    });
    store.write_blob(digest, file, size, Duration::ZERO);
    let (drain, watch) = Drain::new();
    let running = tokio::spawn(Arc::clone(&store).run(watch));
    fake.received(4).await;
    let began = Instant::now();
    drain.drain().await;
    running.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(4));
    assert!(
        fake.asked().last().unwrap().starts_with("DELETE"),
        "no parts stay behind"
    );
    assert!(fake.objects().is_empty());
}

#[tokio::test]
async fn a_store_that_is_left_alone_does_not_hold_up_the_end() {
    let fake = Fake::start().await;
    fake.fail(|_| Some(Fault::Status(503, "SlowDown")));
    let store = in_bucket(
        &fake,
        Limits {
            attempts: 9,
            finish: Duration::from_secs(8),
            ..limits()
        },
    );
    let (digest, file, size) = blob(b"small");
    store.write_blob(digest, file, size, Duration::ZERO);
    let (drain, watch) = Drain::new();
    let running = tokio::spawn(Arc::clone(&store).run(watch));
    // Three failures, and the fourth attempt waits until the store is asked again.
    while store.view().failed < 3 || store.blobs.length() != (1, 0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(fake.asked().len(), 3);
    let began = Instant::now();
    drain.drain().await;
    running.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(4));
}
