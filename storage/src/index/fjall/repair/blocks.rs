//! Reads the blocks of one of fjall's files without its index.
//!
//! ```text
//! block   header | data
//! header  "LSM" 03 | type u8 | xxh3 of the data u128 | length u32 | length u32
//!         | xxh3 of the header u32                                              33 bytes
//! ```
//!
//! Every length is compared with the length of the file before use, and no block is decoded before
//! its checksum matches.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use lsm_tree::coding::Decode;
use lsm_tree::table::block::{BlockType, Header};
use lsm_tree::table::util::SliceIndexes;
use lsm_tree::table::{Block, DataBlock};
use xxhash_rust::xxh3::xxh3_128;

const MAGIC: &[u8] = b"LSM\x03";
const HEADER_BYTES: u64 = 33;
/// Length of the trailer of a block of entries, in bytes.
const TRAILER_BYTES: usize = 31;
/// Maximum length of a block in bytes. fjall cuts blocks at 4 KiB; the index of a 64 MiB table has
/// several MiB.
const BLOCK_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// Bytes per read of a search for the magic number.
const SEARCH_BYTES: u64 = 64 * 1024;
/// Maximum number of headers to try behind damaged headers, per file. Bounds the time of a search.
const CANDIDATES_MAX: u32 = 1024;

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyVersion {
    pub(super) key: Vec<u8>,
    pub(super) seqno: u64,
}

/// Summary of the entries of an intact block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockEntries {
    pub(super) first: KeyVersion,
    pub(super) last: KeyVersion,
    pub(super) seqno_max: u64,
    pub(super) count: u64,
}

/// A block of entries, or the bytes up to the next block if the block is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockPiece {
    pub(super) at: u64,
    pub(super) bytes: u64,
    /// `None` if the block is damaged.
    pub(super) entries: Option<BlockEntries>,
}

/// A file of blocks.
pub(super) struct BlockFile {
    file: File,
    length: u64,
    /// Remaining headers to try, of [`CANDIDATES_MAX`].
    candidates: u32,
}

impl BlockFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self {
            file,
            length,
            candidates: CANDIDATES_MAX,
        })
    }

    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    pub(super) fn len(&self) -> u64 {
        self.length
    }

    pub(super) fn read(&mut self, at: u64, bytes: u64) -> io::Result<Vec<u8>> {
        self.file.seek(SeekFrom::Start(at))?;
        let mut read = Vec::new();
        (&mut self.file).take(bytes).read_to_end(&mut read)?;
        Ok(read)
    }

    /// Returns the header at `at` if it is intact and its block ends at or before `end`.
    fn header(&mut self, at: u64, end: u64) -> io::Result<Option<Header>> {
        if at.checked_add(HEADER_BYTES).is_none_or(|data| data > end) {
            return Ok(None);
        }
        let bytes = self.read(at, HEADER_BYTES)?;
        // The header has a checksum of its own, which `decode_from` verifies.
        let header = Header::decode_from(&mut &bytes[..]).ok();
        Ok(header
            .filter(|header| header.data_length <= BLOCK_BYTES_MAX && at + length(header) <= end))
    }

    /// Returns the data of a block if its checksum matches.
    fn data(&mut self, at: u64, header: &Header) -> io::Result<Option<Vec<u8>>> {
        let data = self.read(at + HEADER_BYTES, u64::from(header.data_length))?;
        Ok(Some(data).filter(|data| xxh3_128(data) == header.checksum.into_u128()))
    }

    /// Returns whether the bytes `at..end` are intact blocks of this type.
    pub(super) fn are_intact(
        &mut self,
        mut at: u64,
        end: u64,
        block_type: BlockType,
    ) -> io::Result<bool> {
        while at < end {
            let Some(header) = self.header(at, end)? else {
                return Ok(false);
            };
            if header.block_type != block_type || self.data(at, &header)?.is_none() {
                return Ok(false);
            }
            at += length(&header);
        }
        Ok(true)
    }

    /// Returns the block that fills `at..end`, if it is intact and of this type.
    pub(super) fn entries_block(
        &mut self,
        at: u64,
        end: u64,
        block_type: BlockType,
    ) -> io::Result<Option<DataBlock>> {
        let header = self
            .header(at, end)?
            .filter(|header| at + length(header) == end);
        let header = header.filter(|header| header.block_type == block_type);
        let Some(header) = header else {
            return Ok(None);
        };
        let data = self.data(at, &header)?;
        Ok(data
            .filter(|data| data.len() > TRAILER_BYTES)
            .map(|data| entries_block(header, data)))
    }

    /// Returns the start and end of the first intact block of this type at or behind `from`.
    pub(super) fn find(
        &mut self,
        block_type: BlockType,
        from: u64,
    ) -> io::Result<Option<(u64, u64)>> {
        let mut at = from;
        while let Some(found) = self.magic(at, self.length)? {
            if let Some(header) = self.header(found, self.length)?
                && header.block_type == block_type
                && self.data(found, &header)?.is_some()
            {
                return Ok(Some((found, found + length(&header))));
            }
            at = found + 1;
        }
        Ok(None)
    }

    /// Returns the blocks of entries, which begin at offset 0, and their end. If `end` is unknown,
    /// they end at the first block of another type.
    pub(super) fn walk(&mut self, end: Option<u64>) -> io::Result<(Vec<BlockPiece>, u64)> {
        let limit = end.unwrap_or(self.length);
        let mut pieces = Vec::<BlockPiece>::new();
        let mut at = 0;
        let mut last = None;
        while at < limit {
            let (bytes, entries) = match self.header(at, limit)? {
                Some(header) if header.block_type != BlockType::Data && end.is_none() => {
                    return Ok((pieces, at));
                }
                Some(header) => {
                    // An intact header leads to the next block even if the data is damaged.
                    let data = self
                        .data(at, &header)?
                        .filter(|_| header.block_type == BlockType::Data);
                    (length(&header), data.and_then(|data| entries(header, data)))
                }
                None => (
                    self.next(at + 1, limit, end.is_some())?.unwrap_or(limit) - at,
                    None,
                ),
            };
            // A block whose keys are out of order does not belong to this table.
            let entries = entries.filter(|entries| {
                last.as_ref()
                    .is_none_or(|last| is_behind(&entries.first, last))
            });
            // Damaged blocks keep the last key, so that the order is checked across them.
            last = entries
                .as_ref()
                .map(|entries| entries.last.clone())
                .or(last);
            pieces.push(BlockPiece { at, bytes, entries });
            at += bytes;
        }
        Ok((pieces, limit))
    }

    /// Returns the next block behind a damaged header. A value may contain bytes of another table.
    /// Therefore a header counts only if the headers that follow it lead to the end of the blocks.
    fn next(&mut self, from: u64, limit: u64, is_end: bool) -> io::Result<Option<u64>> {
        let mut at = from;
        while let Some(found) = self.magic(at, limit)? {
            // Without this limit a file full of false headers takes quadratic time.
            let Some(left) = self.candidates.checked_sub(1) else {
                return Ok(None);
            };
            self.candidates = left;
            if self.leads_to_end(found, limit, is_end)? {
                return Ok(Some(found));
            }
            at = found + 1;
        }
        Ok(None)
    }

    /// Returns whether the block at `at` and all blocks behind it have intact headers.
    fn leads_to_end(&mut self, mut at: u64, limit: u64, is_end: bool) -> io::Result<bool> {
        while at < limit {
            match self.header(at, limit)? {
                Some(header) if header.block_type != BlockType::Data && !is_end => return Ok(true),
                Some(header) => at += length(&header),
                None => return Ok(false),
            }
        }
        Ok(is_end)
    }

    /// Returns the offset of the next magic number in `from..end`.
    fn magic(&mut self, from: u64, end: u64) -> io::Result<Option<u64>> {
        let mut at = from;
        while at + MAGIC.len() as u64 <= end {
            let bytes = self.read(at, SEARCH_BYTES.min(end - at))?;
            if let Some(found) = bytes
                .windows(MAGIC.len())
                .position(|window| window == MAGIC)
            {
                return Ok(Some(at + found as u64));
            }
            // Chunks overlap by three bytes, so that a magic number across their border is found.
            at += (bytes.len().saturating_sub(MAGIC.len() - 1) as u64).max(1);
        }
        Ok(None)
    }
}

/// Returns the length of a block with its header.
fn length(header: &Header) -> u64 {
    HEADER_BYTES + u64::from(header.data_length)
}

/// Returns whether a version follows `last` in the order of entries: by key, and the newest version
/// of a key first.
fn is_behind(version: &KeyVersion, last: &KeyVersion) -> bool {
    version.key > last.key || (version.key == last.key && version.seqno < last.seqno)
}

fn entries_block(header: Header, data: Vec<u8>) -> DataBlock {
    DataBlock::new(Block {
        header,
        data: data.into(),
    })
}

/// Returns the summary of a block whose checksum matches, or `None` if the block is compressed,
/// which no block of this build is.
fn entries(header: Header, data: Vec<u8>) -> Option<BlockEntries> {
    if header.data_length != header.uncompressed_length || data.len() <= TRAILER_BYTES {
        return None;
    }
    let block = entries_block(header, data);
    let read = || {
        let bytes = block.as_slice();
        let key = |at: &SliceIndexes| &bytes[at.0..at.1];
        let mut read: Option<BlockEntries> = None;
        let mut last = None;
        for item in block.iter() {
            if let Some(read) = &mut read {
                read.seqno_max = read.seqno_max.max(item.seqno);
                read.count += 1;
            } else {
                let first = KeyVersion {
                    key: key(&item.key).to_vec(),
                    seqno: item.seqno,
                };
                read = Some(BlockEntries {
                    last: first.clone(),
                    first,
                    seqno_max: item.seqno,
                    count: 1,
                });
            }
            last = Some(item);
        }
        let mut read = read?;
        let last = last?;
        let prefix = last.prefix.as_ref().map_or(&[][..], key);
        read.last = KeyVersion {
            key: [prefix, key(&last.key)].concat(),
            seqno: last.seqno,
        };
        Some(read)
    };
    // lsm-tree panics at blocks that it did not write, even if their checksum matches.
    catch_unwind(AssertUnwindSafe(read)).ok().flatten()
}
