//! Repairs the manifest of a keyspace of a copy: restores its pointer, and removes lost tables from
//! it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::super::archive::{self, Fields, Section};
use super::super::manifest::{self, Flaw, Named};

/// Maximum length of a section in bytes. A manifest has about eight short sections.
const SECTION_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// id u64 | 00 | xxh3 of the file u128 | sequence number u64
const TABLE_BYTES: usize = 33;

/// Returns the files that the manifest names. If the pointer to the manifest is damaged, the
/// manifest is identified without the pointer, and the pointer is written again.
///
/// # Errors
/// Errors of the file system, but for absence.
pub(super) fn current(keyspace: &Path) -> io::Result<Result<Vec<Named>, Flaw>> {
    let flaw = match manifest::manifest(keyspace)? {
        Ok(named) => return Ok(Ok(named)),
        Err(flaw) => flaw,
    };
    let Some((version, named)) = identify(keyspace)? else {
        return Ok(Err(flaw));
    };
    // Only the pointer contains a checksum of the manifest. The garbage statistics are emptied,
    // because fjall trusts the count that they begin with.
    rewrite(keyspace, version, |name, content| match name {
        b"blob_gc_stats" => Some(0_u32.to_le_bytes().to_vec()),
        _ => Some(content),
    })?;
    Ok(Ok(named))
}

/// Returns the manifest if it can be identified: the pointer contains its checksum; or the pointer
/// names no other manifest, and the manifest names exactly the existing files. Two such manifests
/// contain the same entries, and the newer manifest is taken.
fn identify(keyspace: &Path) -> io::Result<Option<(u64, Vec<Named>)>> {
    let mut versions: Vec<u64> = Vec::new();
    for name in names(keyspace)? {
        versions.extend(
            name.strip_prefix('v')
                .and_then(|version| version.parse::<u64>().ok()),
        );
    }
    versions.sort_unstable();
    let pointer = manifest::decode_current(&read(&keyspace.join("current"))?);
    let mut existing = BTreeSet::new();
    for directory in ["tables", "blobs"] {
        let directory = keyspace.join(directory);
        existing.extend(
            names(&directory)?
                .into_iter()
                .map(|name| directory.join(name)),
        );
    }
    // The newest version first: of equal manifests the newer one is taken.
    for version in versions.into_iter().rev() {
        let path = manifest::version_path(keyspace, version);
        let Some(named) = manifest::names(keyspace, &mut File::open(&path)?)? else {
            continue;
        };
        let is_pointed_to = match pointer {
            Some((_, checksum)) if checksum == archive::checksum(&path)? => {
                return Ok(Some((version, named)));
            }
            Some((pointed, _)) => pointed == version,
            None => true,
        };
        let expected: BTreeSet<PathBuf> = named.iter().map(|named| named.path.clone()).collect();
        // No table of this build has a sequence number of its own. If one does, do not guess.
        if is_pointed_to && existing == expected && named.iter().all(|named| named.seqno == 0) {
            return Ok(Some((version, named)));
        }
    }
    Ok(None)
}

/// Removes these tables from the current manifest.
///
/// # Errors
/// Errors of the file system; [`io::ErrorKind::InvalidData`] if the manifest cannot be decoded,
/// which was possible before.
pub(super) fn forget(keyspace: &Path, lost: &[u64]) -> io::Result<()> {
    let pointer = manifest::decode_current(&read(&keyspace.join("current"))?);
    let (version, _) = pointer.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    rewrite(keyspace, version, |name, content| match name {
        b"tables" => without(&content, lost),
        _ => Some(content),
    })
}

/// Rewrites a manifest with edited sections, and points the keyspace to it.
fn rewrite(
    keyspace: &Path,
    version: u64,
    edit: impl Fn(&[u8], Vec<u8>) -> Option<Vec<u8>>,
) -> io::Result<()> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the manifest can't be decoded");
    let path = manifest::version_path(keyspace, version);
    let mut file = File::open(&path)?;
    let old = archive::contents(&mut file)?.map_err(|_| wrong())?;
    let mut bytes = Vec::new();
    let mut sections = Vec::new();
    for Section { name, .. } in &old {
        let content =
            archive::section(&mut file, &old, name, SECTION_BYTES_MAX)?.ok_or_else(wrong)?;
        let content = edit(name, content).ok_or_else(wrong)?;
        sections.push(Section {
            name: name.clone(),
            at: bytes.len() as u64,
            length: content.len() as u64,
        });
        bytes.extend(content);
    }
    let at = bytes.len() as u64;
    bytes.extend(archive::end(&sections, at));
    // Only in a copy: the copy is discarded if the salvage is interrupted here.
    fs::write(&path, bytes)?;
    manifest::point_to(keyspace, version)
}

/// Returns the list of tables without the lost tables. Empty runs are removed, because fjall
/// rejects them.
fn without(tables: &[u8], lost: &[u64]) -> Option<Vec<u8>> {
    let mut fields = Fields(tables);
    let levels = fields.u8()?;
    let mut kept = vec![levels];
    for _ in 0..levels {
        let mut runs = Vec::new();
        for _ in 0..fields.u8()? {
            let mut run = Vec::new();
            for _ in 0..fields.u32()? {
                let table = fields.take(TABLE_BYTES)?;
                let id = Fields(table).u64()?;
                run.extend(Some(table).filter(|_| !lost.contains(&id)));
            }
            runs.extend(Some(run).filter(|run| !run.is_empty()));
        }
        kept.push(u8::try_from(runs.len()).ok()?);
        for run in runs {
            kept.extend(u32::try_from(run.len()).ok()?.to_le_bytes());
            kept.extend(run.concat());
        }
    }
    fields.0.is_empty().then_some(kept)
}

/// Returns the names of the files in a directory. Empty if the directory is absent.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Reads a file. Returns no bytes if the file is absent.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}
