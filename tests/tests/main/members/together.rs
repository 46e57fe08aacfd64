//! Members of one process: long reads beside overwrites and sweeps, background work that one member
//! does, and the limits of a shared store.

use std::time::Duration;

use cenotaph::{Engine, Env, ErrorKind, OperatorFallback, Reason};
use cenotaph_tests::store::{INLINE, payload};
use futures::StreamExt;
use futures::future::{join, join_all};

use super::SharedStore;

/// Bytes of an object that a slow reader reads, and that its memory does not hold.
const LONG: usize = 256 * 1024 * 1024;
/// Time limit of a condition that must come true.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until a condition is true.
async fn wait_until(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let env = Env::real().unwrap();
    let waiting = env.deadline(PATIENCE, async {
        while !is_true().await {
            env.sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waiting.await.is_some(), "{what}");
}

async fn pins(engine: &Engine) -> u64 {
    let (members, _) = engine.members().await.unwrap();
    members.iter().map(|member| member.pins).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_read_keeps_its_version_while_others_overwrite_and_sweep() {
    let Some(store) = SharedStore::start().await else {
        return;
    };
    let reader = store.member().await;
    let writer = store.member().await;
    let content = payload(1, LONG);
    writer.put("film", content.clone()).await.unwrap();
    let object = reader.get("film").await.unwrap().expect("it was put");
    let mut stream = object.stream();
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first, content[..first.len()]);

    // Overwritten and deleted by another member, which then sweeps everything that it may.
    writer.put("film", payload(2, 10 * INLINE)).await.unwrap();
    writer.delete("film").await.unwrap();
    wait_until("the reader stores its pin", async || {
        pins(&writer).await > 0
    })
    .await;
    let env = Env::real().unwrap();
    for _ in 0..8 {
        // Longer than the grace time in sum.
        env.sleep(store.config.limits.members.reader_grace / 4)
            .await;
        writer.settle().await.unwrap();
    }
    let stats = writer.stats().await.unwrap().actors;
    assert!(stats.swept > 0, "the short version is swept: {stats:?}");
    assert!(stats.orphans > 0, "the long one is kept: {stats:?}");

    let mut at = first.len();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.unwrap();
        assert_eq!(chunk, content[at..at + chunk.len()], "at {at}");
        at += chunk.len();
    }
    assert_eq!(at, LONG);
    drop(stream);
    wait_until("the pin is removed", async || pins(&writer).await == 0).await;
    reader.close().await.unwrap();
    store.end(vec![writer]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_are_swept_although_their_reader_has_died() {
    let Some(store) = SharedStore::start().await else {
        return;
    };
    let reader = store.member().await;
    let writer = store.member().await;
    writer
        .put("film", payload(1, 64 * 1024 * 1024))
        .await
        .unwrap();
    let mut stream = reader.get("film").await.unwrap().unwrap().stream();
    stream.next().await.unwrap().unwrap();
    writer.delete("film").await.unwrap();
    wait_until("the reader stores its pin", async || {
        pins(&writer).await > 0
    })
    .await;
    // It ends without closing, as a crash would end it.
    drop(stream);
    drop(reader);
    wait_until("it is declared dead", async || {
        writer.members().await.unwrap().0.len() == 1
    })
    .await;
    wait_until("its pin is removed", async || pins(&writer).await == 0).await;
    store.end(vec![writer]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_member_removes_expired_objects_after_the_first_has_died() {
    let Some(store) = SharedStore::start().await else {
        return;
    };
    let first = store.member().await;
    let put = first
        .put("first", "short")
        .time_to_live(Duration::from_millis(1));
    put.await.unwrap();
    wait_until("the first member does this work", async || {
        first.stats().await.unwrap().actors.expired == 1
    })
    .await;
    let second = store.member().await;
    let put = second
        .put("second", "short")
        .time_to_live(Duration::from_millis(1));
    put.await.unwrap();
    wait_until("it does so for others, too", async || {
        first.stats().await.unwrap().actors.expired == 2
    })
    .await;
    drop(first);
    let put = second
        .put("third", "short")
        .time_to_live(Duration::from_millis(1));
    put.await.unwrap();
    assert!(
        second.get("third").await.unwrap().is_none(),
        "it has expired"
    );
    wait_until("the other one takes over", async || {
        second.stats().await.unwrap().actors.expired == 1
    })
    .await;
    store.end(vec![second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_are_not_reused_across_members_that_drop_last_versions() {
    let Some(mut store) = SharedStore::start().await else {
        return;
    };
    let limits = &mut store.config.limits.last_versions;
    limits.kept_for = Duration::ZERO;
    limits.walk_interval = Duration::from_millis(100);
    let members = store.members(2).await;
    for version in 1..=3 {
        let written = members[0].put("old", "bytes").await.unwrap();
        assert_eq!(written.version.unwrap().get(), version);
    }
    members[0].delete("old").await.unwrap();
    wait_until("its last version is dropped", async || {
        let mut pruned = 0;
        for member in &members {
            pruned += member.stats().await.unwrap().actors.pruned;
        }
        pruned == 1
    })
    .await;
    // Each member knows of the raised base version, whoever has raised it.
    for (number, member) in members.iter().enumerate() {
        let written = member.put("old", "again").await.unwrap();
        assert_eq!(written.version.unwrap().get(), 4 + number as u64);
        let new = member.put(format!("new/{number}"), "bytes").await.unwrap();
        assert_eq!(new.version.unwrap().get(), 4);
    }
    store.end(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn id_that_the_index_can_not_store_is_refused_before_any_byte_is_sent() {
    let Some(store) = SharedStore::start().await else {
        return;
    };
    let engine = store.member().await;
    let namespace = cenotaph::Namespace::new(&"u".repeat(60)).unwrap();
    let namespace = (0..8).try_fold(namespace, |namespace, n| {
        namespace.with_scope(&format!("scope{n}"), &"v".repeat(120))
    });
    let id = cenotaph::ObjectId::new(&namespace.unwrap(), &"k".repeat(1024)).unwrap();
    let refused = [
        engine.put(&id, "small").await.unwrap_err(),
        engine.put(&id, payload(1, 10 * INLINE)).await.unwrap_err(),
        engine.delete(&id).await.unwrap_err(),
        engine.rename("a", &id).await.unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
        assert!(error.to_string().contains("too long"), "{error}");
    }
    assert!(engine.get(&id).await.unwrap().is_none());
    assert!(engine.health().is_ok());
    store.end(vec![engine]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openings_that_need_a_single_member_are_refused() {
    let Some(store) = SharedStore::start().await else {
        return;
    };
    let engine = store.member().await;
    let again = || {
        let builder = Engine::builder(store.directory.path()).config(store.config.clone());
        builder.shared_with(store.url(), store.options.clone())
    };
    let old = cenotaph::Operator::new(opendal::services::Memory::default()).unwrap();
    let refused = again().fallback(OperatorFallback::new(old)).open().await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::AlreadyOpen);
    let blobs = store.directory.path().join("blobs");
    let moved = again()
        .blobs_in(store.directory.path().join("new"))
        .older_blobs_in(blobs);
    let refused = moved.open().await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::AlreadyOpen);
    let refused = again().read_only().open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused:?}");
    assert_eq!(refused.reason(), None::<Reason>);
    let (members, _) = engine.members().await.unwrap();
    assert_eq!(
        members.len(),
        1,
        "refused openings leave no member: {members:?}"
    );
    store.end(vec![engine]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_one_member_are_in_an_upload_that_another_ends_or_refused() {
    let Some(store) = SharedStore::start().await else {
        return;
    };
    let [ender, uploader] = [store.member().await, store.member().await];
    for round in 0..30 {
        let key = format!("film/{round}");
        let upload = ender.multipart(&key).await.unwrap();
        let others = uploader.upload(&key, upload.upload_id()).unwrap();
        upload.part(1, payload(1, INLINE)).await.unwrap();
        let parts = join_all((2..8).map(async |number| {
            let part = others
                .part(number, payload(u64::from(number), INLINE))
                .await;
            part.is_ok()
        }));
        if round % 3 == 0 {
            let (parts, aborted) = join(parts, upload.abort()).await;
            aborted.unwrap();
            drop(parts);
            assert!(uploader.get(&key).await.unwrap().is_none());
            continue;
        }
        let (parts, completed) = join(parts, upload.complete().into_future()).await;
        completed.unwrap();
        let accepted = 1 + parts.into_iter().filter(|is_accepted| *is_accepted).count();
        let size = ender.head(&key).await.unwrap().unwrap().metadata.size;
        assert_eq!(
            size,
            (accepted * INLINE) as u64,
            "round {round}: {accepted} parts were accepted"
        );
    }
    store.end(vec![ender, uploader]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_over_a_fallback_opens_again_after_its_member_has_died() {
    let Some(store) = SharedStore::start().await else {
        return;
    };
    let old = cenotaph::Operator::new(opendal::services::Memory::default()).unwrap();
    old.write("old", "from the fallback").await.unwrap();
    let open = || {
        let builder = Engine::builder(store.directory.path()).config(store.config.clone());
        let builder = builder.shared_with(store.url(), store.options.clone());
        builder.fallback(OperatorFallback::new(old.clone())).open()
    };
    // It ends without closing.
    drop(open().await.unwrap());
    let engine = open().await.unwrap();
    assert_eq!(engine.members().await.unwrap().0.len(), 1);
    assert!(engine.head("old").await.unwrap().is_some());
    // A living member is noticed long before a dead one.
    let refused = open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyOpen);
    assert!(engine.migrate().await.unwrap().is_sealed);
    // Without the fallback there may be others again.
    let second = store.member().await;
    assert!(second.head("old").await.unwrap().is_some());
    store.end(vec![engine, second]).await;
}
