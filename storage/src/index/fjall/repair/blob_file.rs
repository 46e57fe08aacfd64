//! Repairs a blob file with a damaged end: writes new properties behind its values.
//!
//! Readers find a value by its position, and each value has a checksum. A damaged or missing value
//! is therefore an error of the single read.

use std::fs;
use std::io;
use std::path::Path;

use lsm_tree::table::block::BlockType;

use super::super::archive::{self, Section};
use super::blocks::BlockFile;
use super::end::NewEnd;

const PROPERTIES_MAGIC: &[u8] = b"META";

/// Repairs a blob file, so that fjall can open it. Creates an empty file if it is missing.
///
/// # Errors
/// Errors of the file system, but for absence.
pub(super) fn repair(path: &Path, id: u64) -> io::Result<()> {
    let data_end = match BlockFile::open(path) {
        Ok(mut blocks) => {
            if is_whole(&mut blocks)? {
                return Ok(());
            }
            blocks.len()
        }
        // The values are lost, but fjall opens the keyspace only if the file exists.
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // The damaged end becomes a part of the data: no key refers to its bytes.
    let data = Section {
        name: b"data".to_vec(),
        at: 0,
        length: data_end,
    };
    let mut end = NewEnd::open(path, vec![data])?;
    end.blob_properties(id)?;
    end.finish()
}

/// Returns whether the table of contents and the properties are intact.
fn is_whole(blocks: &mut BlockFile) -> io::Result<bool> {
    let Ok(sections) = archive::contents(blocks.file())? else {
        return Ok(false);
    };
    let Some(section) = sections.iter().find(|section| section.name == b"meta") else {
        return Ok(false);
    };
    let magic = PROPERTIES_MAGIC.len() as u64;
    if section.length <= magic || blocks.read(section.at, magic)? != PROPERTIES_MAGIC {
        return Ok(false);
    }
    let at = section.at + magic;
    let end = section.at + section.length;
    Ok(blocks.entries_block(at, end, BlockType::Meta)?.is_some())
}
