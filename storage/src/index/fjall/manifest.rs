//! Checks the manifests of fjall's keyspaces, and the files that they name, before fjall reads
//! them.
//!
//! ```text
//! keyspaces/N/current   version u64 | xxh3 of the manifest u128 | 00
//! keyspaces/N/v{id}     the manifest, an archive: sections "tables", "blob_files" and others
//!   tables              levels u8, in each: runs u8, in each: tables u32, in each: table
//!     table             id u64 | 00 | xxh3 of the file u128 | sequence number u64
//!   blob_files          files u32, in each: id u64 | 00 | xxh3 of the file u128
//! keyspaces/N/tables/I, keyspaces/N/blobs/I   archives
//! ```
//!
//! fjall verifies none of these checksums, removes files that the manifest does not name, and
//! aborts or panics at some kinds of damage. A check with [`Depth::Ends`] reads the manifest and
//! two short ranges of each file. A check with [`Depth::Whole`] reads all files in full.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::archive::{self, Fields};

const CURRENT: &str = "current";
/// version u64 | xxh3 u128 | 00
const CURRENT_BYTES: usize = 25;
/// Maximum size of the list of files in bytes: room for some hundred thousand tables of 37 bytes.
const LIST_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Damage to a file, detected without fjall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// Path of the damaged file.
    pub(crate) path: PathBuf,
    /// Description of the damage.
    pub(crate) what: String,
    /// True if no other file of the keyspace could be checked because of this damage.
    pub(crate) whole_keyspace: bool,
}

/// Result of the check of a keyspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CheckedKeyspace {
    /// Damage that was found.
    pub(crate) flaws: Vec<Flaw>,
    /// Number of files that the manifest names and that exist.
    pub(crate) files: u64,
    /// Total length of these files, in bytes.
    pub(crate) bytes: u64,
}

/// Extent of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Reads whole manifests, and the ends of the other files.
    Ends,
    /// Reads all files in full.
    Whole,
}

/// A file that a manifest names.
pub(super) struct Named {
    pub(super) kind: FileKind,
    pub(super) id: u64,
    pub(super) path: PathBuf,
    checksum: u128,
    /// Sequence number of all entries of a table that was ingested as a whole. 0 for all of our
    /// tables.
    pub(super) seqno: u64,
}

/// Kind of a file that a manifest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Table,
    Blob,
}

impl FileKind {
    /// Returns the sections without which fjall panics.
    fn sections(self) -> &'static [&'static [u8]] {
        match self {
            Self::Table => &[b"tli", b"meta"],
            Self::Blob => &[b"meta"],
        }
    }
}

/// Returns all damage to a keyspace.
///
/// # Errors
/// Errors of the file system, but for absence.
pub(crate) fn flaws(keyspace: &Path, depth: Depth) -> io::Result<CheckedKeyspace> {
    let named = match manifest(keyspace)? {
        Ok(named) => named,
        Err(flaw) => {
            return Ok(CheckedKeyspace {
                flaws: vec![flaw],
                ..CheckedKeyspace::default()
            });
        }
    };
    let mut checked = CheckedKeyspace::default();
    for file in named {
        let what = check_present(&file.path, |path| {
            checked.files += 1;
            checked.bytes += fs::metadata(path)?.len();
            damage(path, &file, depth)
        })?;
        if let Some(what) = what {
            checked.flaws.push(Flaw {
                path: file.path,
                what,
                whole_keyspace: false,
            });
        }
    }
    Ok(checked)
}

/// Returns the files that the current manifest of a keyspace names, or the damage to the manifest.
///
/// # Errors
/// Errors of the file system, but for absence.
pub(super) fn manifest(keyspace: &Path) -> io::Result<Result<Vec<Named>, Flaw>> {
    let current = keyspace.join(CURRENT);
    let mut pointer = None;
    let what = check_present(&current, |path| {
        let bytes = fs::read(path)?;
        pointer = decode_current(&bytes);
        Ok(pointer
            .is_none()
            .then(|| "the pointer to the manifest is damaged".to_owned()))
    })?;
    let Some((version, checksum)) = pointer else {
        return Ok(Err(Flaw {
            path: current,
            what: what.unwrap_or_default(),
            whole_keyspace: true,
        }));
    };
    let path = version_path(keyspace, version);
    let mut named = None;
    let what = check_present(&path, |path| {
        // Before decoding: fjall removes every file that a damaged manifest does not name.
        if archive::checksum(path)? != checksum {
            let what = format!(
                "the checksum of the manifest does not match: pointer={}",
                current.display()
            );
            return Ok(Some(what));
        }
        named = names(keyspace, &mut File::open(path)?)?;
        Ok(named
            .is_none()
            .then(|| "the manifest can't be decoded".to_owned()))
    })?;
    Ok(named.ok_or_else(|| Flaw {
        path,
        what: what.unwrap_or_default(),
        whole_keyspace: true,
    }))
}

/// Returns the path of a version of the manifest.
pub(super) fn version_path(keyspace: &Path, version: u64) -> PathBuf {
    keyspace.join(format!("v{version}"))
}

/// Decodes the pointer to the current manifest: its version and its checksum.
pub(super) fn decode_current(bytes: &[u8]) -> Option<(u64, u128)> {
    let mut fields = Fields(bytes);
    let version = fields.u64()?;
    let checksum = fields.u128()?;
    let kind = fields.u8()?;
    (bytes.len() == CURRENT_BYTES && kind == 0).then_some((version, checksum))
}

/// Points the keyspace to this version of the manifest.
///
/// # Errors
/// Errors of the file system.
pub(super) fn point_to(keyspace: &Path, version: u64) -> io::Result<()> {
    let checksum = archive::checksum(&version_path(keyspace, version))?;
    // Used for salvage copies only, so that a torn write or a missing sync is harmless.
    let bytes = [&version.to_le_bytes()[..], &checksum.to_le_bytes(), &[0]].concat();
    fs::write(keyspace.join(CURRENT), bytes)
}

/// Returns the files that a manifest names, or `None` if the manifest cannot be decoded.
///
/// # Errors
/// Errors of the file system.
pub(super) fn names(keyspace: &Path, manifest: &mut File) -> io::Result<Option<Vec<Named>>> {
    let Ok(sections) = archive::contents(manifest)? else {
        return Ok(None);
    };
    let tables = archive::section(manifest, &sections, b"tables", LIST_BYTES_MAX)?;
    let blobs = archive::section(manifest, &sections, b"blob_files", LIST_BYTES_MAX)?;
    Ok(tables.zip(blobs).and_then(|(tables, blobs)| {
        let mut named = decode_tables(&tables, &keyspace.join("tables"))?;
        named.extend(decode_blobs(&blobs, &keyspace.join("blobs"))?);
        Some(named)
    }))
}

fn decode_tables(bytes: &[u8], dir: &Path) -> Option<Vec<Named>> {
    let mut fields = Fields(bytes);
    let mut named = Vec::new();
    for _ in 0..fields.u8()? {
        for _ in 0..fields.u8()? {
            for _ in 0..fields.u32()? {
                let table = decode_file(&mut fields, FileKind::Table, dir)?;
                named.push(Named {
                    seqno: fields.u64()?,
                    ..table
                });
            }
        }
    }
    fields.0.is_empty().then_some(named)
}

fn decode_blobs(bytes: &[u8], dir: &Path) -> Option<Vec<Named>> {
    let mut fields = Fields(bytes);
    let mut named = Vec::new();
    for _ in 0..fields.u32()? {
        named.push(decode_file(&mut fields, FileKind::Blob, dir)?);
    }
    // Remaining bytes mean an unknown format: reject the list rather than miss files.
    fields.0.is_empty().then_some(named)
}

fn decode_file(fields: &mut Fields<'_>, kind: FileKind, dir: &Path) -> Option<Named> {
    let id = fields.u64()?;
    let checksum_type = fields.u8()?;
    let checksum = fields.u128()?;
    // 0 is xxh3, the only type that fjall writes.
    (checksum_type == 0).then(|| Named {
        kind,
        id,
        path: dir.join(id.to_string()),
        checksum,
        seqno: 0,
    })
}

/// Returns the damage to a file that the manifest names.
fn damage(path: &Path, named: &Named, depth: Depth) -> io::Result<Option<String>> {
    let sections = match archive::contents(&mut File::open(path)?)? {
        Ok(sections) => sections,
        Err(what) => return Ok(Some(what)),
    };
    for name in named.kind.sections() {
        if !sections.iter().any(|section| section.name == *name) {
            return Ok(Some(format!(
                "a section is missing: section={}",
                String::from_utf8_lossy(name)
            )));
        }
    }
    // The sections above guarantee only that fjall does not panic. Damage inside of them needs a
    // full read.
    let differs = depth == Depth::Whole && archive::checksum(path)? != named.checksum;
    Ok(differs.then(|| "the checksum of the file does not match".to_owned()))
}

/// Returns the damage that `check` finds. A missing file is damage, too.
fn check_present(
    path: &Path,
    check: impl FnOnce(&Path) -> io::Result<Option<String>>,
) -> io::Result<Option<String>> {
    // A missing file is a flaw of the index. Every other error means that nothing is known.
    match check(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Some("the file is missing".to_owned()))
        }
        checked => checked,
    }
}
