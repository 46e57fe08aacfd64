//! Mutated files of fjall and of the directory around it: each decoder refuses them or describes
//! the damage.
//!
//! Half of the inputs have repaired checksums: only these reach the code behind a checksum.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use cenotaph_fuzz::Target;
use tempfile::TempDir;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::super::archive::{self, Section};
use super::super::creation;
use super::super::journal::{self, Journal, Mode};
use super::super::manifest::{self, Depth};
use super::super::repair;
use super::damage::flushed;
use super::*;

/// Room for the buffers of the readers of files.
const BUFFERS: u64 = 1024 * 1024;
/// Length of the trailer of an archive, in bytes.
const TRAILER_BYTES: usize = 38;

/// Creates a directory in memory, if the system has such a place: a case writes several files.
pub(in crate::index::fjall) fn scratch_directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

/// A file whose contents are replaced by each input.
struct Scratch {
    _directory: TempDir,
    path: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        let directory = scratch_directory();
        let path = directory.path().join("input");
        Self {
            _directory: directory,
            path,
        }
    }

    fn with(&self, input: &[u8]) -> &Path {
        fs::write(&self.path, input).unwrap();
        &self.path
    }
}

/// Returns the directory of the payloads' keyspace of a store with files of each kind.
fn keyspace(on_disk: &OnDisk) -> PathBuf {
    let keyspaces = record::recorded_keyspaces(&on_disk.path()).unwrap();
    let database = creation::database(&on_disk.path());
    creation::keyspace(&database, keyspaces[Table::Payloads.name()])
}

/// Returns the only file of a directory.
fn only_file(directory: &Path) -> PathBuf {
    let mut files = fs::read_dir(directory).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none(), "a single file in {directory:?}");
    file
}

fn manifest_of(keyspace: &Path) -> PathBuf {
    let pointer = fs::read(keyspace.join("current")).unwrap();
    let (version, _) = manifest::decode_current(&pointer).unwrap();
    manifest::version_path(keyspace, version)
}

/// Returns an archive of each kind: a manifest, a table, a blob file.
fn archives(keyspace: &Path) -> [PathBuf; 3] {
    [
        manifest_of(keyspace),
        only_file(&keyspace.join("tables")),
        only_file(&keyspace.join("blobs")),
    ]
}

/// Repairs the trailer of an archive: its position and checksum of the table of contents.
///
/// The checksums of the blocks behind it stay as they are. lsm-tree trusts a block whose checksum
/// matches, and reads beyond the end of a crafted block without a check, in a salvage as in every
/// read of fjall: only the checksum of 128 bits is between damage and this.
pub(in crate::index::fjall) fn seal_archive(bytes: &mut [u8]) {
    let Some(trailer_at) = bytes.len().checked_sub(TRAILER_BYTES) else {
        return;
    };
    let Some(toc_at) = bytes[..trailer_at]
        .windows(4)
        .rposition(|window| window == b"TOC!")
    else {
        return;
    };
    let checksum = xxh3_128(&bytes[toc_at..trailer_at]).to_le_bytes();
    let place = [toc_at as u64, (trailer_at - toc_at) as u64]
        .map(u64::to_le_bytes)
        .concat();
    let trailer = [&b"SFA!\x01\x00"[..], &checksum, &place].concat();
    bytes[trailer_at..].copy_from_slice(&trailer);
}

#[tokio::test]
async fn mutated_archive_is_refused_or_encodes_again() {
    let on_disk = flushed().await;
    let scratch = Scratch::new();
    let corpus = archives(&keyspace(&on_disk)).map(|path| fs::read(path).unwrap());
    let target = Target::new("archive", corpus)
        .sealed(|bytes| seal_archive(bytes))
        .buffers(BUFFERS);
    target.run(|input| {
        let mut file = File::open(scratch.with(input)).unwrap();
        let Ok(sections) = archive::contents(&mut file).unwrap() else {
            return false;
        };
        for Section { name, length, .. } in &sections {
            let content = archive::section(&mut file, &sections, name, 4096).unwrap();
            assert!(
                content.is_none_or(|content| content.len() <= 4096),
                "{length}"
            );
        }
        let end = sections
            .iter()
            .map(|section| section.at + section.length)
            .max();
        let data = &input[..usize::try_from(end.unwrap_or_default()).unwrap()];
        let again = [data, &archive::end(&sections, data.len() as u64)].concat();
        let mut file = File::open(scratch.with(&again)).unwrap();
        assert_eq!(archive::contents(&mut file).unwrap(), Ok(sections));
        true
    });
}

#[tokio::test]
async fn mutated_manifest_is_refused_or_names_files() {
    let on_disk = flushed().await;
    let keyspace = keyspace(&on_disk);
    let scratch = Scratch::new();
    let manifest = fs::read(manifest_of(&keyspace)).unwrap();
    let target = Target::new("manifest of fjall", [manifest])
        .sealed(|bytes| seal_archive(bytes))
        .buffers(BUFFERS);
    target.run(|input| {
        let mut file = File::open(scratch.with(input)).unwrap();
        let named = manifest::names(&keyspace, &mut file).unwrap();
        // Each file takes at least 25 bytes of the manifest.
        assert!(
            named
                .as_ref()
                .is_none_or(|named| named.len() <= input.len() / 25)
        );
        named.is_some()
    });
    let pointer = fs::read(keyspace.join("current")).unwrap();
    Target::new("pointer to the manifest", [pointer]).run(|input| {
        let Some((version, checksum)) = manifest::decode_current(input) else {
            return false;
        };
        let again = [&version.to_le_bytes()[..], &checksum.to_le_bytes(), &[0]].concat();
        assert_eq!(again, input, "two pointers to one manifest");
        true
    });
}

/// Repairs the checksums of the batches of a journal, up to the first that is not whole.
fn seal_journal(bytes: &mut Vec<u8>) {
    let number = |bytes: &[u8], at: usize, width: usize| {
        let mut number = [0; 8];
        number[..width].copy_from_slice(bytes.get(at..at + width)?);
        usize::try_from(u64::from_le_bytes(number)).ok()
    };
    let seal_batch = |bytes: &mut Vec<u8>, start: usize| {
        let count = number(bytes, start + 1, 4)?;
        let mut at = start + journal::START_BYTES;
        for _ in 0..count {
            at += 21 + number(bytes, at + 11, 2)? + number(bytes, at + 17, 4)?;
        }
        let sum = xxh3_64(bytes.get(start + journal::START_BYTES..at)?);
        let end = [&[3][..], &sum.to_le_bytes(), b"FJL\x03"].concat();
        bytes.get_mut(at..at + end.len())?.copy_from_slice(&end);
        Some(at + end.len())
    };
    let mut start = 0;
    while let Some(end) = seal_batch(bytes, start) {
        start = end;
    }
}

/// Asserts that runs and gaps are in order, and that the intact batches alone are a sound journal.
fn check_journal(journal: &Journal, path: &Path, scratch: &Scratch) {
    let mut places: Vec<(u64, u64)> = journal
        .runs
        .iter()
        .map(|run| (run.start, run.end))
        .collect();
    places.extend(journal.gaps.iter().map(|gap| (gap.start, gap.end)));
    places.sort_unstable();
    assert!(
        places
            .iter()
            .all(|&(start, end)| start < end && end <= journal.bytes),
        "{journal:?}"
    );
    assert!(
        places.windows(2).all(|pair| pair[0].1 <= pair[1].0),
        "{journal:?}"
    );
    let mut intact = Vec::new();
    journal::copy_intact(path, journal, &mut intact).unwrap();
    let again = journal::scan(scratch.with(&intact), Mode::default()).unwrap();
    assert!(again.gaps.is_empty(), "{again:?}");
    assert_eq!(again.last_seqno(), journal.last_seqno());
    assert_eq!(again.first_seqno(), journal.first_seqno());
    let batches = |journal: &Journal| journal.runs.iter().map(|run| run.batches).sum::<u64>();
    assert_eq!(batches(&again), batches(journal));
}

#[tokio::test]
async fn mutated_journal_is_divided_into_batches_and_damage() {
    let on_disk = flushed().await;
    let path = creation::database(&on_disk.path());
    let mut bytes = fs::read(super::super::journals::path(&path, 0)).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    bytes.truncate(end + 64);
    // Without the large value most mutations meet the frame of a batch.
    let small = bytes[..800].to_vec();
    let input = Scratch::new();
    let copy = Scratch::new();
    let mode = Mode {
        after: None,
        witness: Some(5),
    };
    let target = Target::new("journal of fjall", [small, bytes]).sealed(seal_journal);
    target.buffers(BUFFERS).run(|bytes| {
        let path = input.with(bytes);
        let journal = journal::scan(path, mode).unwrap();
        check_journal(&journal, path, &copy);
        let scanned = [journals::Scanned { id: 3, journal }];
        let _ = journals::judge(&scanned, None);
        !scanned[0].journal.runs.is_empty()
    });
}

#[tokio::test]
async fn mutated_record_is_refused_or_names_keyspaces() {
    let on_disk = flushed().await;
    let scratch = scratch_directory();
    copy(&on_disk.path(), scratch.path());
    let path = scratch.path().join("store/record.json");
    let target = Target::new("record of an index", [fs::read(&path).unwrap()]).buffers(BUFFERS);
    target.run(|input| {
        fs::write(&path, input).unwrap();
        let refused = |error: &Error| {
            matches!(
                error.kind(),
                ErrorKind::Corrupt | ErrorKind::UnknownFormat | ErrorKind::Invalid
            )
        };
        let compared = creation::recorded(scratch.path());
        assert!(
            compared.as_ref().err().is_none_or(refused),
            "{:?}",
            compared.err()
        );
        match record::recorded_keyspaces(scratch.path()) {
            Ok(_) => true,
            Err(error) => {
                assert!(refused(&error) && compared.is_err(), "{error:?}");
                false
            }
        }
    });
}

/// Copies a directory with its files.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Repairs a copy of the keyspace in which one file is replaced by mutated bytes. `prepare` is
/// called with the copy before the repair.
fn run_repair(name: &'static str, keyspace: &Path, file: &Path, prepare: impl Fn(&Path, &[u8])) {
    let scratch = scratch_directory();
    let mutated = scratch.path().join(file.strip_prefix(keyspace).unwrap());
    let target = Target::new(name, [fs::read(file).unwrap()]).sealed(|bytes| seal_archive(bytes));
    target.buffers(8 * BUFFERS).run(|input| {
        for directory in ["tables", "blobs"] {
            drop(fs::remove_dir_all(scratch.path().join(directory)));
        }
        copy(keyspace, scratch.path());
        fs::write(&mutated, input).unwrap();
        prepare(scratch.path(), input);
        let before = manifest::flaws(scratch.path(), Depth::Whole).unwrap().flaws;
        let repaired = repair::keyspace(scratch.path()).unwrap();
        let after = manifest::flaws(scratch.path(), Depth::Ends).unwrap().flaws;
        match &repaired {
            Ok(_) => assert!(
                after.is_empty(),
                "still damaged after the repair: {after:?}"
            ),
            Err(flaw) => assert!(!before.is_empty(), "no damage before: {flaw:?}"),
        }
        repaired.is_ok()
    });
}

#[tokio::test]
async fn mutated_manifest_is_repaired_or_given_up() {
    let on_disk = flushed().await;
    let keyspace = keyspace(&on_disk);
    let manifest = manifest_of(&keyspace);
    run_repair(
        "repair of a manifest",
        &keyspace,
        &manifest,
        |copy, input| {
            // Half of the manifests are what the pointer points to.
            if input.len() % 2 == 0 {
                let pointer = fs::read(copy.join("current")).unwrap();
                let (version, _) = manifest::decode_current(&pointer).unwrap();
                manifest::point_to(copy, version).unwrap();
            }
        },
    );
    run_repair(
        "repair of a pointer",
        &keyspace,
        &keyspace.join("current"),
        |_, _| (),
    );
}

#[tokio::test]
async fn mutated_table_is_repaired_or_given_up() {
    let on_disk = flushed().await;
    let keyspace = keyspace(&on_disk);
    let table = only_file(&keyspace.join("tables"));
    run_repair("repair of a table", &keyspace, &table, |_, _| ());
}

#[tokio::test]
async fn mutated_blob_file_is_repaired_or_given_up() {
    let on_disk = flushed().await;
    let keyspace = keyspace(&on_disk);
    let blob_file = only_file(&keyspace.join("blobs"));
    run_repair("repair of a blob file", &keyspace, &blob_file, |_, _| ());
}
