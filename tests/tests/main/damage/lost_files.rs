//! Salvage of a store with table files, blob files, journals or manifests that fjall cannot open:
//! everything else is copied.

use cenotaph::SalvageReport;
use cenotaph_storage::index::{Batch, Table};

use super::salvage::tree;
use super::*;

const KEYS: u64 = 240;
const UPLOADS: usize = 150;
const SESSIONS: u32 = 5;

/// Returns the current content of an object. Every second object was replaced, in a table file of
/// its own.
fn current(number: u64) -> bytes::Bytes {
    content(number, number.is_multiple_of(2))
}

/// Returns a content: inside the row, in a payload table, or in a blob file.
fn content(number: u64, is_new: bool) -> bytes::Bytes {
    let bytes = [300, 3000, 9000][usize::try_from(number % 3).unwrap()];
    payload(number + if is_new { KEYS } else { 0 }, bytes)
}

async fn put_all(engine: &Engine, is_new: bool) {
    let numbers = (0..KEYS).filter(|number| !is_new || number.is_multiple_of(2));
    let puts = numbers.map(|number| engine.put(key(number), content(number, is_new)));
    futures::stream::iter(puts)
        .map(Ok)
        .try_for_each_concurrent(32, |put| async { put.await.map(drop) })
        .await
        .unwrap();
}

/// Creates a store with two table files for each table that contain everything in the journals.
async fn with_two_tables(data: &Path) {
    let store = open(data, Config::default()).await;
    put_all(&store.engine, false).await;
    store.flush().await;
    put_all(&store.engine, true).await;
    let begin = async |number| {
        let upload = store
            .engine
            .multipart(format!("film{number:03}"))
            .await
            .unwrap();
        upload.part(1, payload(7, 300)).await.unwrap();
    };
    futures::stream::iter((0..UPLOADS).map(begin))
        .for_each_concurrent(32, |upload| upload)
        .await;
    store.flush().await;
    store.close().await;
    // fjall may not have removed its journals yet.
    let journals = journals(data);
    for journal in &journals {
        std::fs::remove_file(journal).unwrap();
    }
    std::fs::File::create(&journals[0]).unwrap();
    std::fs::remove_file(data.join("index/store/high-water")).unwrap();
    // The reserve is large; without it each case copies less.
    std::fs::remove_file(data.join("index/reserve")).unwrap();
}

fn journals(data: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(data.join("index/store/database"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .filter(|file| file.extension().is_some_and(|extension| extension == "jnl"))
        .collect()
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// An intact store, and a directory for its damaged copy and the salvaged store.
struct Case {
    directory: TempDir,
    intact: PathBuf,
}

/// Outcome of a salvage.
#[derive(Debug)]
struct Salvaged {
    report: SalvageReport,
    /// Objects that are absent or unreadable.
    lost: Vec<u64>,
    /// Objects with the content from before they were replaced.
    older: Vec<u64>,
    uploads: usize,
}

impl Case {
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let intact = directory.path().join("intact");
        with_two_tables(&intact).await;
        Self { directory, intact }
    }

    /// Creates a case whose payloads are in blob files of the index, as in stores of builds without
    /// the payload log.
    async fn unlogged() -> Self {
        let case = Self::new().await;
        FjallIndex::unlog(&case.intact.join("index")).unwrap();
        case
    }

    async fn salvage(&self, damage: impl FnOnce(&Path)) -> Salvaged {
        self.try_salvage(damage).await.unwrap()
    }

    /// Salvages a damaged copy and opens the result.
    async fn try_salvage(&self, damage: impl FnOnce(&Path)) -> Result<Salvaged, cenotaph::Error> {
        let old = self.directory.path().join("old");
        let new = self.directory.path().join("new");
        for left in [&old, &new] {
            drop(std::fs::remove_dir_all(left));
        }
        copy_tree(&self.intact, &old);
        damage(&old);
        let before = tree(&old);
        let report = cenotaph::salvage(&old, &new).await;
        assert!(tree(&old) == before, "the old store is unchanged");
        let report = report?;
        std::fs::rename(old.join("blobs"), new.join("blobs")).unwrap();
        let engine = Engine::builder(&new).open().await.unwrap();
        let mut lost = Vec::new();
        let mut older = Vec::new();
        for number in 0..KEYS {
            match engine.get(key(number)).await {
                Ok(Some(object)) => {
                    let bytes = object.bytes().await.unwrap();
                    if bytes != current(number) {
                        assert!(bytes == content(number, false), "{}", key(number));
                        older.push(number);
                    }
                }
                Ok(None) => lost.push(number),
                Err(error) if error.kind() == ErrorKind::Corrupt => lost.push(number),
                Err(error) => panic!("{error:?}"),
            }
        }
        let uploads = engine.list_uploads("").await.unwrap().uploads.len();
        engine.close().await.unwrap();
        Ok(Salvaged {
            report,
            lost,
            older,
            uploads,
        })
    }

    async fn loses_nothing(&self, name: &str, damage: impl FnOnce(&Path)) {
        let salvaged = self.salvage(damage).await;
        assert!(salvaged.report.is_complete(), "{name}: {salvaged:?}");
        assert_eq!(
            (salvaged.lost.len(), salvaged.older.len(), salvaged.uploads),
            (0, 0, UPLOADS),
            "{name}: {salvaged:?}"
        );
    }
}

fn keyspace(data: &Path, keyspace: u32) -> PathBuf {
    data.join(format!("index/store/database/keyspaces/{keyspace}"))
}

/// Returns the newest file in a directory of a keyspace.
fn newest(data: &Path, number: u32, directory: &str) -> PathBuf {
    let files = std::fs::read_dir(keyspace(data, number).join(directory)).unwrap();
    let id = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    files
        .map(|entry| entry.unwrap().path())
        .max_by_key(id)
        .unwrap()
}

/// Returns the offset and the length of each section of a fjall archive.
fn sections(file: &Path) -> BTreeMap<String, (usize, usize)> {
    let bytes = std::fs::read(file).unwrap();
    let number = |at: usize, length: usize| {
        let number = bytes[at..at + length]
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | u64::from(byte));
        usize::try_from(number).unwrap()
    };
    let trailer = bytes.len() - 38;
    let toc = number(bytes.len() - 16, 8);
    let mut sections = BTreeMap::from([
        ("trailer".to_owned(), (trailer, 38)),
        ("toc".to_owned(), (toc, trailer - toc)),
    ]);
    let mut at = toc + 8;
    for _ in 0..number(toc + 4, 4) {
        let name = number(at + 16, 2);
        let text = String::from_utf8(bytes[at + 18..at + 18 + name].to_vec()).unwrap();
        sections.insert(text, (number(at, 8), number(at + 8, 8)));
        at += 18 + name;
    }
    sections
}

/// Flips a bit after `percent` hundredths of a section.
fn flip_in(file: &Path, section: &str, percent: usize) {
    let (at, length) = sections(file)[section];
    flip_at(file, at + length * percent / 100);
}

fn flip_at(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}

fn is_within(report: &SalvageReport, number: u64) -> bool {
    let row = format!("default\0{}", key(number)).into_bytes();
    report.unreadable_ranges.iter().any(|range| {
        range.table == "rows"
            && range.from.0[..] <= row[..]
            && range.to.as_ref().is_none_or(|to| row[..] < to.0[..])
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_end_of_a_table_file_loses_nothing() {
    let case = Case::new().await;
    for (section, percent) in [
        ("trailer", 20),
        ("toc", 50),
        ("meta", 5),
        ("meta", 60),
        ("tli", 5),
        ("tli", 60),
        ("filter", 50),
    ] {
        let name = format!("{section} {percent}");
        let flip = |old: &Path| {
            for number in [1, 2, SESSIONS] {
                flip_in(&newest(old, number, "tables"), section, percent);
            }
        };
        case.loses_nothing(&name, flip).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_block_and_index_restore_no_older_version() {
    let case = Case::new().await;
    for (percent, section, bounded) in [
        (0, "tli", true),
        (40, "tli", true),
        (99, "tli", true),
        (40, "toc", true),
        (40, "meta", true),
        (40, "filter", true),
        (0, "meta", false),
        (99, "trailer", true),
    ] {
        let salvaged = case
            .salvage(|old| {
                flip_in(&newest(old, 1, "tables"), "data", percent);
                flip_in(&newest(old, 1, "tables"), section, 60);
            })
            .await;
        let Salvaged {
            report,
            lost,
            older,
            uploads,
        } = &salvaged;
        let name = format!("{percent} {section}: {salvaged:?}");
        assert!(!report.is_complete() && *uploads == UPLOADS, "{name}");
        assert_eq!(report.lost_tables.is_empty(), bounded, "{name}");
        if bounded {
            assert_eq!((report.unreadable, older.len()), (1, 0), "{name}");
            assert!(
                lost.iter().all(|&number| is_within(report, number)),
                "{name}"
            );
        } else {
            assert!(report.lost_tables[0].why.contains("keys before"), "{name}");
        }
        assert!((1..40).contains(&(lost.len() + older.len())), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_block_of_uploads_is_reported() {
    let case = Case::new().await;
    let damage = |old: &Path| {
        flip_in(&newest(old, SESSIONS, "tables"), "data", 20);
        flip_in(&newest(old, SESSIONS, "tables"), "tli", 50);
    };
    let Salvaged {
        report,
        lost,
        older,
        uploads,
    } = case.salvage(damage).await;
    assert_eq!(
        (
            lost.len(),
            older.len(),
            report.unreadable,
            report.lost_tables.len()
        ),
        (0, 0, 1, 0),
        "{report:?}"
    );
    assert_eq!(report.unreadable_ranges[0].table, "sessions");
    assert!((1..UPLOADS).contains(&uploads), "{uploads}");
}

/// Adds an orphan to the index.
fn add_orphan(data: &Path) {
    let index = FjallIndex::open(
        &data.join("index"),
        Env::real().unwrap(),
        FjallOptions::default(),
    )
    .unwrap();
    let mut batch = Batch::new();
    batch.put(Table::Orphans, vec![7; 16], vec![7]);
    let (sender, receiver) = std::sync::mpsc::channel();
    index.submit(
        batch,
        Box::new(move |outcome| sender.send(outcome.is_ok()).unwrap()),
    );
    assert!(receiver.recv().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_table_file_is_reported_and_holds_orphans_back() {
    let case = Case::new().await;
    for overwritten in [false, true] {
        let lose = |old: &Path| {
            add_orphan(old);
            let file = newest(old, 1, "tables");
            if overwritten {
                std::fs::write(file, [7; 30_000])
            } else {
                std::fs::remove_file(file)
            }
            .unwrap();
        };
        let Salvaged {
            report,
            lost,
            older,
            uploads,
        } = case.salvage(lose).await;
        let [table] = &report.lost_tables[..] else {
            panic!("{report:?}")
        };
        assert!(
            table.table == "rows" && table.file.contains("keyspaces/1/tables/"),
            "{table:?}"
        );
        assert_eq!(
            (lost.len() as u64, uploads),
            (report.without_payload, UPLOADS),
            "{report:?}"
        );
        assert!(
            !report.is_complete()
                && !older.is_empty()
                && older.iter().all(|number| number.is_multiple_of(2)),
            "{older:?}"
        );
        assert_eq!(
            (report.orphans, report.changes, report.held_back),
            (0, 0, 1),
            "{report:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_blob_file_loses_only_its_payloads() {
    let case = Case::unlogged().await;
    let file = |old: &Path| newest(old, 2, "blobs");
    for (section, percent) in [("trailer", 20), ("toc", 50), ("meta", 2), ("meta", 60)] {
        case.loses_nothing(section, |old| flip_in(&file(old), section, percent))
            .await;
    }
    let Salvaged {
        report,
        lost,
        older,
        uploads,
    } = case
        .salvage(|old| std::fs::remove_file(file(old)).unwrap())
        .await;
    assert_eq!(
        (older.len(), uploads, report.rows),
        (0, UPLOADS, KEYS),
        "{report:?}"
    );
    assert!(
        !lost.is_empty() && lost.iter().all(|number| number % 3 == 2),
        "{lost:?}"
    );
    let named: Vec<_> = report
        .objects_without_payload
        .iter()
        .map(|object| object.key.clone())
        .collect();
    assert_eq!(named, lost.into_iter().map(key).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_pointer_is_repaired_and_no_manifest_is_guessed() {
    let case = Case::new().await;
    for at in [0, 9, 24] {
        case.loses_nothing("pointer", |old| {
            flip_at(&keyspace(old, 1).join("current"), at)
        })
        .await;
    }
    case.loses_nothing("no pointer", |old| {
        std::fs::remove_file(keyspace(old, 2).join("current")).unwrap()
    })
    .await;
    let manifest = |old: &Path| {
        let version = std::fs::read(keyspace(old, 1).join("current")).unwrap()[0];
        keyspace(old, 1).join(format!("v{version}"))
    };
    let (at, length) = sections(&manifest(&case.intact))["tables"];
    let mut refused = 0;
    for at in (at..at + length).step_by(13) {
        match case.try_salvage(|old| flip_at(&manifest(old), at)).await {
            Ok(salvaged) => assert!(
                salvaged.report.is_complete() && salvaged.older.is_empty(),
                "{at}: {salvaged:?}"
            ),
            Err(error) => {
                let wrong = format!(
                    "file={}",
                    manifest(&case.directory.path().join("old")).display()
                );
                assert!(
                    error.kind() == ErrorKind::Corrupt && error.to_string().contains(&wrong),
                    "{error:?}"
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyspace_with_names_is_rebuilt() {
    let case = Case::new().await;
    case.loses_nothing("pointer", |old| {
        flip_at(&keyspace(old, 0).join("current"), 3)
    })
    .await;
    case.loses_nothing("table", |old| {
        flip_in(&newest(old, 0, "tables"), "data", 50)
    })
    .await;
    case.loses_nothing("no table", |old| {
        std::fs::remove_dir_all(keyspace(old, 0).join("tables")).unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_without_journals_is_salvaged_from_tables() {
    let case = Case::new().await;
    let salvaged = case
        .salvage(|old| {
            journals(old)
                .iter()
                .for_each(|journal| std::fs::remove_file(journal).unwrap())
        })
        .await;
    assert!(
        salvaged.report.journal_damaged && !salvaged.report.is_complete(),
        "{salvaged:?}"
    );
    assert_eq!(
        (salvaged.lost.len(), salvaged.older.len(), salvaged.uploads),
        (0, 0, UPLOADS),
        "{salvaged:?}"
    );
}
