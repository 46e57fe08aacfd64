//! Tests of the files of a payload log, without fjall.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::directory_sync::recorded;

const MIB: u64 = 1024 * 1024;

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("payloads")
    }

    fn open(&self, records: BTreeMap<SegmentId, SegmentRecord>, next: u64) -> Arc<PayloadLog> {
        let opening = Opening {
            dir: self.path(),
            id: 7,
            modes: Modes::default(),
            segment_bytes: MIB,
            access: LogAccess::Write,
        };
        Arc::new(PayloadLog::open(opening, LogRecord { next }, records).unwrap())
    }
}

/// Appends values under the keys `0`, `1` and so on, and names all of them.
fn append(log: &Arc<PayloadLog>, writer: &mut LogWriter, values: &[Bytes]) -> Vec<Pointer> {
    let keys: Vec<_> = (0..values.len()).map(key).collect();
    let entries: Vec<_> = keys.iter().zip(values).collect();
    let pointers = writer.append(&entries).unwrap();
    for (key, pointer) in keys.iter().zip(&pointers) {
        log.lock().table.replace(key, None, Some(pointer));
    }
    pointers
}

fn key(number: usize) -> Bytes {
    Bytes::from(number.to_string())
}

fn value(number: usize, bytes: usize) -> Bytes {
    (0..bytes)
        .map(|at| (at * 31 + number).to_le_bytes()[0])
        .collect()
}

/// A log with three small values in one segment.
struct Small {
    log: Arc<PayloadLog>,
    values: [Bytes; 3],
    pointers: Vec<Pointer>,
    path: PathBuf,
    /// Contents of the segment.
    whole: Vec<u8>,
    _directory: Directory,
}

impl Small {
    fn new() -> Self {
        let directory = Directory::new();
        let log = directory.open(BTreeMap::new(), 0);
        let mut writer = LogWriter::new(log.clone(), HeadKind::Written);
        let values = [value(0, 100), value(1, 37), value(2, 64)];
        let pointers = append(&log, &mut writer, &values);
        let path = log.path(pointers[0].segment);
        let whole = fs::read(&path).unwrap();
        Self {
            log,
            values,
            pointers,
            path,
            whole,
            _directory: directory,
        }
    }
}

fn read(log: &PayloadLog, pointer: &Pointer, key: &[u8]) -> Result<Bytes> {
    log.segment(&log.segments(), pointer)?
        .read(pointer, key, None)
}

#[test]
fn values_of_every_size_are_read_back() {
    let directory = Directory::new();
    let log = directory.open(BTreeMap::new(), 0);
    let mut writer = LogWriter::new(log.clone(), HeadKind::Written);
    let values: Vec<_> = [0, 1, 7, 8, 9, 4096, 65_536, 700_000, 400_000, 3_000_000, 5]
        .into_iter()
        .enumerate()
        .map(|(number, bytes)| value(number, bytes))
        .collect();
    let pointers = append(&log, &mut writer, &values);
    for (number, (pointer, value)) in pointers.iter().zip(&values).enumerate() {
        assert_eq!(read(&log, pointer, &key(number)).unwrap(), value);
        let segment = log.segments()[&pointer.segment].clone();
        let resident = segment.read_resident(pointer, &key(number), None).unwrap();
        assert!(resident.is_none_or(|read| read == value), "number={number}");
    }
    // 700,000 and 400,000 bytes do not fit into a segment, and 3,000,000 have one of their own.
    assert!(log.segments().len() >= 4, "{}", log.segments().len());
}

#[test]
fn a_new_group_of_many_small_entries_needs_several_writes() {
    let directory = Directory::new();
    let log = directory.open(BTreeMap::new(), 0);
    let mut writer = LogWriter::new(log.clone(), HeadKind::Written);
    let values: Vec<_> = (0..3_000).map(|number| value(number, 10)).collect();
    let pointers = append(&log, &mut writer, &values);
    for (number, pointer) in pointers.iter().enumerate() {
        assert_eq!(read(&log, pointer, &key(number)).unwrap(), values[number]);
    }
}

#[test]
fn names_of_new_segments_are_durable_before_a_pointer_names_them() {
    let directory = Directory::new();
    let log = directory.open(BTreeMap::new(), 0);
    let mut writer = LogWriter::new(log.clone(), HeadKind::Written);
    recorded::take();
    let values = [700_000, 700_000, 5_000].map(|bytes| value(0, bytes));
    let pointers = append(&log, &mut writer, &values);
    let segments = BTreeSet::from_iter(pointers.iter().map(|pointer| log.path(pointer.segment)));
    let mut durable = recorded::take();
    assert_eq!(segments.len(), 2);
    assert!(durable.remove(&directory.path()), "{durable:?}");
    assert_eq!(durable, segments);

    // Another segment, of another writer, in a directory that exists.
    let mut writer = LogWriter::new(log.clone(), HeadKind::Moved);
    let pointers = append(&log, &mut writer, &[value(1, 5_000)]);
    let durable = recorded::take();
    assert!(
        durable.contains(&log.path(pointers[0].segment)),
        "{durable:?}"
    );
    // A segment that exists needs no sync of its directory.
    append(&log, &mut writer, &[value(2, 5_000)]);
    assert_eq!(recorded::take(), BTreeSet::new());
}

#[test]
fn entries_that_no_pointer_names_are_cut_at_the_next_opening() {
    let directory = Directory::new();
    let log = directory.open(BTreeMap::new(), 0);
    let mut writer = LogWriter::new(log.clone(), HeadKind::Written);
    let named = append(&log, &mut writer, &[value(0, 5_000)]);
    let record = log.lock().table.record(named[0].segment).unwrap();
    writer.append(&[(&key(1), &value(1, 6_000))]).unwrap();
    let path = log.path(named[0].segment);
    assert!(fs::metadata(&path).unwrap().len() > record.end);
    drop((log, writer));

    let records = BTreeMap::from([(named[0].segment, record)]);
    let log = directory.open(records, 1);
    assert_eq!(fs::metadata(&path).unwrap().len(), record.end);
    assert_eq!(read(&log, &named[0], &key(0)).unwrap(), value(0, 5_000));
    // The segment is continued.
    let mut writer = LogWriter::new(log.clone(), HeadKind::Written);
    let next = append(&log, &mut writer, &[value(2, 5_000)]);
    assert_eq!(next[0].segment, named[0].segment);
    assert_eq!(next[0].offset, record.end);
    assert_eq!(read(&log, &next[0], &key(0)).unwrap(), value(2, 5_000));
}

#[test]
fn an_opening_removes_only_unnamed_segments_of_this_log() {
    let directory = Directory::new();
    let log = directory.open(BTreeMap::new(), 0);
    let mut writer = LogWriter::new(log.clone(), HeadKind::Written);
    let own = writer.append(&[(&key(1), &value(1, 6_000))]).unwrap()[0].segment;
    let foreign = SegmentId(0x20);
    let header = segment::encode_header(8, foreign);
    fs::write(foreign.path(&directory.path()), header).unwrap();
    let other = directory.path().join("notes.txt");
    fs::write(&other, "text").unwrap();
    drop((log, writer));

    let log = directory.open(BTreeMap::new(), 0);
    assert!(!own.path(&directory.path()).exists());
    assert!(foreign.path(&directory.path()).exists());
    assert!(other.exists());
    // No new segment takes the number of the foreign file.
    let mut writer = LogWriter::new(log, HeadKind::Written);
    let next = writer.append(&[(&key(1), &value(1, 6_000))]).unwrap();
    assert_eq!(next[0].segment, SegmentId(0x21));
}

#[test]
fn every_changed_byte_of_a_segment_is_detected() {
    let Small {
        log,
        values,
        pointers,
        path,
        whole,
        _directory,
    } = Small::new();
    let mut detected = 0;
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        fs::write(&path, changed).unwrap();
        let mut corrupt = 0;
        for (number, pointer) in pointers.iter().enumerate() {
            match read(&log, pointer, &key(number)) {
                Ok(read) => assert_eq!(read, values[number], "at={at}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "at={at}: {error}");
                    corrupt += 1;
                }
            }
        }
        assert!(corrupt <= 1, "at={at}: a byte belongs to one entry");
        detected += corrupt;
    }
    // Only the header and the padding belong to no entry.
    let entries = whole.len() - 64;
    assert!(
        detected > entries - 3 * 8 && detected <= entries,
        "{detected}"
    );
}

#[test]
fn a_walk_steps_over_a_damaged_entry() {
    let directory = Directory::new();
    let log = directory.open(BTreeMap::new(), 0);
    let mut writer = LogWriter::new(log.clone(), HeadKind::Written);
    // The second value contains the bytes of an entry.
    let mut disguised = Vec::new();
    entry::encode_head(&mut disguised, b"forged", b"forged value");
    disguised.extend_from_slice(b"forged value");
    let values = [value(0, 100), Bytes::from(disguised), value(2, 64)];
    let pointers = append(&log, &mut writer, &values);
    let segment = pointers[0].segment;
    let end = log.lock().table.record(segment).unwrap().end;
    let found = |depth| {
        let mut scan = SegmentScan::open(&log.path(segment), end, depth).unwrap();
        let mut found = Vec::new();
        while let Some(entry) = scan.next().unwrap() {
            found.push((entry.offset, entry.key));
        }
        found
    };
    let all: Vec<_> = pointers
        .iter()
        .enumerate()
        .map(|(number, pointer)| (pointer.offset, key(number)))
        .collect();
    assert_eq!(found(ScanDepth::Keys), all);
    assert_eq!(found(ScanDepth::Whole), all);

    // Each byte of the header of the second entry, whose lengths may then be wrong.
    let path = log.path(segment);
    let whole = fs::read(&path).unwrap();
    let second = usize::try_from(pointers[1].offset).unwrap();
    for at in second..second + entry::HEADER_BYTES {
        let mut changed = whole.clone();
        changed[at] ^= 0x41;
        fs::write(&path, changed).unwrap();
        let found = found(ScanDepth::Whole);
        assert!(found.contains(&all[0]), "at={at}: {found:?}");
        assert!(found.contains(&all[2]), "at={at}: {found:?}");
        assert!(!found.contains(&all[1]), "at={at}: {found:?}");
    }
}

#[test]
fn a_state_keeps_the_file_of_a_removed_segment() {
    let directory = Directory::new();
    let log = directory.open(BTreeMap::new(), 0);
    let mut writer = LogWriter::new(log.clone(), HeadKind::Written);
    let pointers = append(&log, &mut writer, &[value(0, 5_000)]);
    let path = log.path(pointers[0].segment);
    let state = log.segments();
    log.retire(pointers[0].segment);
    assert_eq!(log.delete_retired(), 1);
    let segment = log.segment(&state, &pointers[0]).unwrap();
    assert_eq!(
        segment.read(&pointers[0], &key(0), None).unwrap(),
        value(0, 5_000)
    );
    assert_eq!(
        read(&log, &pointers[0], &key(0)).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    drop(state);
    assert_eq!(log.delete_retired(), 0);
    assert!(!path.exists());
}

#[test]
fn missing_and_short_segments_are_corrupt() {
    let directory = Directory::new();
    let log = directory.open(BTreeMap::new(), 0);
    let mut writer = LogWriter::new(log.clone(), HeadKind::Written);
    let pointers = append(&log, &mut writer, &[value(0, 5_000), value(1, 5_000)]);
    let path = log.path(pointers[0].segment);
    let record = log.lock().table.record(pointers[0].segment).unwrap();
    let reopen = || directory.open(BTreeMap::from([(pointers[0].segment, record)]), 1);
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(6_000)
        .unwrap();
    let short = reopen();
    assert_eq!(
        read(&short, &pointers[0], &key(0)).unwrap(),
        value(0, 5_000)
    );
    let error = read(&short, &pointers[1], &key(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    // Appends go to another segment.
    let mut writer = LogWriter::new(short.clone(), HeadKind::Written);
    let next = append(&short, &mut writer, &[value(2, 5_000)]);
    assert_ne!(next[0].segment, pointers[0].segment);
    fs::remove_file(&path).unwrap();
    let error = read(&reopen(), &pointers[0], &key(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn mutated_segment_is_walked_without_a_panic() {
    let Small {
        log,
        values,
        pointers,
        path,
        whole,
        _directory,
    } = Small::new();
    let target = cenotaph_fuzz::Target::new("segment of the payload log", [whole]);
    target.buffers(4 * MIB).run(|input| {
        fs::write(&path, input).unwrap();
        let mut found = 0;
        for depth in [ScanDepth::Keys, ScanDepth::Whole] {
            let end = input.len() as u64;
            let mut scan = SegmentScan::open(&path, end, depth).unwrap();
            let mut last = 0;
            while let Some(entry) = scan.next().unwrap() {
                assert!(entry.offset > last && entry.offset < end);
                last = entry.offset;
                found += 1;
            }
        }
        for (number, pointer) in pointers.iter().enumerate() {
            match read(&log, pointer, &key(number)) {
                Ok(read) => assert_eq!(read, values[number]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
            }
        }
        found > 0
    });
}

#[test]
fn mutated_records_and_pointers_are_refused_or_encode_again() {
    let segment = SegmentRecord {
        end: 0x0201,
        live_bytes: 3,
        live_entries: 4,
    };
    let pointer = Pointer {
        segment: SegmentId(1),
        offset: 64,
        value_bytes: 5_000,
    };
    let corpus = [
        segment.encode(),
        LogRecord { next: 7 }.encode(),
        pointer.encode().to_vec(),
    ];
    cenotaph_fuzz::Target::new("record of the payload log", corpus).run(|input| {
        let segment = SegmentRecord::decode(input).ok();
        let log = LogRecord::decode(input).ok();
        let pointer = Pointer::decode(input);
        assert!(segment.is_none_or(|segment| segment.encode() == input));
        assert!(log.is_none_or(|log| log.encode() == input));
        assert!(pointer.is_none_or(|pointer| pointer.encode()[..] == *input));
        segment.is_some() || log.is_some() || pointer.is_some()
    });
}
