//! Rows of older formats in a real index: they are read, changed, moved and deleted like new ones.

use bytes::Bytes;
use cenotaph::{BatchWrite, Config, Error, ObjectId, Update, Updated};
use cenotaph_storage::index::{Batch, Table};
use cenotaph_storage::records::{Row, RowBody};
use cenotaph_tests::store::{Store, blobs, payload, quick};

/// Payload sizes, in bytes: inside the row, as a separate payload, in the blob tier.
const KINDS: [usize; 3] = [10, 6000, 20_000];
/// Formats: without version, and without expiry.
const FORMATS: [u8; 2] = [0, 1];

/// Appends a number in postcard's encoding: seven bits per byte, the lowest first.
fn number(mut value: u64, into: &mut Vec<u8>) {
    while value > 127 {
        into.push(value as u8 | 128);
        value >>= 7;
    }
    into.push(value as u8);
}

fn text(value: &str, into: &mut Vec<u8>) {
    number(value.len() as u64, into);
    into.extend_from_slice(value.as_bytes());
}

/// Encodes a row as an older build did.
fn aged(row: &Row, format: u8) -> Bytes {
    let mut out = vec![format];
    if format == 1 {
        number(row.version.get(), &mut out);
    }
    let uuid = |bytes: &[u8; 16], out: &mut Vec<u8>| {
        number(16, out);
        out.extend_from_slice(bytes);
    };
    uuid(row.operation.as_bytes(), &mut out);
    let metadata = &row.metadata;
    number(metadata.size, &mut out);
    out.push(1);
    number(metadata.checksum.unwrap().get(), &mut out);
    number(metadata.created.as_millis(), &mut out);
    number(metadata.modified.as_millis(), &mut out);
    let attributes = &metadata.attributes;
    for field in [
        &attributes.content_type,
        &attributes.compression,
        &attributes.origin,
        &attributes.filename,
    ] {
        out.push(u8::from(field.is_some()));
        field.iter().for_each(|field| text(field, &mut out));
    }
    number(attributes.custom.len() as u64, &mut out);
    for (name, value) in &attributes.custom {
        text(name, &mut out);
        text(value, &mut out);
    }
    match &row.body {
        RowBody::Embedded(payload) => {
            out.push(0);
            out.extend_from_slice(payload);
        }
        RowBody::Separate(_) => out.push(1),
        RowBody::Tombstone(manifest) => {
            out.push(2);
            number(manifest.extents().len() as u64, &mut out);
            for extent in manifest.extents() {
                uuid(extent.revision.as_bytes(), &mut out);
                number(extent.bytes, &mut out);
                number(extent.checksum.get(), &mut out);
            }
        }
    }
    out.into()
}

/// Creates a store whose object `k` has a row of an older format.
async fn store(format: u8, bytes: usize) -> Store {
    let store = Store::with(Config {
        inline_bytes_max: 8192,
        ..quick()
    })
    .await;
    age(&store, "k", bytes, format).await;
    store.reopen().await
}

/// Puts an object and replaces its row by one of an older format. Format 0 has no version.
async fn age(store: &Store, key: &str, bytes: usize, format: u8) {
    store
        .engine
        .put(key, payload(1, bytes))
        .content_type("text/plain")
        .custom("a", "b")
        .await
        .unwrap();
    let id = ObjectId::try_from(key).unwrap();
    let mut row = Row::decode(
        &store
            .index
            .get(Table::Rows, id.encoded())
            .await
            .unwrap()
            .unwrap(),
    )
    .unwrap();
    let old = aged(&row, format);
    if format == 0 {
        row.version = 1.into();
    }
    assert_eq!(Row::decode(&old).unwrap(), row, "both rows are equal");
    let mut batch = Batch::new();
    batch.put(Table::Rows, id.encoded().clone(), old);
    store
        .index
        .submit(batch, Box::new(|outcome| outcome.unwrap()));
    store.index.barrier().await.unwrap();
}

fn all() -> impl Iterator<Item = (u8, usize)> {
    FORMATS
        .into_iter()
        .flat_map(|format| KINDS.into_iter().map(move |bytes| (format, bytes)))
}

/// Asserts that everything settles, that `key` has this content, and that its delete removes all.
async fn assert_intact_and_deletable(store: Store, key: &str, expected: Bytes, case: &str) {
    store.assert_settled().await;
    let store = store.reopen().await;
    assert!(store.bytes(key).await == Some(expected), "{case}");
    assert!(store.engine.delete(key).await.unwrap().existed, "{case}");
    store.assert_settled().await;
    assert_eq!(
        store.engine.list("").await.unwrap().entries.len(),
        0,
        "{case}"
    );
    assert!(blobs(&store.blobs).await.is_empty(), "{case}");
    assert_eq!(
        store.engine.usage().await.unwrap(),
        cenotaph::Usage::default(),
        "{case}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_older_formats_are_read_in_every_way() {
    for (format, bytes) in all() {
        let store = store(format, bytes).await;
        let case = format!("format {format}, {bytes} bytes");
        let head = store.engine.head("k").await.unwrap().unwrap();
        assert_eq!(
            (head.version.unwrap().get(), head.metadata.expires_at),
            (1, None),
            "{case}"
        );
        assert_eq!(head.metadata.attributes.custom["a"], "b", "{case}");
        let some = store.engine.get("k").range(3..7).await.unwrap().unwrap();
        assert_eq!(
            some.bytes().await.unwrap(),
            payload(1, bytes).slice(3..7),
            "{case}"
        );
        assert_eq!(
            store.engine.list("").await.unwrap().entries,
            [cenotaph::Entry::Object(head)],
            "{case}"
        );
        assert_intact_and_deletable(store, "k", payload(1, bytes), &case).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_older_formats_are_overwritten_updated_and_amended() {
    for (format, bytes) in all() {
        let over = store(format, bytes).await;
        for (place, next) in KINDS.into_iter().enumerate() {
            let case = format!("format {format}, {bytes} bytes put over by {next}");
            if place > 0 {
                age(&over, "k", bytes, format).await;
            }
            let head = over.engine.head("k").await.unwrap().unwrap();
            let current = head.version.unwrap();
            let written = over
                .engine
                .put("k", payload(2, next))
                .if_version(current)
                .await
                .unwrap();
            assert_eq!(
                (written.version.unwrap(), written.created),
                (current.next(), false),
                "{case}"
            );
            over.assert_settled().await;
            assert!(over.bytes("k").await == Some(payload(2, next)), "{case}");
        }
        let store = store(format, bytes).await;
        let case = format!("format {format}, {bytes} bytes amended");
        let amended = store
            .engine
            .amend("k")
            .filename("f")
            .if_version(1)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(amended.version.unwrap().get(), 2, "{case}");
        let hour = std::time::Duration::from_secs(3600);
        let extended = store
            .engine
            .extend_expiry("k")
            .after_now(hour)
            .may_shorten()
            .await
            .unwrap()
            .unwrap();
        assert_eq!(extended.version.unwrap().get(), 3, "{case}");
        store.assert_settled().await;
        let whole = store.bytes("k").await.unwrap();
        let updated = store.engine.update("k", async |object| {
            let bytes = object.expect("the object exists").bytes().await?;
            Ok::<_, Error>(Update::put([&bytes[..], b"!"].concat()))
        });
        assert!(
            matches!(updated.await.unwrap(), Updated::Written(_)),
            "{case}"
        );
        assert_intact_and_deletable(store, "k", [&whole[..], b"!"].concat().into(), &case).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_older_formats_are_renamed_copied_and_deleted() {
    for (format, bytes) in all() {
        let case = format!("format {format}, {bytes} bytes");
        let moved = store(format, bytes).await;
        moved.engine.put("to", payload(2, 20_000)).await.unwrap();
        let renamed = moved
            .engine
            .rename("k", "to")
            .if_source_version(1)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(renamed.version.unwrap().get(), 2, "{case}");
        moved.engine.put("k", payload(3, 20_000)).await.unwrap();
        moved.engine.delete("k").await.unwrap();
        assert_intact_and_deletable(moved, "to", payload(1, bytes), &case).await;

        let copied = store(format, bytes).await;
        copied
            .engine
            .copy("k", "to")
            .if_source_version(1)
            .await
            .unwrap()
            .unwrap();
        assert!(
            copied
                .engine
                .delete("k")
                .if_version(1)
                .await
                .unwrap()
                .existed,
            "{case}"
        );
        assert_intact_and_deletable(copied, "to", payload(1, bytes), &case).await;

        let over = store(format, bytes).await;
        over.engine.put("from", payload(2, bytes)).await.unwrap();
        over.engine
            .rename("from", "k")
            .if_version(1)
            .await
            .unwrap()
            .unwrap();
        assert_intact_and_deletable(over, "k", payload(2, bytes), &case).await;

        let together = store(format, bytes).await;
        together
            .engine
            .atomic([
                BatchWrite::delete("k").if_version(1),
                BatchWrite::put("to", "x"),
            ])
            .await
            .unwrap();
        assert_eq!(
            together
                .engine
                .put("k", "y")
                .await
                .unwrap()
                .version
                .unwrap()
                .get(),
            2,
            "{case}"
        );
        together.engine.delete("k").await.unwrap();
        assert_intact_and_deletable(together, "to", "x".into(), &case).await;
    }
}
