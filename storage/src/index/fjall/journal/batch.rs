//! Reads and checks one batch of a journal. The byte map is in `../journal.rs`.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;

use xxhash_rust::xxh3::Xxh3;

use super::TAG_START;
use super::source::JournalWindow;

const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const TRAILER: [u8; 4] = *b"FJL\x03";

/// Length of the start of a batch, in bytes.
pub(in super::super) const START_BYTES: usize = 13;
const ITEM_HEAD_BYTES: usize = 21;
const END_BYTES: usize = 13;

/// Sequence number and end offset of an intact batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchHead {
    pub(super) seqno: u64,
    pub(super) end: u64,
}

/// Reason why the bytes at an offset are not an intact batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// The bytes are not the start of a batch.
    NoStart,
    /// The file ends within the batch.
    Truncated,
    /// The batch is whole, but its sequence number is outside the valid range: not higher than all
    /// earlier sequence numbers, or too much higher.
    Seqno(u64),
    /// The header of an item is invalid or missing.
    Item,
    /// The end of the batch is missing behind its last item.
    NoEnd,
    /// The checksum of the items does not match.
    Checksum,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStart => f.write_str("no batch begins here"),
            Self::Truncated => f.write_str("the file ends within a batch"),
            Self::Seqno(seqno) => write!(f, "a batch has a wrong sequence number, {seqno}"),
            Self::Item => f.write_str("an item of a batch is damaged"),
            Self::NoEnd => f.write_str("a batch has no end"),
            Self::Checksum => f.write_str("the checksum of a batch does not match"),
        }
    }
}

/// Decodes the start of a batch: the number of its items and its sequence number.
pub(in super::super) fn start(bytes: &[u8]) -> Option<(u32, u64)> {
    let &[tag, c0, c1, c2, c3, ref seqno @ ..] = bytes else {
        return None;
    };
    let seqno = u64::from_le_bytes(seqno.try_into().ok()?);
    let count = u32::from_le_bytes([c0, c1, c2, c3]);
    // fjall writes no empty batch. A `01` byte followed by zeros is not a start.
    (tag == TAG_START && count > 0).then_some((count, seqno))
}

/// Reads the batch at `at` to its end. If `seqnos` is given, a sequence number outside this range
/// is a [`Defect::Seqno`].
pub(super) fn read_batch(
    source: &mut JournalWindow,
    at: u64,
    seqnos: Option<&RangeInclusive<u64>>,
) -> io::Result<Result<BatchHead, Defect>> {
    let Some(start) = source.bytes::<START_BYTES>(at)? else {
        let begun = source.bytes::<1>(at)? == Some([TAG_START]);
        return Ok(Err(if begun {
            Defect::Truncated
        } else {
            Defect::NoStart
        }));
    };
    let Some((count, seqno)) = self::start(&start) else {
        return Ok(Err(Defect::NoStart));
    };
    // A search checks the range before it reads the items: most false starts end here.
    if seqnos.is_some_and(|seqnos| !seqnos.contains(&seqno)) {
        return Ok(Err(Defect::Seqno(seqno)));
    }
    let mut hash = Xxh3::new();
    let mut at = at + START_BYTES as u64;
    for _ in 0..count {
        match read_item(source, at, &mut hash)? {
            Ok(end) => at = end,
            Err(defect) => return Ok(Err(defect)),
        }
    }
    let Some(end) = source.bytes::<END_BYTES>(at)? else {
        return Ok(Err(Defect::Truncated));
    };
    let [tag, checksum @ .., t0, t1, t2, t3] = end;
    if tag != TAG_END || [t0, t1, t2, t3] != TRAILER {
        return Ok(Err(Defect::NoEnd));
    }
    if u64::from_le_bytes(checksum) != hash.digest() {
        return Ok(Err(Defect::Checksum));
    }
    Ok(Ok(BatchHead {
        seqno,
        end: at + END_BYTES as u64,
    }))
}

/// Reads the item at `at`, and returns its end offset.
fn read_item(
    source: &mut JournalWindow,
    at: u64,
    hash: &mut Xxh3,
) -> io::Result<Result<u64, Defect>> {
    let Some(head) = source.bytes::<ITEM_HEAD_BYTES>(at)? else {
        return Ok(Err(Defect::Truncated));
    };
    let [
        tag,
        kind,
        compression,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        k0,
        k1,
        v0,
        v1,
        v2,
        v3,
        s0,
        s1,
        s2,
        s3,
    ] = head;
    let key = u16::from_le_bytes([k0, k1]);
    let value = u32::from_le_bytes([v0, v1, v2, v3]);
    let stored = u32::from_le_bytes([s0, s1, s2, s3]);
    // Our batches contain only puts and removes without compression. fjall panics at other types.
    if tag != TAG_ITEM || kind > 1 || compression != 0 || key == 0 || value != stored {
        return Ok(Err(Defect::Item));
    }
    let length = ITEM_HEAD_BYTES as u64 + u64::from(key) + u64::from(stored);
    Ok(if source.hash(at, length, hash)? {
        Ok(at + length)
    } else {
        Err(Defect::Truncated)
    })
}
