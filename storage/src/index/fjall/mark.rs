//! The high-water mark: a lower bound of the contents of the journals, stored outside of them.
//!
//! ```text
//! {store}/high-water   8192 bytes: a slot at 0, a slot at 4096, zeros between
//!
//! slot     "CHWM" | format u8 = 1 | closed u8 | journals u8 | 0 | generation u64 | low u64
//!          | high u64 | oldest u64 | 24 times: journal u64, first u64 | zeros
//!          | xxh3 of the 504 bytes before u64                    all numbers are little-endian
//!
//! low, high  the last acknowledged batch has a sequence number in low..high; 0..0: unknown
//! journals   number of listed journals: the newest ones, each with the sequence number of its
//!            first batch
//! oldest     number of the oldest journal
//! closed     1: no change followed until the index was closed. All journals from `oldest` on exist
//! ```
//!
//! The intact slot with the higher generation is valid. Writes alternate between the slots, so a
//! torn write never damages the other slot. A mark claims only acknowledged, hence durable batches.
//! Therefore the operating system may write a mark to the disk at any time.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::directory_sync::sync_directory_at;
use crate::modes::Modes;

use xxhash_rust::xxh3::xxh3_64;

const MAGIC: [u8; 4] = *b"CHWM";
const FORMAT: u8 = 1;
const SLOT_BYTES: usize = 512;
// The slots are in different 4 KiB pages: a torn page write damages one slot only.
const SLOT_OFFSETS: [usize; 2] = [0, 4096];
const FILE_BYTES: usize = 8192;
/// Offset of the checksum in a slot.
const SUM_AT: usize = SLOT_BYTES - 8;
/// Offset of the list of journals in a slot.
const LIST_AT: usize = 40;
const ENTRY_BYTES: usize = 16;

/// Maximum number of journals in a mark.
pub(super) const JOURNALS_MAX: usize = 24;

/// A lower bound of the contents of the journals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Number of this write of the file.
    pub(crate) generation: u64,
    /// True if no change followed this mark.
    pub(crate) closed: bool,
    /// Lower bound (inclusive) of the sequence number of the last acknowledged batch.
    pub(crate) low: u64,
    /// Upper bound (exclusive) of the sequence number of the last acknowledged batch.
    pub(crate) high: u64,
    /// Number of the oldest journal.
    pub(crate) oldest: u64,
    /// Newest journals with acknowledged batches, ascending, at most [`JOURNALS_MAX`]: number of
    /// the journal, sequence number of its first batch.
    pub(crate) journals: Vec<(u64, u64)>,
}

impl Mark {
    /// Returns whether the mark claims an acknowledged batch.
    pub(crate) fn claims(&self) -> bool {
        self.high > self.low
    }

    /// Returns the number of the journal that holds the last acknowledged batch.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.journals.last().map(|&(id, _)| id)
    }

    fn encode(&self) -> [u8; SLOT_BYTES] {
        // The newest journals: fjall removes the oldest first.
        let journals = &self.journals[self.journals.len().saturating_sub(JOURNALS_MAX)..];
        let count = u8::try_from(journals.len()).expect("at most 24");
        let mut slot = [0; SLOT_BYTES];
        slot[..4].copy_from_slice(&MAGIC);
        slot[4..8].copy_from_slice(&[FORMAT, u8::from(self.closed), count, 0]);
        for (place, number) in [self.generation, self.low, self.high, self.oldest]
            .into_iter()
            .enumerate()
        {
            slot[8 + 8 * place..16 + 8 * place].copy_from_slice(&number.to_le_bytes());
        }
        for (place, (id, first)) in journals.iter().enumerate() {
            let entry = [id.to_le_bytes(), first.to_le_bytes()].concat();
            let at = LIST_AT + ENTRY_BYTES * place;
            slot[at..at + ENTRY_BYTES].copy_from_slice(&entry);
        }
        let sum = xxh3_64(&slot[..SUM_AT]);
        slot[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        slot
    }

    fn decode(slot: &[u8]) -> MarkSlot {
        let number = |at: usize| {
            slot.get(at..at + 8)
                .and_then(|bytes| bytes.try_into().ok())
                .map(u64::from_le_bytes)
        };
        if slot.iter().all(|&byte| byte == 0) {
            return MarkSlot::Unused;
        }
        let sound = slot.len() == SLOT_BYTES
            && slot[..4] == MAGIC
            && number(SUM_AT) == Some(xxh3_64(&slot[..SUM_AT]));
        if !sound {
            return MarkSlot::Damaged;
        }
        if slot[4] != FORMAT {
            return MarkSlot::Unknown(slot[4]);
        }
        let mark = || {
            let entries = (0..usize::from(slot[6])).map(|place| LIST_AT + ENTRY_BYTES * place);
            let journals = entries
                .map(|at| Some((number(at)?, number(at + 8)?)))
                .collect::<Option<Vec<_>>>()?;
            Some(Self {
                generation: number(8)?,
                closed: slot[5] == 1,
                low: number(16)?,
                high: number(24)?,
                oldest: number(32)?,
                journals,
            })
        };
        mark()
            .filter(|mark| mark.journals.len() <= JOURNALS_MAX)
            .map_or(MarkSlot::Damaged, MarkSlot::Sound)
    }
}

/// Contents of a slot.
enum MarkSlot {
    Sound(Mark),
    /// All bytes are zero.
    Unused,
    Damaged,
    /// A slot in a later format.
    Unknown(u8),
}

/// Result of reading the file of marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The file does not exist: an older build wrote the store, or the file was removed.
    Absent,
    /// The newest intact mark. `other_damaged` is true if the other slot is damaged.
    Sound { mark: Mark, other_damaged: bool },
    /// No slot is intact.
    Damaged,
    /// A later build wrote the file in this format.
    Unknown(u8),
}

/// Reads the newest intact mark.
///
/// # Errors
/// Errors of the file system, but for absence.
pub(crate) fn read(path: &Path) -> io::Result<Reading> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(FILE_BYTES as u64).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Reading::Absent),
        Err(error) => return Err(error),
    };
    Ok(parse(&bytes))
}

fn parse(bytes: &[u8]) -> Reading {
    let mut marks = Vec::new();
    let mut damaged = false;
    for at in SLOT_OFFSETS {
        // A slot behind the end of a short file counts as damaged, not as unused.
        match Mark::decode(bytes.get(at..at + SLOT_BYTES).unwrap_or(&[1])) {
            MarkSlot::Sound(mark) => marks.push(mark),
            MarkSlot::Unused => {}
            MarkSlot::Damaged => damaged = true,
            // Never fall back to the older slot: the unknown slot may be newer.
            MarkSlot::Unknown(format) => return Reading::Unknown(format),
        }
    }
    match marks.into_iter().max_by_key(|mark| mark.generation) {
        Some(mark) => Reading::Sound {
            mark,
            other_damaged: damaged,
        },
        None => Reading::Damaged,
    }
}

/// The file of marks, open for writing.
#[derive(Debug)]
pub(super) struct MarkFile {
    file: File,
    generation: u64,
}

impl MarkFile {
    /// Opens the file and durably replaces its marks by `mark`. If no file of the right size
    /// exists, a complete new file is renamed into place: later writes need no more disk space, and
    /// a crash leaves no partial file.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(super) fn open(path: &Path, mark: &Mark, modes: Modes) -> io::Result<Self> {
        let existing = File::options().write(true).open(path).ok();
        if let Some(file) = existing.filter(|file| {
            file.metadata()
                .is_ok_and(|metadata| metadata.len() == FILE_BYTES as u64)
        }) {
            let mut marks = Self {
                file,
                generation: mark.generation,
            };
            // Both slots: an older mark in a slot would be used if the other slot is damaged later.
            marks.write_twice(mark)?;
            marks.file.sync_all()?;
            return Ok(marks);
        }
        let new = path.with_extension("new");
        let mut marks = Self {
            file: modes.create_file(&new)?,
            generation: mark.generation,
        };
        marks.file.write_all(&[0; FILE_BYTES])?;
        marks.write_twice(mark)?;
        marks.file.sync_all()?;
        fs::rename(&new, path)?;
        if let Some(parent) = path.parent() {
            // The rename must be durable before the first batch relies on the mark.
            sync_directory_at(parent)?;
        }
        Ok(marks)
    }

    /// Overwrites the older slot with a mark, without a sync.
    ///
    /// # Errors
    /// Errors of the file system. The other slot is unchanged.
    pub(super) fn write(&mut self, mark: &Mark) -> io::Result<()> {
        self.generation += 1;
        let slot = Mark {
            generation: self.generation,
            ..mark.clone()
        }
        .encode();
        // The parity of the generation selects the slot, so consecutive writes never overwrite the
        // newest mark.
        let offset = SLOT_OFFSETS[usize::from(self.generation % 2 == 1)];
        self.file.seek(SeekFrom::Start(offset as u64))?;
        self.file.write_all(&slot)
    }

    /// Makes the written marks durable.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Overwrites both slots with the same mark, one after the other, so that later damage to a
    /// slot loses nothing.
    ///
    /// # Errors
    /// Same as [`write`](Self::write).
    pub(super) fn write_twice(&mut self, mark: &Mark) -> io::Result<()> {
        self.write(mark)?;
        self.write(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::super::journal::{BatchRun, Journal};
    use super::super::journals::{Scanned, judge};
    use super::*;
    use cenotaph_fuzz::Target;

    fn mark() -> Mark {
        let journals = vec![(3, 40), (4, 90)];
        Mark {
            generation: 0,
            closed: true,
            low: 100,
            high: 103,
            oldest: 2,
            journals,
        }
    }

    fn sound(bytes: &[u8]) -> Mark {
        match parse(bytes) {
            Reading::Sound { mark, .. } => mark,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn slot_bytes_are_pinned() {
        let slot = Mark {
            generation: 7,
            ..mark()
        }
        .encode();
        let mut expected = [0; SLOT_BYTES];
        expected[..8].copy_from_slice(b"CHWM\x01\x01\x02\x00");
        for (place, number) in [7, 100, 103, 2, 3, 40, 4, 90].into_iter().enumerate() {
            expected[8 + place * 8] = number;
        }
        expected[SUM_AT..].copy_from_slice(&0x71610b370b9277ab_u64.to_le_bytes());
        assert_eq!(slot, expected);
    }

    #[test]
    fn torn_write_keeps_the_previous_mark() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("high-water");
        assert_eq!(read(&path).unwrap(), Reading::Absent);
        let mut marks = MarkFile::open(&path, &mark(), Modes::default()).unwrap();
        for low in 200..210 {
            let before = fs::read(&path).unwrap();
            marks
                .write(&Mark {
                    low,
                    high: low + 1,
                    ..mark()
                })
                .unwrap();
            let after = fs::read(&path).unwrap();
            assert_eq!(sound(&after).low, low);
            for cut in 1..SLOT_BYTES {
                let torn: Vec<u8> = (0..8192)
                    .map(|at| {
                        if at % 4096 < cut {
                            after[at]
                        } else {
                            before[at]
                        }
                    })
                    .collect();
                let torn = sound(&torn);
                assert!(torn == sound(&after) || torn == sound(&before), "{torn:?}");
            }
        }
    }

    #[test]
    fn changed_byte_never_forges_a_mark() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("high-water");
        drop(MarkFile::open(&path, &mark(), Modes::default()).unwrap());
        let bytes = fs::read(&path).unwrap();
        for at in (0..SLOT_BYTES).chain(4096..4096 + SLOT_BYTES) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            let found = sound(&changed);
            assert_eq!(
                found,
                Mark {
                    generation: found.generation,
                    ..mark()
                }
            );
        }
        assert_eq!(parse(&[0; 8192]), Reading::Damaged);
        assert_eq!(parse(&bytes[..100]), Reading::Damaged);
    }
    /// Decodes a slot, alone and in a file. A mark survives its encoding, and has a verdict.
    fn check_slot(slot: &[u8], scanned: &[Scanned]) -> bool {
        let file = [slot, &vec![0; FILE_BYTES.saturating_sub(slot.len())]].concat();
        let reading = parse(&file);
        let MarkSlot::Sound(mark) = Mark::decode(slot) else {
            assert!(!matches!(reading, Reading::Sound { .. }) || slot.len() != SLOT_BYTES);
            return false;
        };
        assert!(matches!(&reading, Reading::Sound { mark: read, .. } if *read == mark));
        assert!(matches!(Mark::decode(&mark.encode()), MarkSlot::Sound(again) if again == mark));
        for scanned in [&[], scanned] {
            let _ = judge(scanned, Some(&mark));
        }
        true
    }

    #[test]
    fn mutated_slot_is_refused_or_encodes_again() {
        let seal = |slot: &mut Vec<u8>| {
            slot.resize(SLOT_BYTES, 0);
            let sum = xxh3_64(&slot[..SUM_AT]);
            slot[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        };
        let run = |first_seqno| BatchRun {
            start: 0,
            end: 100,
            batches: 1,
            first_seqno,
            last_seqno: first_seqno,
        };
        let scanned = [(3, 40), (4, 90)].map(|(id, first)| Scanned {
            id,
            journal: Journal {
                bytes: 100,
                runs: vec![run(first)],
                ..Journal::default()
            },
        });
        let full = Mark {
            journals: (0..24).map(|id| (id, 10 * id)).collect(),
            ..mark()
        };
        let slots = [mark(), full, Mark::default()].map(|mark| mark.encode());
        let target = Target::new("slot of the high-water mark", slots).sealed(seal);
        target
            .buffers(64 * 1024)
            .run(|slot| check_slot(slot, &scanned));
    }
}
