//! Repairs a table with a damaged end: writes a new index of its blocks.
//!
//! ```text
//! intact                            written
//! index and properties              the table of contents, without the filters
//! properties                        an index of the blocks
//! blocks                            an index of the blocks, and properties from the blocks
//! no block, or no intact block
//! and no properties                 nothing: the table is lost
//! ```
//!
//! A damaged block remains in the file, and the new index refers to it for every key that it may
//! contain. A read of such a key fails, and never returns an older value from another table. The
//! keys of a damaged block lie between the keys of its neighbours. At the start and end of a table
//! only the properties bound them. Guards that no older value is copied without a report: if a
//! bound is unknown, the outcome is [`Mended::Unbounded`].

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use lsm_tree::table::block::BlockType;
use lsm_tree::table::{BlockHandle, BlockOffset, DataBlock, KeyedBlockHandle};

use super::super::archive::{self, Section};
use super::blocks::{BlockFile, BlockPiece, KeyVersion};
use super::end::{NewEnd, TableProperties};
use crate::index::KEY_BYTES_MAX;

/// Outcome of the repair of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mended {
    /// fjall can open the table. No key is absent without an error.
    Whole,
    /// fjall can open the table. An unknown set of its keys is lost, as described.
    Unbounded(String),
    /// No entry of the table can be read, and its keys are unknown.
    Lost(String),
}

/// Repairs a table, so that fjall can open it, unless no part of it can be read.
///
/// # Errors
/// Errors of the file system, but for absence.
pub(super) fn repair(path: &Path, id: u64) -> io::Result<Mended> {
    let mut blocks = match BlockFile::open(path) {
        Ok(blocks) => blocks,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Mended::Lost("the file is missing".to_owned()));
        }
        Err(error) => return Err(error),
    };
    let sections = archive::contents(blocks.file())?.ok();
    let end = Surviving::find(&mut blocks, sections.as_deref(), id)?;
    if end.is_whole() {
        return Ok(Mended::Whole);
    }
    let data_end = find(sections.as_deref(), b"data").map(|data| data.at + data.length);
    let (pieces, data_end) = blocks.walk(data_end)?;
    let properties = match end.properties {
        Some(properties) => Some(properties),
        None if sections.is_none() => Properties::search(&mut blocks, data_end, id)?,
        None => None,
    };
    if properties.is_none() && pieces.iter().all(|piece| piece.entries.is_none()) {
        return Ok(Mended::Lost("the file contains no intact block".to_owned()));
    }
    let mut new = NewIndex::of(&pieces, properties.as_ref());
    // The properties survived alone. lsm-tree panics at an index without blocks.
    if end.index.is_none() && new.blocks.is_empty() {
        return Ok(Mended::Lost(
            "the file contains no block of entries".to_owned(),
        ));
    }
    // The file ends with a block: the blocks behind it may be cut off.
    let is_cut = sections.is_none() && properties.is_none() && data_end == blocks.len();
    if is_cut && pieces.last().is_some_and(|piece| piece.entries.is_some()) {
        new.lose(format!(
            "the keys behind \"{}\" are lost: the file ends there",
            new.key_max.escape_ascii()
        ));
    }
    write(path, id, data_end, end.index, properties.as_ref(), &new)?;
    Ok(new.unbounded.map_or(Mended::Whole, Mended::Unbounded))
}

/// Appends the new end of a table: the index and the properties, unless they are intact.
fn write(
    path: &Path,
    id: u64,
    data_end: u64,
    index: Option<Vec<Section>>,
    properties: Option<&Properties>,
    new: &NewIndex,
) -> io::Result<()> {
    let data = Section {
        name: b"data".to_vec(),
        at: 0,
        length: data_end,
    };
    let is_index_kept = index.is_some();
    let kept = [data].into_iter().chain(index.into_iter().flatten());
    let kept = kept.chain(properties.map(|properties| properties.section.clone()));
    let mut end = NewEnd::open(path, kept.collect())?;
    if !is_index_kept {
        end.index(&new.blocks)?;
    }
    if properties.is_none() {
        end.table_properties(&TableProperties {
            id,
            key_min: new.key_min.clone(),
            key_max: new.key_max.clone(),
            seqno_max: new.seqno_max,
            items: new.items,
            blocks: new.blocks.len() as u64,
            bytes: data_end,
        })?;
    }
    end.finish()
}

/// Returns the section with this name.
fn find<'a>(sections: Option<&'a [Section]>, name: &[u8]) -> Option<&'a Section> {
    sections?.iter().find(|section| section.name == name)
}

/// Intact parts of the end of a table.
struct Surviving {
    index: Option<Vec<Section>>,
    properties: Option<Properties>,
    has_whole_filters: bool,
}

impl Surviving {
    fn find(blocks: &mut BlockFile, sections: Option<&[Section]>, id: u64) -> io::Result<Self> {
        let mut intact = |name: &[u8], block_type| match find(sections, name) {
            Some(section)
                if blocks.are_intact(section.at, section.at + section.length, block_type)? =>
            {
                io::Result::Ok(TablePart::Intact(section.clone()))
            }
            Some(_) => Ok(TablePart::Damaged),
            None => Ok(TablePart::Absent),
        };
        let index = match (
            intact(b"tli", BlockType::Index)?,
            intact(b"index", BlockType::Index)?,
        ) {
            (TablePart::Intact(top), TablePart::Intact(leaves)) => Some(vec![leaves, top]),
            (TablePart::Intact(top), TablePart::Absent) => Some(vec![top]),
            (TablePart::Damaged | TablePart::Absent, _)
            | (TablePart::Intact(_), TablePart::Damaged) => None,
        };
        let filters = [
            intact(b"filter", BlockType::Filter)?,
            intact(b"filter_tli", BlockType::Index)?,
        ];
        let has_whole_filters = filters
            .iter()
            .all(|filter| !matches!(filter, TablePart::Damaged));
        let properties = match find(sections, b"meta") {
            Some(section) => Properties::read(blocks, section.clone(), id)?,
            None => None,
        };
        Ok(Self {
            index,
            properties,
            has_whole_filters,
        })
    }

    fn is_whole(&self) -> bool {
        self.index.is_some() && self.properties.is_some() && self.has_whole_filters
    }
}

enum TablePart {
    Intact(Section),
    Damaged,
    Absent,
}

/// The properties of a table, and their section.
struct Properties {
    section: Section,
    key_max: Vec<u8>,
    items: u64,
    keys: u64,
}

impl Properties {
    fn read(blocks: &mut BlockFile, section: Section, id: u64) -> io::Result<Option<Self>> {
        let block =
            blocks.entries_block(section.at, section.at + section.length, BlockType::Meta)?;
        // lsm-tree panics at unexpected contents.
        Ok(block.and_then(|block| {
            catch_unwind(AssertUnwindSafe(|| Self::decode(&block, section, id)))
                .ok()
                .flatten()
        }))
    }

    fn decode(block: &DataBlock, section: Section, id: u64) -> Option<Self> {
        let value = |name: &[u8]| {
            block
                .point_read(name, u64::MAX)
                .map(|entry| entry.value.to_vec())
        };
        let number = |name: &[u8]| value(name)?.try_into().ok().map(u64::from_le_bytes);
        let key_max = value(b"key#max")?;
        let items = number(b"item_count")?;
        let keys = number(b"key_count")?;
        (number(b"table_id")? == id).then_some(Self {
            section,
            key_max,
            items,
            keys,
        })
    }

    /// Searches for the properties behind the blocks of entries.
    fn search(blocks: &mut BlockFile, from: u64, id: u64) -> io::Result<Option<Self>> {
        let Some((at, end)) = blocks.find(BlockType::Meta, from)? else {
            return Ok(None);
        };
        Self::read(
            blocks,
            Section {
                name: b"meta".to_vec(),
                at,
                length: end - at,
            },
            id,
        )
    }
}

/// An index of all blocks, including damaged blocks.
#[derive(Default)]
struct NewIndex {
    blocks: Vec<KeyedBlockHandle>,
    key_min: Vec<u8>,
    key_max: Vec<u8>,
    seqno_max: u64,
    items: u64,
    unbounded: Option<String>,
}

impl NewIndex {
    fn of(pieces: &[BlockPiece], properties: Option<&Properties>) -> Self {
        let mut new = Self::default();
        let entries = || pieces.iter().filter_map(|piece| piece.entries.as_ref());
        new.items = entries().map(|entries| entries.count).sum();
        new.seqno_max = entries()
            .map(|entries| entries.seqno_max)
            .max()
            .unwrap_or_default();
        new.key_min = entries()
            .next()
            .map(|entries| entries.first.key.clone())
            .unwrap_or_default();
        new.key_max = entries()
            .next_back()
            .map(|entries| entries.last.key.clone())
            .unwrap_or_default();
        // If the intact blocks contain all items, damaged bytes between them are not blocks of the
        // table.
        let is_complete = properties.is_some_and(|properties| properties.items == new.items);
        for (at, piece) in pieces.iter().enumerate() {
            if let Some(entries) = &piece.entries {
                new.push(piece, entries.last.clone());
            } else if !is_complete
                && at
                    .checked_sub(1)
                    .is_none_or(|before| pieces[before].entries.is_some())
            {
                let behind = pieces[at..].iter().find_map(|piece| piece.entries.as_ref());
                new.damaged(piece, behind.map(|entries| &entries.first), properties);
            }
        }
        new
    }

    fn push(&mut self, piece: &BlockPiece, last: KeyVersion) {
        let bytes = u32::try_from(piece.bytes).unwrap_or(u32::MAX);
        let handle = BlockHandle::new(BlockOffset(piece.at), bytes);
        self.blocks
            .push(KeyedBlockHandle::new(last.key.into(), last.seqno, handle));
    }

    /// Adds an index entry that refers all keys between the intact neighbours to the damaged block.
    fn damaged(
        &mut self,
        piece: &BlockPiece,
        behind: Option<&KeyVersion>,
        properties: Option<&Properties>,
    ) {
        let is_first = self.blocks.is_empty();
        let last = match (behind, properties) {
            (Some(_), None) if is_first => {
                let key = self.key_min.escape_ascii().to_string();
                return self.lose(format!("the keys before \"{key}\" are lost"));
            }
            // Each key has one version, so the damaged block holds no version of the next key.
            (Some(behind), Some(properties)) if properties.items == properties.keys => KeyVersion {
                key: predecessor(&behind.key),
                seqno: 0,
            },
            // The damaged block may contain newer versions of this key.
            (Some(behind), _) => KeyVersion {
                key: behind.key.clone(),
                seqno: behind.seqno.saturating_add(1),
            },
            (None, Some(properties)) => KeyVersion {
                key: properties.key_max.clone(),
                seqno: 0,
            },
            (None, None) => {
                let key = self.key_max.escape_ascii().to_string();
                return self.lose(format!("the keys behind \"{key}\" are lost"));
            }
        };
        // One byte less than the block: its checksum never matches, even if the damage is only in
        // the header.
        let bytes = piece.bytes.min(DAMAGED_BYTES_MAX) - 1;
        self.push(
            &BlockPiece {
                bytes,
                ..piece.clone()
            },
            last,
        );
    }

    /// Records that an unknown set of keys is lost.
    fn lose(&mut self, what: String) {
        self.unbounded = Some(match self.unbounded.take() {
            Some(before) => format!("{before}, {what}"),
            None => what,
        });
    }
}

/// Maximum length of the index entry of a damaged block, in bytes: a read of the block reads this
/// much.
const DAMAGED_BYTES_MAX: u64 = 64 * 1024;

/// Returns the greatest key below `key`.
fn predecessor(key: &[u8]) -> Vec<u8> {
    match key.split_last() {
        Some((0, shorter)) => shorter.to_vec(),
        Some((last, shorter)) => {
            let mut before = [shorter, &[last - 1]].concat();
            before.resize(KEY_BYTES_MAX.max(before.len()), u8::MAX);
            before
        }
        None => Vec::new(),
    }
}
