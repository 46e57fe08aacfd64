//! The store under test: every kind of object in every kind of file, small.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cenotaph::{Config, Engine, FjallOptions, Table};
use cenotaph_storage::index::fjall::FjallIndex;
use cenotaph_tests::store::{payload, quick};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

/// Expected content of the store.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Expected {
    /// Seed and length of the payload and the head of each object, by key.
    pub(super) objects: BTreeMap<String, (u64, usize, String)>,
    /// Listings of each upload and of its parts, by key.
    pub(super) uploads: BTreeMap<String, (String, String)>,
}

/// Payload sizes, in bytes: inside the row, as a separate payload, in the payload log, in the blob
/// tier.
const SIZES: [usize; 4] = [10, 1100, 4100, 4200];
const INLINE_BYTES_MAX: usize = 4150;
const PART_BYTES: usize = 300;
const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn config() -> Config {
    // A reserve of one page: it is never read, and each change would copy a larger one.
    let index = FjallOptions {
        reserve_bytes: 4096,
        ..FjallOptions::default()
    };
    Config {
        inline_bytes_max: INLINE_BYTES_MAX,
        index,
        ..quick()
    }
}

pub(super) async fn open(dir: &Path) -> cenotaph::Result<Engine> {
    Engine::builder(dir).config(config()).open().await
}

/// Creates the store and closes it.
pub(super) async fn make(dir: &Path) -> Expected {
    let mut expected = Expected::default();
    // The store is opened three times. The first two lives end in tables, the last in the journal.
    for life in 0..3 {
        let engine = open(dir).await.unwrap();
        fill(&engine, life, &mut expected).await;
        engine.close().await.unwrap();
        drop(engine);
        if life == 0 {
            // These payloads are where builds without the payload log stored them.
            FjallIndex::unlog(&dir.join("index")).unwrap();
        } else if life == 1 {
            flush(dir);
        }
    }
    // Opening and closing the store again gives the journals their final length.
    let engine = open(dir).await.unwrap();
    for (key, object) in &mut expected.objects {
        object.2 = format!("{:?}", engine.head(key.as_str()).await.unwrap().unwrap());
    }
    let uploads: Vec<_> = engine
        .list_uploads("")
        .stream()
        .try_collect()
        .await
        .unwrap();
    for upload in uploads {
        let of = engine.upload(upload.id.clone(), upload.upload_id).unwrap();
        let parts: Vec<_> = of.parts().stream().try_collect().await.unwrap();
        expected.uploads.insert(
            upload.id.key().to_owned(),
            (format!("{upload:?}"), format!("{parts:?}")),
        );
    }
    engine.close().await.unwrap();
    expected
}

async fn fill(engine: &Engine, life: u64, expected: &mut Expected) {
    for (kind, bytes) in SIZES.into_iter().enumerate() {
        let key = format!("{life}-{kind}");
        let seed = life * 10 + kind as u64;
        let put = engine
            .put(key.as_str(), payload(seed, bytes))
            .custom("life", life.to_string());
        if kind % 2 == 0 {
            put.time_to_live(HOUR).await
        } else {
            put.await
        }
        .unwrap();
        expected.objects.insert(key, (seed, bytes, String::new()));
    }
    // This object is overwritten, and another one deleted, in each life.
    engine
        .put("over", payload(100 + life, SIZES[2]))
        .await
        .unwrap();
    expected
        .objects
        .insert("over".to_owned(), (100 + life, SIZES[2], String::new()));
    engine.put("gone", payload(life, 100)).await.unwrap();
    engine.delete("gone").await.unwrap();
    let upload = engine.multipart(format!("upload-{life}")).await.unwrap();
    for number in 1..=2 {
        upload
            .part(number, payload(life * 100 + u64::from(number), PART_BYTES))
            .await
            .unwrap();
    }
    engine.settle().await.unwrap();
}

/// Returns the content of a completed upload.
pub(super) fn uploaded(key: &str) -> Vec<u8> {
    let life: u64 = key.rsplit('-').next().unwrap().parse().unwrap();
    (1..=2)
        .flat_map(|number| payload(life * 100 + number, PART_BYTES))
        .collect()
}

/// Flushes all tables to disk.
fn flush(dir: &Path) {
    let store = dir.join("index/store");
    // This test uses fjall directly, which does not update the high-water mark.
    let _ = std::fs::remove_file(store.join("high-water"));
    let database = fjall::Database::builder(store.join("database"))
        .worker_threads(1)
        .open()
        .unwrap();
    for table in Table::ALL {
        let keyspace = database
            .keyspace(table.name(), fjall::KeyspaceCreateOptions::default)
            .unwrap();
        keyspace.rotate_memtable_and_wait().unwrap();
    }
}
