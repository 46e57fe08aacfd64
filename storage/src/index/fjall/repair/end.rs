//! Appends new ends to fjall's files, behind their contents.
//!
//! ```text
//! table      blocks of entries | .. | index | properties | toc | trailer
//! blob file  values            | .. | "META" properties  | toc | trailer
//! ```
//!
//! Readers follow the trailer at the end of the file. The new end replaces the old one, and all
//! contents keep their offsets.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use lsm_tree::table::block::BlockType;
use lsm_tree::table::{Block, DataBlock, IndexBlock, KeyedBlockHandle};
use lsm_tree::{CompressionType, InternalValue, ValueType};

use super::super::archive::{self, Section};

/// Properties of a table.
pub(super) struct TableProperties {
    pub(super) id: u64,
    pub(super) key_min: Vec<u8>,
    pub(super) key_max: Vec<u8>,
    pub(super) seqno_max: u64,
    pub(super) items: u64,
    pub(super) blocks: u64,
    pub(super) bytes: u64,
}

/// Writer of the new end of a file.
pub(super) struct NewEnd {
    file: File,
    at: u64,
    sections: Vec<Section>,
}

impl NewEnd {
    /// Opens a file for a new end that keeps these sections. Creates the file if it is missing.
    pub(super) fn open(path: &Path, sections: Vec<Section>) -> io::Result<Self> {
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        let at = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, at, sections })
    }

    /// Appends a section.
    fn append(&mut self, name: &[u8], bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        let length = bytes.len() as u64;
        self.sections.push(Section {
            name: name.to_vec(),
            at: self.at,
            length,
        });
        self.at += length;
        Ok(())
    }

    /// Appends the index of a table with at least one block.
    pub(super) fn index(&mut self, blocks: &[KeyedBlockHandle]) -> io::Result<()> {
        let index = IndexBlock::encode_into_vec(blocks).map_err(io::Error::other)?;
        self.append(b"tli", &block(&index, BlockType::Index)?)
    }

    /// Appends the properties of a table.
    pub(super) fn table_properties(&mut self, table: &TableProperties) -> io::Result<()> {
        let entries = [
            entry("block_count#data", &table.blocks.to_le_bytes()),
            // Without filters fjall only reads more blocks.
            entry("block_count#filter", &0_u64.to_le_bytes()),
            entry("block_count#index", &1_u64.to_le_bytes()),
            entry("checksum_type", &[0]),
            entry("compression#data", &[0]),
            entry("compression#index", &[0]),
            entry("crate_version", b"salvaged"),
            entry("created_at", &0_u128.to_le_bytes()),
            entry("data_block_hash_ratio", &0_f32.to_le_bytes()),
            entry("file_size", &table.bytes.to_le_bytes()),
            entry("filter_hash_type", &[0]),
            entry("index_keys_have_seqno", &[1]),
            entry("initial_level", &[0]),
            entry("item_count", &table.items.to_le_bytes()),
            entry("key#max", &table.key_max),
            entry("key#min", &table.key_min),
            entry("key_count", &table.items.to_le_bytes()),
            entry("prefix_truncation#data", &[1]),
            entry("prefix_truncation#index", &[1]),
            entry("restart_interval#data", &[16]),
            entry("restart_interval#index", &[1]),
            entry("seqno#max", &table.seqno_max.to_le_bytes()),
            // fjall skips a table for versions below this minimum. A damaged block may contain any
            // version.
            entry("seqno#min", &0_u64.to_le_bytes()),
            entry("table_id", &table.id.to_le_bytes()),
            entry("table_version", &[3]),
            entry("tombstone_count", &0_u64.to_le_bytes()),
            entry("user_data_size", &table.bytes.to_le_bytes()),
            entry("weak_tombstone_count", &0_u64.to_le_bytes()),
            entry("weak_tombstone_reclaimable", &0_u64.to_le_bytes()),
        ];
        self.append(b"meta", &properties(&entries)?)
    }

    /// Appends the properties of a blob file.
    pub(super) fn blob_properties(&mut self, id: u64) -> io::Result<()> {
        let entries = [
            entry("blob_file_version", &[3]),
            entry("checksum_type", &[0]),
            entry("compression", &[0]),
            entry("crate_version", b"salvaged"),
            entry("created_at", &0_u128.to_le_bytes()),
            entry("file_size", &self.at.to_le_bytes()),
            entry("id", &id.to_le_bytes()),
            entry("item_count", &0_u64.to_le_bytes()),
            entry("key#max", &[]),
            entry("key#min", &[]),
            entry("uncompressed_size", &self.at.to_le_bytes()),
        ];
        self.append(b"meta", &[b"META", &properties(&entries)?[..]].concat())
    }

    /// Appends the table of contents and the trailer.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.file.write_all(&archive::end(&self.sections, self.at))
    }
}

/// Returns a property.
fn entry(name: &str, value: &[u8]) -> InternalValue {
    InternalValue::from_components(name, value, 0, ValueType::Value)
}

/// Encodes a block of properties.
fn properties(entries: &[InternalValue]) -> io::Result<Vec<u8>> {
    let bytes = DataBlock::encode_into_vec(entries, 1, 0.0).map_err(io::Error::other)?;
    block(&bytes, BlockType::Meta)
}

/// Encodes a block with its header.
fn block(data: &[u8], block_type: BlockType) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Block::write_into(&mut bytes, data, block_type, CompressionType::None)
        .map_err(io::Error::other)?;
    Ok(bytes)
}
