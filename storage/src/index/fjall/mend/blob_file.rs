//! A blob file of a copy whose end is damaged: its values get new properties.
//!
//! A value is found by its position, and has a checksum of its own. One that is damaged, or whose
//! file is missing, is an error of the one read.

use std::fs;
use std::io;
use std::path::Path;

use lsm_tree::table::block::BlockType;

use super::super::archive::{self, Section};
use super::blocks::Blocks;
use super::end::NewEnd;

const PROPERTIES_MAGIC: &[u8] = b"META";

/// Makes a blob file one that fjall can open; an empty one if it is missing.
///
/// # Errors
/// Errors of the file system, but for absence.
pub(super) fn mend(path: &Path, id: u64) -> io::Result<()> {
    let data_end = match Blocks::open(path) {
        Ok(mut blocks) => {
            if is_whole(&mut blocks)? {
                return Ok(());
            }
            blocks.len()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let data = Section {
        name: b"data".to_vec(),
        at: 0,
        length: data_end,
    };
    let mut end = NewEnd::open(path, vec![data])?;
    end.blob_properties(id)?;
    end.finish()
}

fn is_whole(blocks: &mut Blocks) -> io::Result<bool> {
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
    let (at, end) = (section.at + magic, section.at + section.length);
    Ok(blocks.entries_block(at, end, BlockType::Meta)?.is_some())
}
