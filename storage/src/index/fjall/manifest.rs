//! The manifests of fjall's keyspaces, and the files that they name, checked before fjall reads
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
//! fjall compares none of these checksums, removes files that the manifest does not name, and
//! aborts or panics at some damage. The cost is a manifest and two short reads for each file; a
//! deep check reads whole files.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::archive::{self, Fields};

const CURRENT: &str = "current";
const CURRENT_BYTES: usize = 25;
/// 37 bytes for each of some hundred thousand tables.
const LIST_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Damage to a file that can be seen without fjall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// The file.
    pub(crate) path: PathBuf,
    /// What is wrong with it.
    pub(crate) what: String,
    /// True if it hides all other files of its keyspace.
    pub(crate) whole_keyspace: bool,
}

/// What a check of a keyspace has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Damage.
    pub(crate) flaws: Vec<Flaw>,
    /// Number of files that the manifest names.
    pub(crate) files: u64,
    /// Their length in bytes.
    pub(crate) bytes: u64,
}

/// How much of the files is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Whole manifests, and the end of the other files.
    Ends,
    /// Everything.
    Whole,
}

/// A file that a manifest names.
pub(super) struct Named {
    pub(super) kind: FileKind,
    pub(super) id: u64,
    pub(super) path: PathBuf,
    checksum: u128,
    /// The sequence number of all entries of a table that was added as a whole, which none of ours
    /// is.
    pub(super) seqno: u64,
}

/// The kinds of files that a manifest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Table,
    Blob,
}

impl FileKind {
    /// The sections that fjall takes for granted.
    fn sections(self) -> &'static [&'static [u8]] {
        match self {
            Self::Table => &[b"tli", b"meta"],
            Self::Blob => &[b"meta"],
        }
    }
}

/// All damage to one keyspace.
///
/// # Errors
/// Errors of the file system, but for absence.
pub(crate) fn flaws(keyspace: &Path, depth: Depth) -> io::Result<Checked> {
    let named = match manifest(keyspace)? {
        Ok(named) => named,
        Err(flaw) => {
            return Ok(Checked {
                flaws: vec![flaw],
                ..Checked::default()
            });
        }
    };
    let mut checked = Checked::default();
    for file in named {
        let what = present(&file.path, |path| {
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

/// The files that the manifest of a keyspace names, or what is wrong with it.
///
/// # Errors
/// Errors of the file system, but for absence.
pub(super) fn manifest(keyspace: &Path) -> io::Result<Result<Vec<Named>, Flaw>> {
    let current = keyspace.join(CURRENT);
    let mut pointer = None;
    let what = present(&current, |path| {
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
    let what = present(&path, |path| {
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

pub(super) fn version_path(keyspace: &Path, version: u64) -> PathBuf {
    keyspace.join(format!("v{version}"))
}

/// The version and the checksum of the current manifest.
pub(super) fn decode_current(bytes: &[u8]) -> Option<(u64, u128)> {
    let mut fields = Fields(bytes);
    let (version, checksum, kind) = (fields.u64()?, fields.u128()?, fields.u8()?);
    (bytes.len() == CURRENT_BYTES && kind == 0).then_some((version, checksum))
}

/// Makes this version of the manifest the current one.
///
/// # Errors
/// Errors of the file system.
pub(super) fn point_to(keyspace: &Path, version: u64) -> io::Result<()> {
    let checksum = archive::checksum(&version_path(keyspace, version))?;
    let bytes = [&version.to_le_bytes()[..], &checksum.to_le_bytes(), &[0]].concat();
    fs::write(keyspace.join(CURRENT), bytes)
}

/// The files that this manifest names. None if it can't be decoded.
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
    fields.0.is_empty().then_some(named)
}

fn decode_file(fields: &mut Fields<'_>, kind: FileKind, dir: &Path) -> Option<Named> {
    let (id, checksum_type, checksum) = (fields.u64()?, fields.u8()?, fields.u128()?);
    (checksum_type == 0).then(|| Named {
        kind,
        id,
        path: dir.join(id.to_string()),
        checksum,
        seqno: 0,
    })
}

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
    let differs = depth == Depth::Whole && archive::checksum(path)? != named.checksum;
    Ok(differs.then(|| "the checksum of the file does not match".to_owned()))
}

/// What `look` finds wrong, or that the file is missing.
fn present(
    path: &Path,
    look: impl FnOnce(&Path) -> io::Result<Option<String>>,
) -> io::Result<Option<String>> {
    match look(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Some("the file is missing".to_owned()))
        }
        looked => looked,
    }
}
