//! Stores with lost files: an intact store, its damaged copies, and the stores salvaged from them.

use cenotaph::SalvageReport;

use super::super::salvage::tree;
use super::super::*;

pub(super) const KEYS: u64 = 240;
pub(super) const UPLOADS: usize = 150;
pub(super) const SESSIONS: u32 = 5;

/// Returns the current content of an object. Every second object was replaced, in a table file of
/// its own.
pub(super) fn current(number: u64) -> bytes::Bytes {
    content(number, number.is_multiple_of(2))
}

/// Returns a content: inside the row, in a payload table, or in a blob file.
pub(super) fn content(number: u64, is_new: bool) -> bytes::Bytes {
    let bytes = [300, 3000, 9000][usize::try_from(number % 3).unwrap()];
    payload(number + if is_new { KEYS } else { 0 }, bytes)
}

pub(super) async fn put_all(engine: &Engine, is_new: bool) {
    let numbers = (0..KEYS).filter(|number| !is_new || number.is_multiple_of(2));
    let puts = numbers.map(|number| engine.put(key(number), content(number, is_new)));
    futures::stream::iter(puts)
        .map(Ok)
        .try_for_each_concurrent(32, |put| async { put.await.map(drop) })
        .await
        .unwrap();
}

/// Creates a store with two table files for each table that contain everything in the journals.
pub(super) async fn with_two_tables(data: &Path) {
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

pub(super) fn journals(data: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(data.join("index/store/database"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .filter(|file| file.extension().is_some_and(|extension| extension == "jnl"))
        .collect()
}

pub(super) fn copy_tree(from: &Path, to: &Path) {
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
pub(super) struct Case {
    pub(super) directory: TempDir,
    pub(super) intact: PathBuf,
}

/// Outcome of a salvage.
#[derive(Debug)]
pub(super) struct Salvaged {
    pub(super) report: SalvageReport,
    /// Objects that are absent or unreadable.
    pub(super) lost: Vec<u64>,
    /// Objects with the content from before they were replaced.
    pub(super) older: Vec<u64>,
    pub(super) uploads: usize,
}

impl Case {
    pub(super) async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let intact = directory.path().join("intact");
        with_two_tables(&intact).await;
        Self { directory, intact }
    }

    /// Creates a case whose payloads are in blob files of the index, as in stores of builds without
    /// the payload log.
    pub(super) async fn unlogged() -> Self {
        let case = Self::new().await;
        FjallIndex::unlog(&case.intact.join("index")).unwrap();
        case
    }

    pub(super) async fn salvage(&self, damage: impl FnOnce(&Path)) -> Salvaged {
        self.try_salvage(damage).await.unwrap()
    }

    /// Salvages a damaged copy and opens the result.
    pub(super) async fn try_salvage(
        &self,
        damage: impl FnOnce(&Path),
    ) -> Result<Salvaged, cenotaph::Error> {
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

    pub(super) async fn loses_nothing(&self, name: &str, damage: impl FnOnce(&Path)) {
        let salvaged = self.salvage(damage).await;
        assert!(salvaged.report.is_complete(), "{name}: {salvaged:?}");
        assert_eq!(
            (salvaged.lost.len(), salvaged.older.len(), salvaged.uploads),
            (0, 0, UPLOADS),
            "{name}: {salvaged:?}"
        );
    }
}

pub(super) fn keyspace(data: &Path, keyspace: u32) -> PathBuf {
    data.join(format!("index/store/database/keyspaces/{keyspace}"))
}

/// Returns the newest file in a directory of a keyspace.
pub(super) fn newest(data: &Path, number: u32, directory: &str) -> PathBuf {
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
pub(super) fn sections(file: &Path) -> BTreeMap<String, (usize, usize)> {
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
pub(super) fn flip_in(file: &Path, section: &str, percent: usize) {
    let (at, length) = sections(file)[section];
    flip_at(file, at + length * percent / 100);
}

pub(super) fn flip_at(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}

pub(super) fn is_within(report: &SalvageReport, number: u64) -> bool {
    let row = format!("default\0{}", key(number)).into_bytes();
    report.unreadable_ranges.iter().any(|range| {
        range.table == "rows"
            && range.from.0[..] <= row[..]
            && range.to.as_ref().is_none_or(|to| row[..] < to.0[..])
    })
}
