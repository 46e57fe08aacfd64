//! Engines that only read: what they read, what they refuse, and that nothing of the store changes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cenotaph::{ActorKind, Config, Engine, Entry, ErrorKind, Operation, Reason, Write};
use cenotaph_tests::store::{payload, quick};
use futures::{StreamExt, TryStreamExt};
use tempfile::TempDir;

const LARGE: usize = 2_500_000;

/// Every directory entry below a directory, itself included: kind, mode, time of the last change in
/// nanoseconds, time of the last change of the inode, bytes.
type Picture = BTreeMap<PathBuf, (bool, u32, [i64; 4], Vec<u8>)>;

fn picture(dir: &Path) -> Picture {
    let mut picture = Picture::new();
    let mut rest = vec![dir.to_owned()];
    while let Some(path) = rest.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let bytes = if metadata.is_dir() {
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        let times = [
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ];
        if metadata.is_dir() {
            rest.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        picture.insert(path, (metadata.is_dir(), metadata.mode(), times, bytes));
    }
    picture
}

#[track_caller]
fn assert_unchanged(before: &Picture, dir: &Path) {
    let after = picture(dir);
    let names = |picture: &Picture| picture.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(before), names(&after));
    for (path, seen) in before {
        assert!(*seen == after[path], "{} has changed", path.display());
    }
}

/// A store on disk, the directory for views beside it, and what there is in the store.
struct Written {
    temporary: TempDir,
    upload: String,
}

impl Written {
    fn data(&self) -> PathBuf {
        self.temporary.path().join("data")
    }

    fn views(&self) -> PathBuf {
        self.temporary.path().join("views")
    }

    fn views_left(&self) -> usize {
        fs::read_dir(self.views()).unwrap().count()
    }

    async fn reader(&self) -> Engine {
        self.open().await.unwrap()
    }

    async fn open(&self) -> cenotaph::Result<Engine> {
        Engine::builder(self.data())
            .config(quick())
            .read_only()
            .view_in(self.views())
            .open()
            .await
    }

    /// A store with small and large objects, an open upload, orphans, one object that is due, and
    /// tables on disk.
    async fn new(end: End) -> Self {
        let temporary = TempDir::new().unwrap();
        fs::create_dir(temporary.path().join("views")).unwrap();
        let work = temporary.path().join("work");
        let config = quick();
        fill_tables(&work, &config).await;
        let engine = Engine::builder(&work).config(config).open().await.unwrap();
        for number in 0..20 {
            engine
                .put(format!("small/{number:02}"), payload(number, 300))
                .await
                .unwrap();
        }
        for number in 0..3 {
            engine
                .put(format!("large/{number}"), payload(number, LARGE))
                .await
                .unwrap();
        }
        // An orphan is left: somebody reads what is replaced.
        let mut held = engine.get("large/2").await.unwrap().unwrap().stream();
        assert!(held.next().await.unwrap().is_ok());
        engine.put("large/2", payload(7, LARGE)).await.unwrap();
        engine
            .put("due", "gone")
            .time_to_live(Duration::from_millis(1))
            .await
            .unwrap();
        engine
            .put("idle", "here")
            .time_to_idle(Duration::from_secs(3600))
            .await
            .unwrap();
        engine.delete("small/19").await.unwrap();
        let upload = engine.multipart("parts").await.unwrap();
        upload.part(1, payload(1, 2000)).await.unwrap();
        let id = upload.upload_id().to_string();
        if end == End::Unclean {
            // As a crash leaves it: with the journal of a live store, and its lock file, which
            // nobody holds.
            copy(&work, &temporary.path().join("data"));
        }
        engine.close().await.unwrap();
        drop((engine, held));
        if end == End::Clean {
            fs::rename(&work, temporary.path().join("data")).unwrap();
        }
        Self {
            temporary,
            upload: id,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Clean,
    Unclean,
}

/// Rows and payloads that lie in tables and blob files, and not only in the journal.
async fn fill_tables(work: &Path, config: &Config) {
    let config = Config {
        inline_bytes_max: 1 << 20,
        ..config.clone()
    };
    let engine = Engine::builder(work).config(config).open().await.unwrap();
    for number in 0..24 {
        engine
            .put(format!("old/{number:02}"), payload(number, 1_000_000))
            .await
            .unwrap();
    }
    engine.close().await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let source = entry.as_ref().unwrap().path();
        let target = to.join(entry.unwrap().file_name());
        if source.is_dir() {
            copy(&source, &target);
        } else {
            fs::copy(&source, &target).unwrap();
        }
    }
}

/// Files of the index that are not in its journals.
fn tables(data: &Path) -> usize {
    let index = picture(&data.join("index/store/database/keyspaces"));
    let is_table = |path: &PathBuf| {
        path.parent()
            .is_some_and(|dir| dir.ends_with("tables") || dir.ends_with("blobs"))
    };
    index.keys().filter(|path| is_table(path)).count()
}

async fn assert_reads(reader: &Engine, upload: &str) {
    let bytes = async |key: &str| {
        reader
            .get(key)
            .await
            .unwrap()
            .unwrap()
            .bytes()
            .await
            .unwrap()
    };
    assert_eq!(bytes("small/07").await, payload(7, 300));
    assert_eq!(bytes("old/23").await, payload(23, 1_000_000));
    assert_eq!(bytes("large/1").await, payload(1, LARGE));
    assert_eq!(
        bytes("large/2").await,
        payload(7, LARGE),
        "the last version"
    );
    let range = reader
        .get("large/1")
        .range(1_200_000..1_200_100)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        range.bytes().await.unwrap(),
        payload(1, LARGE).slice(1_200_000..1_200_100)
    );
    assert!(
        reader.get("small/19").await.unwrap().is_none()
            && reader.head("due").await.unwrap().is_none()
    );
    let before = reader
        .head("idle")
        .await
        .unwrap()
        .unwrap()
        .metadata
        .expires_at;
    assert_eq!(bytes("idle").await, "here");
    assert_eq!(
        reader
            .head("idle")
            .await
            .unwrap()
            .unwrap()
            .metadata
            .expires_at,
        before,
        "a read extends no deadline"
    );

    let page = reader.list("").delimiter('/').await.unwrap();
    assert_eq!(
        page.entries.iter().map(Entry::name).collect::<Vec<_>>(),
        ["idle", "large/", "old/", "small/"]
    );
    assert_eq!(
        reader
            .list("small/")
            .stream()
            .try_collect::<Vec<_>>()
            .await
            .unwrap()
            .len(),
        19
    );
    let usage = reader.usage().await.unwrap();
    assert_eq!((usage.objects, usage.blob_objects), (47, 3));

    let uploads = reader.list_uploads("").await.unwrap().uploads;
    assert_eq!(
        uploads
            .iter()
            .map(|info| info.upload_id.to_string())
            .collect::<Vec<_>>(),
        [upload]
    );
    let parts = reader
        .resume("parts", upload)
        .await
        .unwrap()
        .parts()
        .await
        .unwrap();
    assert_eq!(parts.parts.len(), 1);

    assert!(reader.is_read_only() && reader.health().is_ok());
    let stats = reader.stats().await.unwrap();
    assert_eq!(
        (
            stats.epoch.get(),
            stats.actors.sessions,
            stats.index.batches
        ),
        (2, 1, 0)
    );
    assert!(
        stats.actors.orphans == 1,
        "they are counted, and left: {stats:?}"
    );
    let report = reader.scrub().await.unwrap();
    assert!(report.is_clean(), "{report:?}");
}

async fn assert_everything_is_read(end: End) {
    let store = Written::new(end).await;
    assert!(
        tables(&store.data()) > 2,
        "some entries are not in the journals"
    );
    let before = picture(&store.data());
    let reader = store.reader().await;
    assert_reads(&reader, &store.upload).await;
    reader.close().await.unwrap();
    assert_eq!(store.views_left(), 0, "the view is removed");
    assert_eq!(
        reader.get("idle").await.unwrap_err().kind(),
        ErrorKind::Closed
    );
    assert_eq!(reader.health().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(
        reader.put("new", "x").await.unwrap_err().kind(),
        ErrorKind::Closed
    );
    assert!(reader.is_read_only());

    // Dropped instead of closed, with a body that is still read.
    let reader = store.reader().await;
    let mut body = reader.get("large/1").await.unwrap().unwrap().stream();
    assert!(body.next().await.unwrap().is_ok());
    drop(reader);
    drop(body);
    for _ in 0..1000 {
        if store.views_left() == 0 {
            break;
        }
        pause().await;
    }
    assert_eq!(store.views_left(), 0, "the view is removed");
    assert_unchanged(&before, &store.data());

    let writer = Engine::builder(store.data())
        .config(quick())
        .open()
        .await
        .unwrap();
    assert!(!writer.is_read_only());
    assert_eq!(
        writer.stats().await.unwrap().epoch.get(),
        3,
        "no reader has raised it"
    );
    writer.close().await.unwrap();
}

async fn pause() {
    cenotaph::Env::real()
        .unwrap()
        .sleep(Duration::from_millis(10))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_store_is_read_and_unchanged() {
    assert_everything_is_read(End::Clean).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn store_after_a_crash_is_read_and_unchanged() {
    assert_everything_is_read(End::Unclean).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn torn_journal_is_read_without_cutting_it() {
    let store = Written::new(End::Unclean).await;
    let database = store.data().join("index/store/database");
    let journal = fs::read_dir(&database)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let journal = journal
        .filter(|path| path.extension().is_some_and(|end| end == "jnl"))
        .max()
        .unwrap();
    let mut bytes = fs::read(&journal).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    // The beginning of a batch: a write that was under way.
    bytes.truncate(end);
    bytes.extend([1, 2, 0, 0, 0]);
    fs::write(&journal, bytes).unwrap();
    let before = picture(&store.data());
    let reader = store.reader().await;
    assert_reads(&reader, &store.upload).await;
    reader.close().await.unwrap();
    assert_unchanged(&before, &store.data());
    assert!(!store.data().join("index/store/tails").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_journal_is_an_error_of_a_reader_too() {
    let store = Written::new(End::Unclean).await;
    let journal = store.data().join("index/store/database/0.jnl");
    let mut bytes = fs::read(&journal).unwrap();
    bytes[100] ^= 1;
    fs::write(&journal, bytes).unwrap();
    let before = picture(&store.data());
    assert_eq!(store.open().await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_unchanged(&before, &store.data());
    assert_eq!(store.views_left(), 0);
}

/// The error of a write that was refused.
#[track_caller]
fn refused<T: std::fmt::Debug>(operation: &str, outcome: cenotaph::Result<T>) {
    match outcome {
        Err(error) => {
            let seen = (error.kind(), error.reason());
            assert_eq!(
                seen,
                (ErrorKind::Invalid, Some(Reason::ReadOnly)),
                "{operation}: {error}"
            );
        }
        Ok(done) => panic!("{operation} is not refused: {done:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_is_refused_and_changes_nothing() {
    let store = Written::new(End::Unclean).await;
    let before = picture(&store.data());
    let reader = store.reader().await;
    refused("put", reader.put("new", "x").await);
    refused("large put", reader.put("new", payload(1, LARGE)).await);
    refused("conditional put", reader.put("idle", "x").if_absent().await);
    refused("delete", reader.delete("idle").await);
    refused("delete of nothing", reader.delete("absent").await);
    refused("delete_prefix", reader.delete_prefix("small/").await);
    refused(
        "delete_prefix of nothing",
        reader.delete_prefix("absent/").await,
    );
    refused(
        "amend",
        reader.amend("idle").content_type("text/plain").await,
    );
    refused(
        "extend_expiry",
        reader
            .extend_expiry("idle")
            .after_now(Duration::from_secs(9))
            .await,
    );
    refused("copy", reader.copy("idle", "copy").await);
    refused("copy of nothing", reader.copy("absent", "copy").await);
    refused("rename", reader.rename("idle", "moved").await);
    refused("atomic", reader.atomic([Write::put("new", "x")]).await);
    let keep = async |_| Ok::<_, std::io::Error>(cenotaph::Update::Keep);
    refused("update", reader.update("idle", keep).await);
    refused("multipart", reader.multipart("other").await);
    let upload = reader.resume("parts", store.upload.as_str()).await.unwrap();
    refused("part", upload.part(2, "x").await);
    refused("part_copy", upload.part_copy(2, "idle").await);
    refused("part_copy of nothing", upload.part_copy(2, "absent").await);
    refused("complete", upload.complete().await);
    refused("abort", upload.abort().await);
    refused("settle", reader.settle().await);
    refused("scrub with repairs", reader.scrub().repair().await);
    refused("scrub that drops", reader.scrub().drop_damaged().await);
    let operations = [
        Operation::head("idle"),
        Write::put("new", "x").into(),
        Operation::get("idle"),
    ];
    let mut replies: Vec<_> = reader
        .batch(futures::stream::iter(operations))
        .collect()
        .await;
    replies.sort_by_key(|(place, _)| *place);
    let mut replies = replies.into_iter().map(|(_, reply)| reply);
    assert!(replies.next().unwrap().is_ok());
    refused("put of a batch", replies.next().unwrap());
    assert!(replies.next().unwrap().is_ok());

    assert!(!reader.kill(ActorKind::Supervisor), "there are no actors");
    assert_reads(&reader, &store.upload).await;
    reader.close().await.unwrap();
    assert_unchanged(&before, &store.data());
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_and_a_writer_keep_each_other_out() {
    let store = Written::new(End::Clean).await;
    let one = store.reader().await;
    let two = store.reader().await;
    assert_eq!(store.views_left(), 2);
    for view in fs::read_dir(store.views()).unwrap() {
        let view = fs::File::open(view.unwrap().path()).unwrap();
        assert!(
            view.try_lock().is_err(),
            "a cleaner of temporary directories may age it"
        );
    }
    let writer = || Engine::builder(store.data()).config(quick()).open();
    assert_eq!(writer().await.unwrap_err().kind(), ErrorKind::AlreadyOpen);
    one.close().await.unwrap();
    assert_eq!(writer().await.unwrap_err().kind(), ErrorKind::AlreadyOpen);
    two.close().await.unwrap();
    let writer = writer().await.unwrap();
    assert_eq!(
        store.open().await.unwrap_err().kind(),
        ErrorKind::AlreadyOpen
    );
    writer.close().await.unwrap();
    store.reader().await.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn store_that_is_not_there_is_an_error_and_not_made() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let open = || {
        Engine::builder(&data)
            .read_only()
            .view_in(dir.path())
            .open()
    };
    let error = open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_string().contains("there is no store here"),
        "{error}"
    );
    fs::create_dir(&data).unwrap();
    assert_eq!(open().await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(picture(dir.path()).len(), 2, "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn tier_that_is_not_there_is_an_error_and_not_made() {
    let store = Written::new(End::Clean).await;
    let blobs = store.data().join("blobs");
    let away = store.temporary.path().join("away");
    fs::rename(&blobs, &away).unwrap();
    let error = store.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!blobs.exists());
    // A tier without a mark, as a build without store ids left it, is not this store's either once
    // it was marked.
    fs::rename(&away, &blobs).unwrap();
    fs::remove_file(blobs.join(cenotaph::MARKER_PATH)).unwrap();
    let before = picture(&store.data());
    assert_eq!(
        store.open().await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    let adopting = Engine::builder(store.data())
        .read_only()
        .view_in(store.views())
        .adopt_blobs()
        .open();
    assert_eq!(adopting.await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_unchanged(&before, &store.data());
    assert_eq!(store.views_left(), 0);
}
