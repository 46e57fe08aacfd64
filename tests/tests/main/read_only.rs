//! Read-only engines: they read everything, refuse every write, and change no file of the store.

mod refusals;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cenotaph::{Config, Engine, Entry, ErrorKind};
use cenotaph_storage::index::fjall::FjallIndex;
use cenotaph_tests::store::{payload, quick};
use futures::{StreamExt, TryStreamExt};
use tempfile::TempDir;

const LARGE: usize = 2_500_000;

/// Every entry below a directory, itself included: kind, mode, times of the last change of the
/// content and of the inode (seconds and nanoseconds), bytes.
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

/// A store on disk, the directory for views beside it, and the id of its open upload.
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

    /// Creates a store with small and large objects, an open upload, orphans, a due object, and
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
        // Reading a replaced object keeps its blob as an orphan.
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
            // Copy the files as a crash leaves them: with the journal of a live store and a lock
            // file that no process has locked.
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

/// Fills a store so that rows and payloads are in tables and blob files, not only in the journal.
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
    // In blob files of the index, as builds without the payload log stored them.
    FjallIndex::unlog(&work.join("index")).unwrap();
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

/// Returns the number of table and blob files of the index.
fn tables(data: &Path) -> usize {
    let index = picture(&data.join("index/store/database/keyspaces"));
    let is_table = |path: &PathBuf| {
        path.parent()
            .is_some_and(|dir| dir.ends_with("tables") || dir.ends_with("blobs"))
    };
    index.keys().filter(|path| is_table(path)).count()
}

/// Asserts that a reader reads all that [`Written::new`] has written.
async fn assert_reads(reader: &Engine, upload: &str) {
    assert_reads_objects(reader).await;
    assert_lists(reader, upload).await;
    assert!(reader.is_read_only() && reader.health().is_ok());
    let stats = reader.stats().await.unwrap();
    assert_eq!(
        (
            stats.epoch.get(),
            stats.actors.open_uploads,
            stats.index.batches
        ),
        (2, 1, 0)
    );
    assert!(
        stats.actors.orphans == 1,
        "the orphan is counted, and not deleted: {stats:?}"
    );
    let report = reader.scrub().await.unwrap();
    assert!(report.is_clean(), "{report:?}");
}

async fn assert_reads_objects(reader: &Engine) {
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
        "the newest version"
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
    let deadline = async || {
        reader
            .head("idle")
            .await
            .unwrap()
            .unwrap()
            .metadata
            .expires_at
    };
    let before = deadline().await;
    assert_eq!(bytes("idle").await, "here");
    assert_eq!(deadline().await, before, "a read extends no deadline");
}

async fn assert_lists(reader: &Engine, upload: &str) {
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

    // A reader that is dropped instead of closed, while a body is still read.
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
        "no reader has raised the epoch"
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
async fn torn_journal_is_read_without_truncating_it() {
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
    // Append the beginning of a batch, as a write that a crash interrupted.
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
async fn damaged_journal_is_an_error_for_a_reader() {
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
