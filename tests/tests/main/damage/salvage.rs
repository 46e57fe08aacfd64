//! Salvage: everything readable is in the new store, byte for byte, and the old store is unchanged.

use std::time::SystemTime;

use super::*;

/// Returns every file below a directory with its bytes and its modification time.
pub(super) fn tree(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            found.extend(tree(&path));
        }
        let bytes = if metadata.is_dir() {
            Vec::new()
        } else {
            std::fs::read(&path).unwrap()
        };
        found.insert(path, (bytes, metadata.modified().unwrap()));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn salvage_copies_everything_readable_and_names_the_rest() {
    let directory = TempDir::new().unwrap();
    let old = directory.path().join("old");
    let new = directory.path().join("new");
    std::fs::create_dir(&old).unwrap();
    with_damaged_rows(&old).await;
    let readable = fill(&old).await;
    let before = tree(&old);
    let report = cenotaph::salvage(&old, &new).await.unwrap();
    assert!(tree(&old) == before, "the old store is unchanged");
    assert_eq!(
        (report.rows, report.unreadable, report.sessions),
        (readable.len() as u64 + 2, 1, 2),
        "{report:?}"
    );
    assert_eq!((report.without_payload, report.is_complete()), (0, false));
    let large: Vec<_> = lost(&readable)
        .into_iter()
        .filter(|number| number.is_multiple_of(5))
        .map(key)
        .collect();
    let mut named: Vec<_> = report
        .lost_objects
        .iter()
        .map(|lost| lost.object.clone().unwrap().key)
        .collect();
    named.sort();
    assert_eq!(
        named, large,
        "blobs name the large objects among the lost ones"
    );

    std::fs::rename(old.join("blobs"), new.join("blobs")).unwrap();
    let store = open(&new, small()).await;
    let engine = &store.engine;
    assert_salvaged(engine, &readable).await;
    let created = engine.put(large[0].as_str(), "again").await.unwrap();
    assert!(
        created.version.unwrap().get() > 1 << 32,
        "no version of a lost object is reused"
    );
    let inline = lost(&readable)
        .into_iter()
        .find(|number| !number.is_multiple_of(5))
        .unwrap();
    let created = engine.put(key(inline).as_str(), "again").await.unwrap();
    assert!(
        created.version.unwrap().get() > 1 << 32,
        "not even of one that no blob names"
    );
    engine.settle().await.unwrap();
    let scrubbed = engine.scrub().grace(Duration::ZERO).await.unwrap();
    let left = BTreeMap::from([(("payload-without-row", "left"), large.len())]);
    assert_eq!(
        names(&scrubbed),
        left,
        "the checksums of lost blobs are copied: {scrubbed:?}"
    );
    assert!(
        report
            .lost_objects
            .iter()
            .all(|lost| new.join("blobs").join(&lost.path).is_file()),
        "no blob is swept"
    );
    for round in 0..8 {
        engine.put(key(round), payload(round, 200)).await.unwrap();
        store.flush().await;
    }
    engine.health().unwrap();
    store.close().await;
}

/// Adds objects of several kinds and an upload to a damaged store. Returns the readable objects.
async fn fill(old: &Path) -> BTreeSet<u64> {
    let store = open(old, small()).await;
    store.engine.put("late", "in the journal").await.unwrap();
    store
        .engine
        .put("mortal", "soon gone")
        .time_to_live(Duration::from_secs(3600))
        .await
        .unwrap();
    store.engine.put("gone", "x").await.unwrap();
    store.engine.delete("gone").await.unwrap();
    let upload = store.engine.multipart("film").await.unwrap();
    upload.part(1, payload(7, 1000)).await.unwrap();
    let readable = readable(&store.engine).await;
    store.close().await;
    readable
}

/// Asserts that the new store contains all readable objects and what [`fill`] has added.
async fn assert_salvaged(engine: &Engine, readable: &BTreeSet<u64>) {
    for number in 0..OBJECTS {
        let object = engine.get(key(number)).await.unwrap();
        assert_eq!(object.is_some(), readable.contains(&number), "{number}");
        if let Some(object) = object {
            assert_eq!(object.bytes().await.unwrap(), bytes_of(number));
        }
    }
    let late = engine.get("late").await.unwrap().unwrap();
    assert_eq!(late.bytes().await.unwrap(), "in the journal");
    let mortal = engine.head("mortal").await.unwrap().unwrap();
    assert!(mortal.metadata.expires_at.is_some());
    assert_eq!(
        engine
            .put("gone", "y")
            .await
            .unwrap()
            .version
            .unwrap()
            .get(),
        2,
        "the last version is copied"
    );
    assert_eq!(engine.list_uploads("").await.unwrap().uploads.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn object_with_a_lost_payload_is_named_and_stays_corrupt() {
    let directory = TempDir::new().unwrap();
    let old = directory.path().join("old");
    let new = directory.path().join("new");
    let store = open(&old, Config::default()).await;
    for number in 0..20 {
        store
            .engine
            .put(key(number), payload(number, 20_000))
            .await
            .unwrap();
    }
    store.flush().await;
    store.close().await;
    flip(&segments(&old)[0], 42);
    let report = cenotaph::salvage(&old, &new).await.unwrap();
    let [lost] = &report.objects_without_payload[..] else {
        panic!("{report:?}")
    };
    assert_eq!(
        (report.rows, report.payloads, report.without_payload),
        (20, 19, 1)
    );
    std::fs::rename(old.join("blobs"), new.join("blobs")).unwrap();
    let engine = Engine::builder(&new).open().await.unwrap();
    assert_eq!(
        engine
            .get(lost.key.as_str())
            .await
            .map(drop)
            .unwrap_err()
            .kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(engine.scrub().drop_damaged().await.unwrap().left(), 0);
    assert!(engine.scrub().await.unwrap().is_clean());
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn salvage_refuses_unsafe_targets_and_restarts_after_a_crash() {
    let directory = TempDir::new().unwrap();
    let old = directory.path().join("old");
    let new = directory.path().join("new");
    let kind = async |old: &Path, new: &Path| cenotaph::salvage(old, new).await.unwrap_err().kind();
    assert_eq!(
        kind(&old, &new).await,
        ErrorKind::Invalid,
        "no store to salvage"
    );
    let store = open(&old, small()).await;
    store.engine.put("a", "b").await.unwrap();
    assert_eq!(kind(&old, &new).await, ErrorKind::AlreadyOpen);
    store.close().await;
    assert_eq!(kind(&old, &old.join("within")).await, ErrorKind::Invalid);
    std::fs::remove_dir(old.join("within")).unwrap();
    std::fs::create_dir_all(new.join("salvaging/copy")).unwrap();
    std::fs::write(new.join("salvaging/copy/lock"), "").unwrap();
    assert_eq!(
        cenotaph::salvage(&old, &new).await.unwrap().rows,
        1,
        "the remains of a crashed salvage are removed"
    );
    assert_eq!(
        kind(&old, &new).await,
        ErrorKind::Invalid,
        "the target is a store"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intact_batches_of_a_damaged_journal_are_copied() {
    let directory = TempDir::new().unwrap();
    let old = directory.path().join("old");
    let new = directory.path().join("new");
    let store = open(&old, small()).await;
    for number in 0..100 {
        store
            .engine
            .put(key(number), bytes_of(number))
            .await
            .unwrap();
    }
    store.engine.delete(key(0)).await.unwrap();
    store.close().await;
    let journal = old.join("index/store/database/0.jnl");
    // Damage the payload of an object that is inside its row.
    let row = format!("default\0{}", key(51));
    let at = std::fs::read(&journal)
        .unwrap()
        .windows(row.len())
        .position(|window| window == row.as_bytes())
        .unwrap();
    let at = (at + row.len() + 200) as u64;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&journal)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    drop(file);
    let refused = FjallIndex::open(
        &old.join("index"),
        Env::real().unwrap(),
        FjallOptions::default(),
    );
    assert_eq!(refused.map(drop).unwrap_err().kind(), ErrorKind::Corrupt);

    let report = cenotaph::salvage(&old, &new).await.unwrap();
    assert!(
        report.journal_damaged && !report.is_complete(),
        "{report:?}"
    );
    std::fs::rename(old.join("blobs"), new.join("blobs")).unwrap();
    let store = open(&new, small()).await;
    assert!(
        store.engine.head(key(0)).await.unwrap().is_none(),
        "the delete after the damage is copied"
    );
    let mut lost = Vec::new();
    for number in 1..100 {
        match store.engine.get(key(number)).await.unwrap() {
            Some(object) => assert_eq!(object.bytes().await.unwrap(), bytes_of(number)),
            None => lost.push(number),
        }
    }
    assert_eq!(lost, [51], "one batch is lost");
    store.engine.settle().await.unwrap();
    store.close().await;
}

/// Splits a journal into `parts` pieces that each end with a batch.
fn cut(journal: &[u8], parts: usize) -> Vec<&[u8]> {
    let ends: Vec<_> = (4..=journal.len())
        .filter(|&end| &journal[end - 4..end] == b"FJL\x03")
        .collect();
    let mut cut: Vec<_> = (1..parts)
        .map(|part| ends[ends.len() * part / parts])
        .collect();
    cut.push(*ends.last().unwrap());
    let from = std::iter::once(0).chain(cut.iter().copied());
    from.zip(&cut)
        .map(|(from, &to)| &journal[from..to])
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn journals_around_a_missing_one_are_read() {
    let directory = TempDir::new().unwrap();
    let old = directory.path().join("old");
    let new = directory.path().join("new");
    let store = open(&old, small()).await;
    for number in 0..90 {
        store
            .engine
            .put(key(number), bytes_of(number))
            .await
            .unwrap();
    }
    store.close().await;
    let database = old.join("index/store/database");
    let journal = std::fs::read(database.join("0.jnl")).unwrap();
    for (number, part) in cut(&journal, 3).into_iter().enumerate() {
        std::fs::write(database.join(format!("{number}.jnl")), part).unwrap();
    }
    std::fs::remove_file(old.join("index/store/high-water")).unwrap();
    std::fs::remove_file(database.join("1.jnl")).unwrap();
    let before = tree(&old);
    let report = cenotaph::salvage(&old, &new).await.unwrap();
    assert!(tree(&old) == before, "the old store is unchanged");
    assert!(
        report.journal_damaged && !report.is_complete(),
        "{report:?}"
    );
    std::fs::rename(old.join("blobs"), new.join("blobs")).unwrap();
    let engine = open(&new, small()).await.engine;
    let mut found = Vec::new();
    for number in 0..90 {
        if let Some(object) = engine.get(key(number)).await.unwrap() {
            assert_eq!(object.bytes().await.unwrap(), bytes_of(number));
            found.push(number);
        }
    }
    let lost = 90 - found.len();
    assert!(
        (20..40).contains(&lost) && found.first() == Some(&0) && found.last() == Some(&89),
        "{found:?}"
    );
    engine.close().await.unwrap();
}
