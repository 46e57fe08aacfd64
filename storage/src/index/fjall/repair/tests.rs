//! Tables of lsm-tree with damage at every offset: no key of a table is absent without a report.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cenotaph_fuzz::Target;
use lsm_tree::table::{Table as OpenedStore, Writer};
use lsm_tree::{Cache, Checksum, InternalValue, Slice, ValueType};
use tempfile::TempDir;

use super::super::tests::mutated::{scratch_directory, seal_archive};
use super::table::{Mended, repair};

const ID: u64 = 7;

fn key(number: u64) -> Vec<u8> {
    format!("default\0k{number:04}").into_bytes()
}

/// A table file, its original bytes, and the newest value of each key.
struct Case {
    _directory: TempDir,
    path: PathBuf,
    bytes: Vec<u8>,
    values: Vec<Vec<u8>>,
}

/// Writes a table file with these entries, which are in order, and returns its bytes.
fn table(path: &Path, entries: impl IntoIterator<Item = (Vec<u8>, u64, Vec<u8>)>) -> Vec<u8> {
    write(
        Writer::new(path.to_owned(), ID, 0)
            .unwrap()
            .use_data_block_size(512),
        entries,
    );
    fs::read(path).unwrap()
}

fn write(mut writer: Writer, entries: impl IntoIterator<Item = (Vec<u8>, u64, Vec<u8>)>) {
    for (key, seqno, value) in entries {
        writer
            .write(InternalValue::from_components(
                key,
                value,
                seqno,
                ValueType::Value,
            ))
            .unwrap();
    }
    writer.finish().unwrap();
}

impl Case {
    fn new(values: Vec<Vec<u8>>, versions: u64) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join(ID.to_string());
        let entries = (0..).zip(&values).flat_map(|(number, value)| {
            (0..versions).rev().map(move |version| {
                let value = if version + 1 == versions {
                    value.clone()
                } else {
                    b"older".to_vec()
                };
                (key(number), version, value)
            })
        });
        let bytes = table(&path, entries);
        Self {
            _directory: directory,
            path,
            bytes,
            values,
        }
    }

    fn small(versions: u64) -> Self {
        Self::new(
            (0..60_u8).map(|number| vec![number; 60]).collect(),
            versions,
        )
    }

    /// Repairs a table with these bytes. Returns the outcome, and for each key whether it can be
    /// read, or `None` if it is absent.
    fn repaired(&self, bytes: &[u8]) -> (Mended, Vec<Option<bool>>) {
        fs::write(&self.path, bytes).unwrap();
        let repaired = repair(&self.path, ID).unwrap();
        if matches!(repaired, Mended::Lost(_)) {
            return (repaired, Vec::new());
        }
        assert_eq!(
            repair(&self.path, ID).unwrap(),
            Mended::Whole,
            "a second repair changes nothing"
        );
        let cache = Arc::new(Cache::with_capacity_bytes(1024 * 1024));
        let checksum = Checksum::from_raw(0);
        let table =
            OpenedStore::recover(self.path.clone(), checksum, 0, 0, cache, None, true, true)
                .unwrap();
        let read = (0..).zip(&self.values).map(|(number, value)| {
            let key = Slice::from(key(number));
            match table.range(key.clone()..=key.clone()).next() {
                Some(Ok(found)) => {
                    assert!(
                        found.key.user_key == key && found.value == *value,
                        "{number}"
                    );
                    Some(true)
                }
                Some(Err(_)) => Some(false),
                None => None,
            }
        });
        let read = read.collect();
        for entry in table.iter().take(1000).flatten() {
            assert!(
                (0..)
                    .zip(&self.values)
                    .any(|(number, _)| entry.key.user_key == key(number)),
                "{entry:?}"
            );
        }
        (repaired, read)
    }

    fn flipped(&self, places: &[usize]) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for &at in places {
            bytes[at] ^= 0x41;
        }
        bytes
    }

    fn find(&self, section: &str) -> usize {
        let sections = super::super::archive::contents(&mut fs::File::open(&self.path).unwrap())
            .unwrap()
            .unwrap();
        let section = sections
            .iter()
            .find(|found| found.name == section.as_bytes())
            .unwrap();
        usize::try_from(section.at + section.length / 2).unwrap()
    }
}

fn loses_one_block_at_most(case: &Case, step: usize) {
    for at in (0..case.bytes.len()).step_by(step) {
        let (repaired, read) = case.repaired(&case.flipped(&[at]));
        assert_eq!(repaired, Mended::Whole, "{at}");
        let lost = read.iter().filter(|&&read| read == Some(false)).count();
        assert!(
            read.iter().all(Option::is_some) && lost <= 10,
            "{at}: {read:?}"
        );
    }
}

#[test]
fn one_flipped_byte_loses_one_block_at_most() {
    loses_one_block_at_most(&Case::small(1), 3);
    loses_one_block_at_most(&Case::small(3), 7);
}

#[test]
fn one_flipped_byte_of_a_deep_table_loses_one_block_at_most() {
    let mut case = Case::small(1);
    fs::remove_file(&case.path).unwrap();
    let writer = Writer::new(case.path.clone(), ID, 0)
        .unwrap()
        .use_data_block_size(256);
    let writer = writer
        .use_partitioned_index()
        .use_partitioned_filter()
        .use_meta_partition_size(64);
    write(
        writer,
        (0..)
            .zip(&case.values)
            .map(|(number, value)| (key(number), 0, value.clone())),
    );
    case.bytes = fs::read(&case.path).unwrap();
    for section in ["index", "filter_tli"] {
        assert!(case.find(section) > 0);
    }
    loses_one_block_at_most(&case, 5);
}

#[test]
fn two_flipped_bytes_lose_no_key_without_a_report() {
    for versions in [1, 3] {
        let case = Case::small(versions);
        let ends = ["tli", "meta", "filter"].map(|section| case.find(section));
        for end in ends
            .into_iter()
            .chain([case.bytes.len() - 1, case.bytes.len() - 60])
        {
            for at in (0..case.bytes.len()).step_by(41).filter(|&at| at != end) {
                let (repaired, read) = case.repaired(&case.flipped(&[at, end]));
                match repaired {
                    Mended::Whole => {
                        assert!(read.iter().all(Option::is_some), "{at} {end}: {read:?}");
                    }
                    Mended::Unbounded(_) => assert!(read.contains(&Some(true)), "{at} {end}"),
                    Mended::Lost(why) => panic!("{at} {end}: {why}"),
                }
                let lost = read.iter().filter(|&&read| read != Some(true)).count();
                assert!(lost <= 12, "{at} {end}: {read:?}");
            }
        }
    }
}

#[test]
fn cut_table_keeps_its_first_blocks() {
    let case = Case::small(1);
    for length in 0..case.bytes.len() {
        let (repaired, read) = case.repaired(&case.bytes[..length]);
        match repaired {
            Mended::Whole => assert!(read.iter().all(Option::is_some), "{length}: {read:?}"),
            Mended::Unbounded(why) => {
                assert!(why.contains("keys behind"), "{why}");
                let kept = read.iter().take_while(|&&read| read == Some(true)).count();
                assert!(
                    read[kept..].iter().all(Option::is_none),
                    "{length}: {read:?}"
                );
            }
            Mended::Lost(_) => assert!(length < 700, "{length}"),
        }
    }
    assert_eq!(case.repaired(&case.bytes).0, Mended::Whole);
}

#[test]
fn table_inside_a_value_is_not_taken_for_blocks() {
    let directory = TempDir::new().unwrap();
    // The keys of the inner table fit into the order of the outer table.
    let within = |number: u8| [&key(20)[..], &[number]].concat();
    let inner = (1..60_u8).map(|number| (within(number), 0, vec![number; 60]));
    let inner = table(&directory.path().join("inner"), inner);
    let mut values: Vec<Vec<u8>> = (0..40_u8).map(|number| vec![number; 60]).collect();
    values[20] = inner;
    let case = Case::new(values, 1);
    let index = case.find("tli");
    let headers = case
        .bytes
        .windows(4)
        .enumerate()
        .filter(|(_, found)| *found == b"LSM\x03")
        .map(|(at, _)| at);
    let headers: Vec<_> = headers.filter(|&header| header + 33 < index).collect();
    assert!(headers.len() > 12, "{headers:?}");
    for header in headers {
        let (repaired, read) = case.repaired(&case.flipped(&[header + 25, index]));
        assert_eq!(repaired, Mended::Whole, "{header}");
        assert!(read.iter().all(Option::is_some), "{header}: {read:?}");
        assert!(
            read.iter().filter(|&&read| read == Some(false)).count() <= 10,
            "{header}: {read:?}"
        );
    }
}

#[test]
fn table_without_its_blocks_is_lost() {
    let case = Case::small(1);
    let sections = super::super::archive::contents(&mut fs::File::open(&case.path).unwrap());
    let sections = sections.unwrap().unwrap();
    let index = sections.iter().find(|section| section.name == b"tli");
    let start = usize::try_from(index.unwrap().at).unwrap();
    // Index and properties are intact, and the first block is not a block of entries.
    fs::write(&case.path, &case.bytes[start..]).unwrap();
    assert!(matches!(repair(&case.path, ID).unwrap(), Mended::Lost(_)));
}

#[test]
fn mutated_table_of_many_blocks_is_repaired_or_lost() {
    let corpus = [Case::small(1), Case::small(3)].map(|case| case.bytes);
    let scratch = scratch_directory();
    let path = scratch.path().join(ID.to_string());
    let target = Target::new("repair of many blocks", corpus).sealed(|bytes| seal_archive(bytes));
    target.buffers(1024 * 1024).run(|input| {
        fs::write(&path, input).unwrap();
        let mended = repair(&path, ID).unwrap();
        let is_kept = !matches!(mended, Mended::Lost(_));
        if is_kept {
            let again = repair(&path, ID).unwrap();
            assert_eq!(again, Mended::Whole, "a second repair changes nothing");
        }
        is_kept
    });
}
