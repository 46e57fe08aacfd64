//! Tests of the contract on fjall, and of the directory: which directories open, which are refused,
//! and that a refusal changes no file.

mod damage;
mod disk_space;
mod locks;
pub(super) mod mutated;
mod older;
mod payload_log;

use std::fs;
use std::path::PathBuf;
use std::sync::Weak;

use super::failure::failed;
use super::*;
use crate::index::Range;
use crate::index::contract::{self, Subject};

struct OnDisk {
    dir: tempfile::TempDir,
    opened: Mutex<Weak<FjallIndex>>,
    options: FjallOptions,
}

impl OnDisk {
    fn new() -> Self {
        Self::with(FjallOptions::default())
    }

    fn with(options: FjallOptions) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            opened: Mutex::default(),
            options,
        }
    }

    fn path(&self) -> PathBuf {
        // The directory and its parent do not exist at first.
        self.dir.path().join("data").join("index")
    }

    fn open(&self) -> Result<FjallIndex> {
        FjallIndex::open(&self.path(), Env::real()?, self.options)
    }

    /// Creates a store that was opened and closed once.
    fn used() -> Self {
        let on_disk = Self::new();
        drop(on_disk.open().unwrap());
        on_disk
    }

    fn refused(&self) -> (ErrorKind, String) {
        let before = tree(&self.path());
        let error = self.open().expect_err("a refused directory");
        assert_eq!(tree(&self.path()), before, "a refusal changes no file");
        (error.kind(), error.to_string())
    }

    fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    fn rewrite_record(&self, from: &str, to: &str) {
        let path = self.store().join("record.json");
        let record = fs::read_to_string(&path).unwrap();
        assert!(record.contains(from), "{record}");
        fs::write(path, record.replace(from, to)).unwrap();
    }
}

impl Subject for OnDisk {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Index>>> {
        Box::pin(async move {
            let index = Arc::new(self.open()?);
            *self.opened.lock().unwrap() = Arc::downgrade(&index);
            Ok(index as Arc<dyn Index>)
        })
    }

    fn overwrites(&self) -> usize {
        400
    }

    fn reorganise(&self) -> BoxFuture<'_, ()> {
        let opened = self.opened.lock().unwrap().upgrade();
        let Some(index) = opened else {
            return Box::pin(std::future::ready(()));
        };
        Box::pin(async move {
            let slot = index.slot.clone();
            let reorganised = index.env.blocking(move || {
                let store = slot.store()?;
                for table in [Table::Rows, Table::Payloads] {
                    let keyspace = store.tables.of(table);
                    keyspace
                        .rotate_memtable_and_wait()
                        .map_err(|error| failed("rotate", error))?;
                    keyspace
                        .major_compact()
                        .map_err(|error| failed("compact", error))?;
                }
                Ok::<_, Error>(())
            });
            reorganised.await.unwrap().unwrap();
        })
    }
}

/// Returns every path under a directory, with its size.
fn tree(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        let metadata = entry.metadata().unwrap();
        found.push((
            entry.path(),
            if metadata.is_dir() { 0 } else { metadata.len() },
        ));
        if metadata.is_dir() {
            found.extend(tree(&entry.path()));
        }
    }
    found.sort();
    found
}

fn put(key: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(Table::Rows, key.to_owned(), "value");
    batch
}

async fn commit(index: &dyn Index, batch: Batch) {
    index.submit(batch, Box::new(|outcome| outcome.unwrap()));
    index.barrier().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contract_holds() {
    contract::all(&OnDisk::new()).await;
}

/// Creates a store whose index remembers every step of every scan.
fn remembering() -> OnDisk {
    let options = FjallOptions {
        slow_step_us: 0,
        ..FjallOptions::default()
    };
    OnDisk {
        options,
        ..OnDisk::new()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contract_holds_where_every_gap_is_remembered() {
    contract::all(&remembering()).await;
}

#[tokio::test]
async fn removed_keys_are_stepped_over_once() {
    let index = remembering().open().unwrap();
    let numbered = |number: u32| format!("q/{number:05}");
    let mut batch = Batch::new();
    (0..2000).for_each(|number| batch.put(Table::Rows, numbered(number), "value"));
    commit(&index, batch).await;
    let mut batch = Batch::new();
    (0..1999).for_each(|number| batch.remove(Table::Rows, numbered(number)));
    commit(&index, batch).await;
    let first = async || {
        let page = index
            .snapshot()
            .unwrap()
            .scan(Table::Rows, Range::prefix(b"q/", 1))
            .await
            .unwrap();
        String::from_utf8(page[0].0.to_vec()).unwrap()
    };
    let next = || {
        let store = index.slot.store().unwrap();
        store
            .gaps
            .stretch(Table::Rows, "q/".into(), store.published.latest().commit)
            .from
            .unwrap()
    };
    assert_eq!(next(), "q/");
    assert_eq!(first().await, numbered(1999));
    assert_eq!(next(), numbered(1999), "the next scan begins after the gap");
    commit(&index, put(&numbered(1000))).await;
    assert_eq!(first().await, numbered(1000));
}

/// Scans on other threads, while keys are put and removed between permanent keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn scans_miss_no_permanent_key() {
    let index = Arc::new(remembering().open().unwrap());
    let numbered = |number: u32| Bytes::from(format!("k/{number:03}"));
    let mut batch = Batch::new();
    (0..200)
        .step_by(10)
        .for_each(|number| batch.put(Table::Rows, numbered(number), "stays"));
    commit(&*index, batch).await;
    let scans = (0..2).map(|_| {
        let index = Arc::clone(&index);
        let (ended, scan) = tokio::sync::oneshot::channel();
        index.env.clone().spawn(async move {
            for _ in 0..1500 {
                let page = index
                    .snapshot()
                    .unwrap()
                    .scan(Table::Rows, Range::prefix(b"k/", 1000))
                    .await
                    .unwrap();
                assert_eq!(
                    page.iter().filter(|(_, value)| *value == "stays").count(),
                    20
                );
            }
            ended.send(()).unwrap();
        });
        scan
    });
    let mut scans = futures::future::join_all(scans.collect::<Vec<_>>());
    for round in 0u32.. {
        let number = round * 7 % 200;
        if number.is_multiple_of(10) {
            continue;
        }
        commit(
            &*index,
            put(std::str::from_utf8(&numbered(number)).unwrap()),
        )
        .await;
        let page = index
            .snapshot()
            .unwrap()
            .scan(Table::Rows, Range::prefix(b"k/", 1000))
            .await
            .unwrap();
        assert!(
            page.iter().any(|(key, _)| *key == numbered(number)),
            "an acknowledged key is missing: number={number}"
        );
        let mut batch = Batch::new();
        batch.remove(Table::Rows, numbered(number));
        commit(&*index, batch).await;
        if let Some(ended) = futures::FutureExt::now_or_never(&mut scans) {
            ended.into_iter().for_each(|scan| scan.unwrap());
            return;
        }
    }
}

#[tokio::test]
async fn second_open_is_refused_until_the_first_is_closed() {
    let on_disk = OnDisk::new();
    let first = on_disk.open().unwrap();
    let error = on_disk.open().expect_err("the first is open");
    assert_eq!(error.kind(), ErrorKind::AlreadyOpen);
    assert!(
        error
            .to_string()
            .contains(&on_disk.path().display().to_string()),
        "{error}"
    );
    commit(&first, put("a")).await;
    first.close().await.unwrap();
    let second = on_disk.open().unwrap();
    assert!(second.get(Table::Rows, b"a").await.unwrap().is_some());
    drop(first);
    assert_eq!(
        on_disk.open().expect_err("the second is open").kind(),
        ErrorKind::AlreadyOpen
    );
    drop(second);
    on_disk.open().unwrap();
}

#[tokio::test]
async fn drop_without_a_close_commits_submitted_batches() {
    let on_disk = OnDisk::new();
    let index = on_disk.open().unwrap();
    let snapshot = index.snapshot().unwrap();
    index.submit(put("a"), Box::new(|outcome| outcome.unwrap()));
    drop(index);
    let index = on_disk.open().unwrap();
    assert!(index.get(Table::Rows, b"a").await.unwrap().is_some());
    assert_eq!(
        snapshot.get(Table::Rows, b"a").await.unwrap_err().kind(),
        ErrorKind::Closed
    );
}

#[tokio::test]
async fn completion_may_drop_the_last_reference() {
    let on_disk = OnDisk::new();
    let index = Arc::new(on_disk.open().unwrap());
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let (done, finished) = tokio::sync::oneshot::channel();
    let own = index.clone();
    let completion: Completion = Box::new(move |outcome| {
        // Held until the test has dropped its own reference.
        let _ = receiver.recv();
        drop(own);
        drop(done.send(outcome));
    });
    index.submit(put("a"), completion);
    drop(index);
    drop(sender);
    finished.await.unwrap().unwrap();
}

#[tokio::test]
async fn interrupted_creation_is_started_again() {
    let on_disk = OnDisk::new();
    // Interrupted half-way.
    let creating = on_disk.path().join("store.creating");
    fs::create_dir_all(creating.join("database/keyspaces/1")).unwrap();
    fs::write(creating.join("database/0.jnl"), "torn").unwrap();
    drop(on_disk.open().unwrap());
    assert!(!creating.exists());
    // Interrupted just before the rename.
    fs::rename(on_disk.store(), &creating).unwrap();
    let index = on_disk.open().unwrap();
    commit(&index, put("a")).await;
    drop(index);
    // Remains beside an existing store.
    fs::create_dir(&creating).unwrap();
    let index = on_disk.open().unwrap();
    assert!(index.get(Table::Rows, b"a").await.unwrap().is_some());
    assert!(!creating.exists());
}

#[tokio::test]
async fn keyspace_without_its_current_file_is_refused() {
    let on_disk = OnDisk::used();
    for id in 0..=Table::ALL.len() + 1 {
        let current = on_disk
            .store()
            .join(format!("database/keyspaces/{id}/current"));
        let bytes = fs::read(&current).unwrap();
        fs::remove_file(&current).unwrap();
        let (kind, message) = on_disk.refused();
        assert_eq!(kind, ErrorKind::Corrupt);
        let name = match id {
            0 => "fjall's own",
            id if id > Table::ALL.len() => database::SEGMENTS,
            id => Table::ALL[id - 1].name(),
        };
        assert!(message.contains(&format!("keyspace={name}")), "{message}");
        fs::write(&current, bytes).unwrap();
    }
    on_disk.open().unwrap();
}

#[tokio::test]
async fn missing_or_unknown_files_of_fjall_are_refused() {
    let on_disk = OnDisk::used();
    let database = on_disk.store().join("database");
    for (name, away) in [
        ("version", "version.away"),
        ("0.jnl", "0.away"),
        ("keyspaces/2", "2.away"),
    ] {
        fs::rename(database.join(name), database.join(away)).unwrap();
        assert_eq!(on_disk.refused().0, ErrorKind::Corrupt, "{name}");
        fs::rename(database.join(away), database.join(name)).unwrap();
    }
    for (name, kind) in [
        ("99", ErrorKind::Corrupt),
        ("lost+found", ErrorKind::Invalid),
    ] {
        let stray = database.join("keyspaces").join(name);
        fs::create_dir(&stray).unwrap();
        assert_eq!(on_disk.refused().0, kind, "{name}");
        fs::remove_dir(stray).unwrap();
    }
    fs::write(database.join("version"), b"FJL\x09").unwrap();
    assert_eq!(on_disk.refused().0, ErrorKind::Corrupt);
}

#[tokio::test]
async fn files_of_a_file_manager_are_ignored() {
    let on_disk = OnDisk::used();
    let database = on_disk.store().join("database");
    let keyspaces = database.join("keyspaces");
    for directory in [
        on_disk.path(),
        on_disk.store(),
        database,
        keyspaces.join("1"),
        keyspaces,
    ] {
        fs::write(directory.join(".DS_Store"), "junk").unwrap();
    }
    drop(on_disk.open().unwrap());
}

#[tokio::test]
async fn foreign_directory_is_refused() {
    let on_disk = OnDisk::new();
    fs::create_dir_all(on_disk.path()).unwrap();
    fs::write(on_disk.path().join("letters.txt"), "theirs").unwrap();
    let (kind, message) = on_disk.refused();
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(message.contains("letters.txt"), "{message}");

    let on_disk = OnDisk::used();
    fs::remove_file(on_disk.store().join("record.json")).unwrap();
    assert_eq!(on_disk.refused().0, ErrorKind::Invalid);
}

#[tokio::test]
async fn unknown_or_damaged_record_is_refused() {
    let on_disk = OnDisk::used();
    on_disk.rewrite_record("\"format\": 2", "\"format\": 3");
    assert_eq!(on_disk.refused().0, ErrorKind::UnknownFormat);
    on_disk.rewrite_record("\"format\": 3", "\"format\": 2");
    on_disk.rewrite_record("\"orphans\"", "\"others\"");
    assert_eq!(on_disk.refused().0, ErrorKind::Corrupt);
    on_disk.rewrite_record("\"others\"", "\"orphans\"");
    drop(on_disk.open().unwrap());
    on_disk.rewrite_record("{", "");
    assert_eq!(on_disk.refused().0, ErrorKind::Corrupt);
}

#[tokio::test]
async fn options_out_of_bounds_create_nothing() {
    let on_disk = OnDisk::new();
    let good = FjallOptions::default;
    for options in [
        FjallOptions {
            cache_bytes: 0,
            ..good()
        },
        FjallOptions {
            journal_bytes_max: 1,
            ..good()
        },
        FjallOptions {
            worker_threads: 0,
            ..good()
        },
        FjallOptions {
            worker_threads: 3,
            ..good()
        },
        FjallOptions {
            commit_deadline_ms: 0,
            ..good()
        },
        FjallOptions {
            reserve_bytes: (1 << 30) + 1,
            ..good()
        },
    ] {
        let error = FjallIndex::open(&on_disk.path(), Env::real().unwrap(), options)
            .expect_err("an option out of bounds");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    assert!(!on_disk.path().exists());
    let options: FjallOptions = serde_json::from_str(r#"{"worker_threads": 1}"#).unwrap();
    assert_eq!(
        options,
        FjallOptions {
            worker_threads: 1,
            ..good()
        }
    );
}
