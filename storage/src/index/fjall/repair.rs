//! Repairs the files of a copy of an index, so that fjall can open them.
//!
//! | damaged or missing | repair |
//! |---|---|
//! | end of a table | a new end: index and properties from the blocks (`repair/table.rs`) |
//! | whole table: file, or all blocks and properties | removed from the manifest |
//! | blob file, or its end | a new end, or an empty file (`repair/blob_file.rs`) |
//! | pointer to the manifest | a new pointer, if a manifest qualifies (`repair/manifest.rs`) |
//! | manifest | none: only the manifest names the valid tables and their order of age |
//!
//! These repairs must never run on an index in use, or on the original of a copy.

use std::io;
use std::path::{Path, PathBuf};

use super::manifest::{FileKind, Flaw};
use crate::index::Table;

mod blob_file;
mod blocks;
mod end;
mod manifest;
mod table;

use table::Mended;

/// A table file that is lost in part or in full, with an unknown set of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostFile {
    /// Table of the index.
    pub table: Table,
    /// Path of the file, relative to the directory of the database.
    pub file: PathBuf,
    /// Description of the damage.
    pub why: String,
}

/// Repairs a keyspace of a copy, so that fjall can open it. Returns the ids of the table files that
/// lost keys, with the reason. Returns a flaw that cannot be repaired as `Err`.
///
/// # Errors
/// Errors of the file system, but for absence.
pub(super) fn keyspace(keyspace: &Path) -> io::Result<Result<Vec<(u64, String)>, Flaw>> {
    let named = match manifest::current(keyspace)? {
        Ok(named) => named,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let mut losses = Vec::new();
    let mut lost = Vec::new();
    for file in named {
        match file.kind {
            FileKind::Table => match table::repair(&file.path, file.id)? {
                Mended::Whole => {}
                Mended::Unbounded(why) => losses.push((file.id, why)),
                Mended::Lost(why) => {
                    losses.push((file.id, why));
                    lost.push(file.id);
                }
            },
            FileKind::Blob => blob_file::repair(&file.path, file.id)?,
        }
    }
    // fjall does not open a keyspace whose manifest names a missing table.
    if !lost.is_empty() {
        manifest::forget(keyspace, &lost)?;
    }
    Ok(Ok(losses))
}

#[cfg(test)]
mod tests;
