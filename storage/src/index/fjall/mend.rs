//! The files of a copy of an index, made such that fjall opens them.
//!
//! | damaged or missing | made of it |
//! |---|---|
//! | the end of a table | a new end: index and properties from the blocks (`mend/table.rs`) |
//! | a table that is missing, or has no intact block and no properties | no longer named by the manifest |
//! | the end of a blob file, or the whole of it | a new end, or an empty file (`mend/blob_file.rs`) |
//! | the pointer to the manifest | a new one, if there is no doubt which manifest is meant (`mend/manifest.rs`) |
//! | the manifest | nothing: only the manifest names the tables that count, and which of them is newer |
//!
//! Nothing here is run on an index that is in use, or on the original of a copy.

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

/// A table file that is lost in part or as a whole, and of which it is not known what keys it held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostFile {
    /// The table of the index.
    pub table: Table,
    /// The file, from the directory of the database on.
    pub file: PathBuf,
    /// The damage.
    pub why: String,
}

/// Makes a keyspace of a copy one that fjall can open: the table files that are lost, and why. A
/// flaw that is returned is one that can't be mended.
///
/// # Errors
/// Errors of the file system, but for absence.
pub(super) fn keyspace(keyspace: &Path) -> io::Result<Result<Vec<(u64, String)>, Flaw>> {
    let named = match manifest::current(keyspace)? {
        Ok(named) => named,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let (mut losses, mut lost) = (Vec::new(), Vec::new());
    for file in named {
        match file.kind {
            FileKind::Table => match table::mend(&file.path, file.id)? {
                Mended::Whole => {}
                Mended::Unbounded(why) => losses.push((file.id, why)),
                Mended::Lost(why) => {
                    losses.push((file.id, why));
                    lost.push(file.id);
                }
            },
            FileKind::Blob => blob_file::mend(&file.path, file.id)?,
        }
    }
    if !lost.is_empty() {
        manifest::forget(keyspace, &lost)?;
    }
    Ok(Ok(losses))
}

#[cfg(test)]
mod tests;
