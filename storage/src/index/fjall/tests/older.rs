//! Stores of builds without the payload log: they open, their payloads stay readable, and new
//! payloads go to the log.

use std::fs;

use fjall::{KeyspaceCreateOptions, PersistMode};

use super::database::SEGMENTS;
use super::*;
use crate::index::Range;

/// Inserts payloads into a closed store as builds without the payload log did, and flushes them to
/// files.
pub(super) fn insert_unlogged(on_disk: &OnDisk, payloads: &[(&str, Vec<u8>)]) {
    let path = creation::database(&on_disk.path());
    let database = database::open_database(&path, &FjallOptions::default(), 1).unwrap();
    let keyspace = database
        .keyspace(Table::Payloads.name(), KeyspaceCreateOptions::default)
        .unwrap();
    for (key, value) in payloads {
        keyspace.insert(*key, &value[..]).unwrap();
    }
    database.persist(PersistMode::SyncAll).unwrap();
    keyspace.rotate_memtable_and_wait().unwrap();
}

/// Turns a closed store into a store of a build without the payload log.
fn make_older(on_disk: &OnDisk, has_keyspace: bool) {
    let path = creation::database(&on_disk.path());
    if !has_keyspace {
        let database = database::open_database(&path, &FjallOptions::default(), 1).unwrap();
        let segments = database
            .keyspace(SEGMENTS, KeyspaceCreateOptions::default)
            .unwrap();
        database.delete_keyspace(segments).unwrap();
        database.persist(PersistMode::SyncAll).unwrap();
    }
    let record = on_disk.store().join("record.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    json["format"] = 1.into();
    json.as_object_mut().unwrap().remove("payload_log").unwrap();
    json["keyspaces"]
        .as_object_mut()
        .unwrap()
        .remove(SEGMENTS)
        .unwrap();
    fs::write(&record, json.to_string()).unwrap();
    drop(fs::remove_dir_all(on_disk.store().join("payloads")));
    fs::remove_file(on_disk.store().join("high-water")).unwrap();
}

async fn value(index: &FjallIndex, key: &'static str) -> Option<Bytes> {
    index.get(Table::Payloads, key.as_bytes()).await.unwrap()
}

async fn opens_with_its_payloads(has_keyspace: bool) {
    let on_disk = OnDisk::new();
    on_disk.open().unwrap().close().await.unwrap();
    insert_unlogged(
        &on_disk,
        &[
            ("a", vec![1; 300_000]),
            ("b", vec![2; 5_000]),
            ("c", vec![3; 9_000]),
        ],
    );
    make_older(&on_disk, has_keyspace);
    for opening in 0..3 {
        let index = on_disk.open().unwrap();
        let page = index
            .snapshot()
            .unwrap()
            .scan(Table::Payloads, Range::all(10))
            .await
            .unwrap();
        assert_eq!(page[0], ("a".into(), vec![1; 300_000].into()));
        assert_eq!(value(&index, "a").await.unwrap(), vec![1; 300_000]);
        if opening == 0 {
            assert_eq!(value(&index, "c").await.unwrap(), vec![3; 9_000]);
            let mut batch = Batch::new();
            // Rewritten: moves to the log.
            batch.put(Table::Payloads, "b", vec![4; 6_000]);
            batch.remove(Table::Payloads, "c");
            commit(&index, batch).await;
        }
        assert_eq!(value(&index, "b").await.unwrap(), vec![4; 6_000]);
        assert_eq!(value(&index, "c").await, None);
        let usage = index.payload_log().unwrap();
        assert_eq!((usage.segments, usage.dead_bytes), (1, 64));
        assert!((6_000..6_100).contains(&usage.live_bytes), "{usage:?}");
        index.close().await.unwrap();
    }
}

#[tokio::test]
async fn store_without_a_log_opens_and_receives_one() {
    opens_with_its_payloads(false).await;
}

#[tokio::test]
async fn interrupted_addition_of_the_log_is_completed() {
    opens_with_its_payloads(true).await;
}

#[tokio::test]
async fn view_of_a_store_without_a_log_reads_its_payloads() {
    let on_disk = OnDisk::new();
    on_disk.open().unwrap().close().await.unwrap();
    insert_unlogged(&on_disk, &[("a", vec![1; 300_000])]);
    make_older(&on_disk, false);
    let before = tree(&on_disk.path());
    let parent = tempfile::tempdir().unwrap();
    let view = FjallIndex::open_view(
        &on_disk.path(),
        parent.path(),
        Env::real().unwrap(),
        FjallOptions::default(),
    )
    .unwrap();
    assert_eq!(value(&view, "a").await.unwrap(), vec![1; 300_000]);
    drop(view);
    assert_eq!(tree(&on_disk.path()), before);
}
